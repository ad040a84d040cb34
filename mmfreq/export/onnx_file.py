"""The packages of the extra [export], which the rest of mmfreq does without."""

import copy
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmfreq.errors import UserError
from mmfreq.export.graphs import InHalf
from mmfreq.speed.fixed_size import at_fixed_size
from mmfreq.speed.optimizing import holds_backbone, optimize
from mmfreq.version import __version__


class MissingExtraError(UserError, ImportError):
    """A package of the extra is not installed."""


def extra(name: str) -> ModuleType:
    """The module of this name.

    Raises:
        MissingExtraError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"exporting needs {name}, which does not import ({error}): pip install 'mmfreq[export]'") from error


# ONNX files by torch's exporter, without Fourier or complex operators, with what a user of the file has to know inside.
#
# A runtime needs nothing but matrix products, convolutions and elementwise operators: the Fourier transforms of the spectral layers
# are products with constant real matrices, for which the size of the images is fixed.


OPSET = 18
SPECTRAL_OPERATORS = ('DFT', 'STFT')
PRECISIONS = ('fp32', 'fp16')
BACKENDS = ('matmul', 'fft')


@dataclass(frozen=True)
class Exported:
    """A file, the operators in it, and the model for images of its size, in float32 and not optimised."""

    path: Path
    operators: Counter[str]
    metadata: dict[str, str]
    model: nn.Module

    @property
    def spectral(self) -> dict[str, int]:
        """Fourier and complex operators among them."""
        return {name: n for name, n in self.operators.items() if name in SPECTRAL_OPERATORS or 'Complex' in name}


def export_onnx(
    model: nn.Module,
    size: tuple[int, int],
    path: str | Path,
    *,
    backend: str = 'matmul',
    precision: str = 'fp32',
    dynamic_batch: bool = False,
    channels: int = 3,
    optimized: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Exported:
    """Write `model` as an ONNX file for images of one size.

    Args:
        model: from images to a tensor or a tuple of tensors, without random numbers; it is left as it is.
        size: (H, W) of the images.
        backend: 'matmul' for a graph without Fourier operators; 'fft' for one with ONNX's DFT, which few runtimes have.
        precision: of weights and computation, 'fp32' or 'fp16'; inputs and outputs stay float32, transforms too.
        dynamic_batch: the number of images is open; else it is 1.
        optimized: write `mmfreq.optimize(model)`, if there is a backbone of mmfreq in it.
        metadata: more of what the file should say about itself; what is no string is written as JSON.

    Raises:
        ValueError: unknown backend or precision.
        MissingExtraError: onnx or onnxscript is missing.
        RuntimeError: the graph has Fourier or complex operators with 'matmul'.
    """
    for what, value, known in (('precision', precision, PRECISIONS), ('backend', backend, BACKENDS)):
        if value not in known:
            raise ValueError(f"{what} '{value}' is unknown; choose one of {', '.join(known)}")
    onnx, _ = extra('onnx'), extra('onnxscript')
    path = Path(path)
    images = torch.zeros(2 if dynamic_batch else 1, channels, *size)
    model = at_fixed_size(model, images, backend)
    graph = optimize(model) if optimized and holds_backbone(model) else model
    graph = graph if precision == 'fp32' else InHalf(copy.deepcopy(graph))
    proto = _traced(graph, images, dynamic_batch)
    told = {'mmfreq_version': __version__, 'size': list(size), 'spectral': backend, 'precision': precision, **(metadata or {})}
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    onnx.helper.set_model_props(proto, told)
    proto.producer_name, proto.producer_version = 'mmfreq', __version__
    onnx.checker.check_model(proto, full_check=True)
    found = Exported(path, operators_of(proto), told, model)
    if backend == 'matmul' and found.spectral:
        raise RuntimeError(
            f'the graph has {found.spectral}, for which few runtimes have an implementation; please report the model'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return found


def _traced(graph: nn.Module, images: Tensor, dynamic_batch: bool):
    """The ONNX model of torch's exporter."""
    with torch.no_grad():
        outputs = graph(images)
    names = ['output'] if isinstance(outputs, Tensor) else [f'output_{i}' for i in range(len(outputs))]
    shapes = ({0: torch.export.Dim('batch', min=1)},) if dynamic_batch else None
    with torch.no_grad(), redirect_stdout(StringIO()):
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=['images'],
            output_names=names,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    return program.model_proto


def operators_of(proto) -> Counter[str]:
    """How often each operator occurs, in functions and in the branches of a graph too."""
    found: Counter[str] = Counter()
    todo = [proto.graph, *proto.functions]
    while todo:
        for node in todo.pop().node:
            found[node.op_type] += 1
            todo += [attribute.g for attribute in node.attribute if attribute.HasField('g')]
    for function in proto.functions:
        found.pop(function.name, None)
    return found
