"""Writes ONNX files with PyTorch's exporter, without Fourier or complex operators, and with metadata for the users of the file.

A runtime needs only matrix products, convolutions and element-wise operators: the Fourier transforms of the spectral layers are
products with real matrices: constant ones for one image size, or with `dynamic` ones that the graph makes from the shape.
"""

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmfreq.errors import UserError
from mmfreq.export.gelu import reorder_gelus
from mmfreq.export.open_size import check_open, for_open_size, open_axes, trace_size, traceable
from mmfreq.speed.fixed_size import at_fixed_size
from mmfreq.speed.optimizing import has_backbone, optimize
from mmfreq.version import __version__

OPSET = 18
NO_LIMIT = 2**62
SPECTRAL_OPERATORS = ('DFT', 'STFT')
PRECISIONS = ('fp32', 'fp16')
BACKENDS = ('matmul', 'fft')


class MissingExtraError(UserError, ImportError):
    """A package of the extra [export] is not installed."""


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        operators: how often each ONNX operator occurs in it.
        metadata: of the file.
        model: the PyTorch model for the size of the file (with `dynamic`: for any), in float32 and without `mmfreq.optimize`.
    """

    path: Path
    operators: Counter[str]
    metadata: dict[str, str]
    model: nn.Module

    @property
    def spectral(self) -> dict[str, int]:
        """The Fourier and complex operators in the file."""
        return {name: n for name, n in self.operators.items() if name in SPECTRAL_OPERATORS or 'Complex' in name}


@torch.autocast('cpu', enabled=False)  # which the exporter cannot write
def export_onnx(
    model: nn.Module,
    size: tuple[int, int],
    path: str | Path,
    *,
    backend: str = 'matmul',
    precision: str = 'fp32',
    dynamic_batch: bool = False,
    dynamic: bool = False,
    channels: int = 3,
    optimized: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Exported:
    """Write `model` as an ONNX file for images of one size, or of any size. The model is not changed.

    Args:
        model: from images to a tensor or a tuple of tensors, without random numbers. Its optional attributes `input_names` and
            `output_names` name the inputs and outputs of the file; its optional method `further_inputs(images)` returns examples
            of the inputs after the images.
        size: (H, W) of the images; not used with `dynamic`.
        backend: 'matmul' for a graph without Fourier operators; 'fft' for one with ONNX's DFT, which few runtimes implement.
        precision: of weights and computation, 'fp32' or 'fp16'; inputs, outputs and transforms stay float32.
        dynamic_batch: allow any number of images; otherwise it is 1.
        dynamic: allow any number of images of any size. The graph then computes transforms and resized filters from the shape. The
            graph's optional attribute `open_axes` restricts the open axes. Further inputs keep the shapes of their examples.
        optimized: export `mmfreq.optimize(model)` if the model contains a backbone of mmfreq.
        metadata: more entries for the metadata of the file; values that are not strings are written as JSON.

    Raises:
        ValueError: unknown backend or precision, or the backend 'fft' with `dynamic`.
        MissingExtraError: onnx or onnxscript is not installed.
        UserError: a part of the model needs a fixed size, with `dynamic`.
        RuntimeError: the graph has Fourier or complex operators with 'matmul'.
    """
    for name, value, known in (('precision', precision, PRECISIONS), ('backend', backend, BACKENDS)):
        if value not in known:
            raise ValueError(f"{name} '{value}' is unknown; choose one of {', '.join(known)}")
    if dynamic and backend != 'matmul':
        raise ValueError(f"dynamic=True needs the backend 'matmul', got '{backend}': ONNX's DFT is exported for one size only")
    onnx, _ = require('onnx'), require('onnxscript')
    model, path = plain_float32(model), Path(path)
    axes = open_axes(model) if dynamic else {'batch': 0} if dynamic_batch else {}
    size = trace_size(model) if dynamic else size
    images = torch.zeros(2 if 'batch' in axes else 1, channels, *size)
    if dynamic:
        model, graph = copy.deepcopy(model).eval(), for_open_size(model)
    else:
        model = graph = at_fixed_size(model, images, backend, further=further_inputs(model, images))
    graph = optimize(graph) if optimized and has_backbone(graph) else graph
    graph = graph if precision == 'fp32' else in_half_precision(copy.deepcopy(graph))
    with traceable(graph, axes) if dynamic else nullcontext():
        proto = _traced(graph, images, axes)
    reorder_gelus(proto.graph)
    check_open(proto, axes)
    entries = {
        'mmfreq_version': __version__,
        'size': list(size),
        'dynamic': list(axes),
        'spectral': backend,
        'precision': precision,
    }
    entries = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in (entries | dict(metadata or {})).items()
    }
    onnx.helper.set_model_props(proto, entries)
    proto.producer_name, proto.producer_version = 'mmfreq', __version__
    onnx.checker.check_model(proto, full_check=True)
    exported = Exported(path, operators_of(proto), entries, model)
    if backend == 'matmul' and exported.spectral:
        raise RuntimeError(
            f'Expected a graph without Fourier or complex operators, but the graph has {exported.spectral}. '
            "Compute the transforms with mmfreq.ops, or export with backend='fft'."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return exported


def require(name: str) -> ModuleType:
    """Import a package of the extra [export], which the rest of mmfreq does not need.

    Raises:
        MissingExtraError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"Exporting needs the package {name}, which cannot be imported ({error}). Run pip install 'mmfreq[export]'."
        ) from error


