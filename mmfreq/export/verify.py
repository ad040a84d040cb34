"""Inputs on which an exported file is compared with its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.analysis.images import drawn_scenes, load_images, normalised
from mmfreq.apis.loading import Normalization
from mmfreq.export.onnx_file import extra


def comparison_inputs(size: tuple[int, int], normalization: Normalization, picture: str | Path | None = None) -> dict[str, Tensor]:
    """Two inputs of random numbers and a picture, by name.

    Args:
        size: (H, W).
        picture: file; a drawn scene by default.

    Shape:
        Each `(1, 3, H, W)`.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is no picture; sides that no backbone takes.
    """
    generator = torch.Generator().manual_seed(0)
    found = {f'random input {i}': torch.randn(1, 3, *size, generator=generator) for i in (1, 2)}
    pixels = load_images([picture], size, 1) if picture else drawn_scenes(size, 1)
    name = Path(picture).name if picture else 'drawn scene'
    return found | {name: normalised(pixels, normalization.mean, normalization.std, normalization.channels)}


# Whether an exported file gives what the model gives, in onnxruntime.


TOLERANCES = {'fp32': 1e-4, 'fp16': 2e-2}  # of the largest difference, relative to the largest value
OTHER_LABELS = 1e-3  # share of pixels, where two classes are as good as equal


@dataclass(frozen=True)
class Difference:
    """Of one output for one input: largest and mean difference over the largest value of the model's own output.

    For integer outputs both are the share of values that differ.
    """

    of: str
    output: str
    largest: float
    mean: float
    tolerance: float

    @property
    def within(self) -> bool:
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        verdict = 'within' if self.within else 'ABOVE'
        return f'{self.of}, {self.output}: max {self.largest:.1e}, mean {self.mean:.1e}, {verdict} {self.tolerance:g}'


@torch.no_grad()
def verify(path: str | Path, model: nn.Module, inputs: Mapping[str, Tensor], precision: str = 'fp32') -> list[Difference]:
    """Differences between a file in onnxruntime on the CPU and the model in PyTorch, for each input and output.

    Args:
        inputs: images by what they are called in the report.
        precision: of the file; says what is tolerated.

    Raises:
        MissingExtraError: onnxruntime is missing.
    """
    onnxruntime = extra('onnxruntime')
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    found = []
    for name, images in inputs.items():
        got = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        want = model(images)
        want = (want,) if isinstance(want, Tensor) else want
        for output, a, b in zip(session.get_outputs(), got, want, strict=True):
            found.append(_difference(name, output.name, a, b.numpy(), TOLERANCES[precision]))
    return found


def _difference(of: str, output: str, got: np.ndarray, want: np.ndarray, tolerance: float) -> Difference:
    if got.shape != want.shape:
        return Difference(of, output, float('inf'), float('inf'), tolerance)
    if not np.issubdtype(want.dtype, np.floating):
        share = float((got != want).mean())
        return Difference(of, output, share, share, OTHER_LABELS)
    off = np.abs(got.astype(np.float64) - want)
    scale = max(float(np.abs(want).max()), 1e-30)
    largest = float(off.max()) / scale
    return Difference(of, output, largest if largest == largest else float('inf'), float(off.mean()) / scale, tolerance)
