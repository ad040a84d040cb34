"""What layers see and say while a model runs."""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GnConv, StoredFilter
from mmfreq.layers.basic import to_bchw
from mmfreq.layers.filters import as_grid
from mmfreq.ops import block_mlp, irfft2, rfft2

Key = TypeVar('Key', bound=Hashable)
Seen = TypeVar('Seen')


@torch.no_grad()
def record_calls(
    run: Callable[[], Any], modules: Mapping[Key, nn.Module], look: Callable[[nn.Module, Tensor, Tensor], Seen]
) -> dict[Key, Seen]:
    """`look(module, input, output)` of the first call of each module during `run()`, in the order of the calls.

    Without gradients. Modules that are not called are absent; the hooks are gone afterwards.
    """
    seen: dict[Key, Seen] = {}

    def hook_for(key: Key) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if key not in seen:
                seen[key] = look(module, args[0], output)

        return hook

    handles = [module.register_forward_hook(hook_for(key)) for key, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


# Which layers of a model have something to draw, and which of them to take where nobody says.


# what can be drawn -> (layers that have it, what it is in words)
KINDS: dict[str, tuple[type[nn.Module], str]] = {
    'filters': (StoredFilter, 'stored filters (GFNet, HorNet-GF, DFFormer, GFFormer)'),
    'gating': (GnConv, 'gated products of gnConv (HorNet, HorFPN)'),
    'routing': (DynamicFilter, 'routing of dynamic filters (DFFormer)'),
    'masks': (AdaptiveFrequencyFilter, 'masks of adaptive frequency filters (AFFNet)'),
}
NAMES_IN_ERRORS = 12


@dataclass(frozen=True)
class Choice:
    """The layers of one kind that were taken, by name in the order of the model, and how many there were to choose from."""

    layers: dict[str, nn.Module]
    of: int


def choose_layers(model: nn.Module, draw: Collection[str] = (), pattern: str = '*', most: int = 4) -> dict[str, Choice]:
    """The layers to draw, by kind; at most `most` of each, spread over the stages and within them.

    Args:
        draw: keys of `KINDS`; empty for all that the model has.
        pattern: glob for the layers' names, or for a run of whole parts of them: 'stages.2' is everything below it.

    Raises:
        ValueError: unknown kind, the model has none of them, or no such layer matches; what there is is named.
    """
    if unknown := sorted(set(draw) - set(KINDS)):
        raise ValueError(f'cannot draw {", ".join(unknown)}; choose from {", ".join(KINDS)}')
    if most < 1:
        raise ValueError(f'at most {most} layers are asked for; it must be at least 1')
    there = {kind: _layers(model, kind) for kind in KINDS}
    there = {kind: layers for kind, layers in there.items() if layers}
    if lacking := [kind for kind in draw or KINDS if kind not in there and (draw or not there)]:
        has = f'it has {", ".join(there)}' if there else 'choose a model of another family'
        raise ValueError(f'{type(model).__name__} has no {", no ".join(KINDS[kind][1] for kind in lacking)}; {has}')
    wanted = {kind: layers for kind, layers in there.items() if not draw or kind in draw}
    found = {kind: [name for name in layers if matches(name, pattern)] for kind, layers in wanted.items()}
    if not any(found.values()):
        names = list(dict.fromkeys(name for layers in wanted.values() for name in layers))
        more = f' and {len(names) - NAMES_IN_ERRORS} more' if len(names) > NAMES_IN_ERRORS else ''
        raise ValueError(f"no layer that can be drawn matches '{pattern}'; there are {', '.join(names[:NAMES_IN_ERRORS])}{more}")
    return {
        kind: Choice({name: wanted[kind][name] for name in spread_over_groups(names, most)}, len(names))
        for kind, names in found.items()
        if names
    }


def _layers(model: nn.Module, kind: str) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, KINDS[kind][0])}


def matches(name: str, pattern: str) -> bool:
    """Whether a glob stands for a dotted name or for a run of whole parts of it."""
    return any(fnmatchcase(name, before + pattern + after) for before in ('', '*.') for after in ('', '.*'))