def plain_float32(model: nn.Module) -> nn.Module:
    """`model` without `torch.compile`; a float32 copy if it has parameters of another dtype."""
    model = getattr(model, '_orig_mod', model)
    return model if all(p.dtype == torch.float32 for p in model.parameters()) else copy.deepcopy(model).float()


def in_half_precision(model: nn.Module) -> nn.Module:
    """`model`, changed to compute in float16 with float32 inputs and outputs."""
    model.half()
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].half(), *inputs[1:]))
    model.register_forward_hook(
        lambda *args: as_float32(args[-1]) if isinstance(args[-1], Tensor) else tuple(as_float32(output) for output in args[-1])
    )
    return model


def as_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it has a floating-point dtype."""
    return x.float() if x.is_floating_point() else x


def further_inputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Examples of the inputs after the images that a graph declares by its method `further_inputs`; none by default."""
    method = getattr(model, 'further_inputs', None)
    return () if method is None else tuple(method(images))


def names_of(model: nn.Module, outputs: Tensor | Sequence[Tensor]) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs in the file."""
    numbered = ['output'] if isinstance(outputs, Tensor) else [f'output_{i}' for i in range(len(outputs))]
    return list(getattr(model, 'input_names', ('images',))), list(getattr(model, 'output_names', numbered))


@torch.no_grad()
def _traced(graph: nn.Module, images: Tensor, axes: Mapping[str, int]):
    """The ONNX model of PyTorch's exporter."""
    further = further_inputs(graph, images)
    input_names, output_names = names_of(graph, graph(images, *further))
    # by names, for which the exporter takes Dim.DYNAMIC: Dim.AUTO could fix an axis without an error
    shapes = ({axis: name for name, axis in axes.items()}, *(None for _ in further)) if axes else None
    with redirect_stdout(StringIO()):
        exported = torch.onnx.export(
            graph,
            (images, *further),
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    # torch folds small constants only; without a limit, the parts and transposes of filters are stored instead of computed
    require('onnxscript.optimizer').optimize_ir(exported.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    return exported.model_proto


def operators_of(proto) -> Counter[str]:
    """How often each operator occurs, including those in functions and in the branches of control flow."""
    operators: Counter[str] = Counter()
    graphs = [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            operators[node.op_type] += 1
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField('g')]
    for function in proto.functions:
        operators.pop(function.name, None)
    return operators
