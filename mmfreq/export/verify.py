"""Compares an exported file in onnxruntime with the model in PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.analysis.images import load_images, normalize, synthetic_images
from mmfreq.apis.loading import Normalization
from mmfreq.apis.reading import ImageReader
from mmfreq.export.onnx_file import further_inputs, require

TOLERANCES = {'fp32': 1e-4, 'fp16': 2e-2}  # of the largest difference, relative to the largest value
LABEL_TOLERANCE = 1e-3  # fraction of pixels; two classes may have almost equal logits


@dataclass(frozen=True)
class Difference:
    """The difference of one output for one input.

    Attributes:
        input: name of the input.
        output: name of the output.
        largest, mean: absolute difference relative to the largest value of the model's output. For integer outputs both are the
            fraction of values that differ.
        tolerance: of `largest`.
    """

    input: str
    output: str
    largest: float
    mean: float
    tolerance: float

    @property
    def within(self) -> bool:
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        verdict = 'within' if self.within else 'ABOVE'
        return f'{self.input}, {self.output}: max {self.largest:.1e}, mean {self.mean:.1e}, {verdict} {self.tolerance:g}'


@torch.no_grad()
def verify(path: str | Path, model: nn.Module, inputs: Mapping[str, Tensor], precision: str = 'fp32') -> list[Difference]:
    """Compare a file in onnxruntime on the CPU with the model in PyTorch, for each input and output.

    Args:
        inputs: images by name; inputs after the images are those of the model's `further_inputs`.
        precision: of the file; determines the tolerance.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    onnxruntime = require('onnxruntime')
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    differences = []
    for name, images in inputs.items():
        given = (images, *further_inputs(model, images))
        actual = session.run(None, {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), given, strict=True)})
        expected = model(*given)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        for output, a, b in zip(session.get_outputs(), actual, expected, strict=True):
            differences.append(_difference(name, output.name, a, b.numpy(), TOLERANCES[precision]))
    return differences


def comparison_inputs(
    size: tuple[int, int], normalization: Normalization, image: str | Path | None = None, read: ImageReader | None = None
) -> dict[str, Tensor]:
    """Two inputs of random numbers and an image, by name.

    Args:
        size: (H, W).
        image: file; by default a synthetic image.
        read: reads the file; by default as color images are read.

    Shape:
        Each `(1, C, H, W)`, one channel for each mean of the normalization.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image with this number of channels, or the size is too small for any backbone.
    """
    generator = torch.Generator().manual_seed(0)
    channels = len(normalization.mean)
    inputs = {f'random input {i}': torch.randn(1, channels, *size, generator=generator) for i in (1, 2)}
    pixels = load_images([image], size, 1, (read or ImageReader()).bands) if image else synthetic_images(size, 1, channels)
    name = Path(image).name if image else 'synthetic image'
    return inputs | {name: normalize(pixels, normalization.mean, normalization.std, normalization.channels)}


def _difference(name: str, output: str, actual: np.ndarray, expected: np.ndarray, tolerance: float) -> Difference:
    if actual.shape != expected.shape:
        return Difference(name, output, float('inf'), float('inf'), tolerance)
    if not np.issubdtype(expected.dtype, np.floating):
        fraction = float((actual != expected).mean())
        return Difference(name, output, fraction, fraction, LABEL_TOLERANCE)
    difference = np.abs(actual.astype(np.float64) - expected)
    scale = max(float(np.abs(expected).max()), 1e-30)
    largest = float(difference.max()) / scale
    return Difference(name, output, largest if largest == largest else float('inf'), float(difference.mean()) / scale, tolerance)