def spread_over_groups(names: Sequence[str], most: int) -> list[str]:
    """At most `most` names, evenly over the stages (what precedes the last number of a name), then evenly within each."""
    stages = [list(group) for _, group in groupby(names, lambda name: re.sub(r'\d+\D*$', '', name))]
    stages = spread(stages, most)
    return [name for stage in stages for name in spread(stage, most // len(stages))]


def spread(items: Sequence, count: int) -> list:
    """`count` of the items evenly spread, first and last among them, or all if there are fewer; a single one is the last."""
    if count == 1:
        return list(items[-1:])
    last, count = len(items) - 1, min(count, len(items))
    return [items[round(i * last / max(count - 1, 1))] for i in range(count)]


# What a layer has learned in its filters: their frequency responses and their kernels in space.
#
# A stored filter W multiplies the spectrum of a map; that is the circular convolution with the kernel whose spectrum W is (GFNet,
# arXiv 2107.00645, section 3.2). Here a filter is shown as it acts: the part of its zero and Nyquist columns that a real map cannot
# tell (see `mmfreq.ops.spectral`) is left out.
#
# Legend: C filters of a layer, h w grid.


@dataclass(frozen=True)
class LearnedFilters:
    """The filters of one layer.

    Attributes:
        name: of the layer in the model.
        response: complex `(C, h, w)`, the zero frequency at `(h // 2, w // 2)`; a step is one cycle per map.
        kernel: real `(C, h, w)`, lag zero at `(h // 2, w // 2)`; a step is one position of the map.
    """

    name: str
    response: np.ndarray
    kernel: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """By which factor each frequency is amplified, `(C, h, w)`."""
        return np.abs(self.response)

    def strongest(self, count: int) -> list[int]:
        """The `count` filters with the largest root mean square gain, in their own order."""
        power = (self.gain**2).mean((1, 2))
        return sorted(np.argsort(-power, kind='stable')[:count].tolist())


@torch.no_grad()
def learned_filters(layer: StoredFilter, name: str = '', size: tuple[int, int] | None = None) -> LearnedFilters:
    """The filters of one layer.

    Args:
        size: (H, W) of the maps that they act on, resized by the layer's policy as in forward; None is the stored grid.

    Raises:
        ValueError: a size below 1x1.
    """
    height, width = as_grid(size or layer.grid)
    weight = layer.filter_for(size) if size else layer.stored
    weight = weight.detach().to('cpu', torch.float64).movedim(layer.weight_dims, (1, 2))  # (C, h, w // 2 + 1, 2)
    kernel = irfft2(torch.view_as_complex(weight.contiguous()), (height, width))  # orthonormal: sqrt(h w) times the kernel
    response = torch.fft.fft2(kernel, norm='ortho')
    kernel = kernel / (height * width) ** 0.5
    return LearnedFilters(name, *(torch.fft.fftshift(t, dim=(-2, -1)).numpy() for t in (response, kernel)))


def radial_gain(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean gain against the frequency, whatever its direction.

    Args:
        gain: `(C, h, w)`, the zero frequency in the middle.

    Returns:
        Frequencies `(R,)` in cycles per position, from 0 in steps of one cycle along the longer side to at most 0.5, and the gain
        `(C, R)` in the ring around each.
    """
    height, width = gain.shape[-2:]
    side = max(height, width)
    vertical, horizontal = ((np.arange(n) - n // 2) / n for n in (height, width))
    ring = np.rint(np.hypot(vertical[:, None], horizontal) * side).astype(int)
    rings = np.arange(side // 2 + 1)
    return rings / side, np.stack([gain[:, ring == r].mean(-1) for r in rings], -1)


# What the gated products of gnConv look like over a picture, order by order (HorNet, arXiv 2207.14284, section 3.1).
#
# Legend: n order of a gnConv, H W grid of its map.


@dataclass(frozen=True)
class GatingMaps:
    """The products of one layer over one picture.

    Attributes:
        name: of the layer in the model.
        maps: n arrays `(H, W)`, the root mean square over the channels of the product of order 1, 2, .. n.
    """

    name: str
    maps: tuple[np.ndarray, ...]


def gating_maps(run: Callable[[], Any], layers: Mapping[str, GnConv]) -> list[GatingMaps]:
    """Those of each layer that `run()`, the model on one picture, calls; of a batch, the first picture's."""
    # product i is what the next 1x1 convolution gets, and the last one what the projection gets
    takers = {(name, order): module for name, layer in layers.items() for order, module in enumerate((*layer.pws, layer.proj_out))}
    seen = record_calls(run, takers, _energy)
    called = [name for name in layers if (name, 0) in seen]
    return [GatingMaps(name, tuple(seen[name, order] for order in range(len(layers[name].dims)))) for name in called]


def _energy(module: nn.Module, product: Tensor, output: Tensor) -> np.ndarray:
    return product[0].float().square().mean(0).sqrt().cpu().numpy()


# The masks that AFFNet computes from the spectrum of a map: it stores no filters (arXiv 2307.14008, section 3).
#
# Legend: C channels, H W grid of the map.


@dataclass(frozen=True)
class SpectralMask:
    """The mask of one layer for one picture; arrays `(C, H, W)`, the zero frequency at `(H // 2, W // 2)`.

    Attributes:
        name: of the layer in the model.
        spectrum: magnitudes of what is masked, from orthonormal transforms.
        mask: magnitudes of the mask; 0 where the soft-shrink has closed it.
    """

    name: str
    spectrum: np.ndarray
    mask: np.ndarray


def masks_over(run: Callable[[], Any], layers: Mapping[str, AdaptiveFrequencyFilter]) -> list[SpectralMask]:
    """The mask of each layer that `run()`, the model on one picture, calls; of a batch, the first picture's."""
    seen = record_calls(run, layers, lambda layer, x, y: mask_of(layer, x[:1]))
    return [SpectralMask(name, *parts) for name, parts in seen.items()]


@torch.no_grad()
def mask_of(layer: AdaptiveFrequencyFilter, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(spectrum, mask) as in `SpectralMask` of a layer for its input, a batch of one."""
    x = (to_bchw(x) if layer.channels_last else x).float()
    spec = rfft2(x)
    first, second = ((w.to(x.dtype), b.to(x.dtype)) for w, b in ((layer.w1, layer.b1), (layer.w2, layer.b2)))
    mask = torch.complex(*block_mlp(spec.real, spec.imag, first, second, silu, layer.threshold))
    return tuple(centred_magnitude(part[0].cpu().numpy(), x.shape[-1]) for part in (spec, mask))


def centred_magnitude(half: np.ndarray, width: int) -> np.ndarray:
    """Magnitudes over the whole plane, centred, from a half spectrum `(C, H, width // 2 + 1)`: the other half mirrors it."""
    rows, columns = -np.arange(half.shape[1]), np.arange(half.shape[2], width)
    mirrored = half[:, rows][:, :, width - columns]
    return np.fft.fftshift(np.abs(np.concatenate((half, mirrored), -1)), axes=(-2, -1))


# Which filters DFFormer mixes for a picture, and what they become (arXiv 2303.03932, section 3).
#
# Legend: N stored filters, M mixed channels, h w stored grid.


@dataclass(frozen=True)
class Routing:
    """The routing of one layer for one picture.

    Attributes:
        coefficients: `(N, M)`, of each stored filter in each channel's; a column sums to 1.
        basis: the stored filters.
    """

    coefficients: np.ndarray
    basis: LearnedFilters

    @property
    def name(self) -> str:
        """Of the layer in the model."""
        return self.basis.name

    @property
    def typical_channels(self) -> list[int]:
        """For each stored filter the channel that leans on it most."""
        return self.coefficients.argmax(1).tolist()

    def mixed(self, channels: list[int]) -> LearnedFilters:
        """The filters that these channels get for the picture, at the stored grid."""
        weights = self.coefficients[:, channels].astype(np.float64)
        response, kernel = (np.einsum('nm,nhw->mhw', weights, part) for part in (self.basis.response, self.basis.kernel))
        return LearnedFilters(self.name, response, kernel)


def routing_over(run: Callable[[], Any], layers: Mapping[str, DynamicFilter]) -> list[Routing]:
    """The routing of each layer that `run()`, the model on one picture, calls; of a batch, the first picture's."""
    count = {layer.reweight: layer.num_filters for layer in layers.values()}

    def coefficients(reweight: nn.Module, mean: Tensor, logits: Tensor) -> np.ndarray:
        return logits[0].float().unflatten(0, (count[reweight], -1)).softmax(0).cpu().numpy()

    seen = record_calls(run, {name: layer.reweight for name, layer in layers.items()}, coefficients)
    return [Routing(values, learned_filters(layers[name], name)) for name, values in seen.items()]
