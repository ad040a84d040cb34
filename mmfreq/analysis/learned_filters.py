"""What the layers of a model have learned, as arrays. `draw_layers` draws them.

| plot | layers | array of a layer | computed by |
|---|---|---|---|
| 'filters' | stored filters (GFNet, HorNet-GF, DFFormer, GFFormer) | `LearnedFilters`: response, kernel | `learned_filters` |
| 'gating' | gnConv (HorNet, HorFPN) | `GatingMaps`: its gated products for an image, by order | `gating_maps` |
| 'routing' | dynamic filters (DFFormer) | `Routing`: how it mixes its filters for an image | `routings` |
| 'masks' | adaptive frequency filters (AFFNet) | `SpectralMask`: its mask for an image | `spectral_masks` |

The last three take `run`, a function that runs the model on an image; of a batch, the first image is used. `choose_layers` selects
the layers to draw.

Legend: C channels or filters, N stored filters, M mixed channels, H W grid of a map, h w grid of a filter.
"""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GnConv, StoredFilter
from mmfreq.layers.basic import to_bchw
from mmfreq.layers.filters import MASK_ACTIVATIONS, as_grid, mixing_coefficients
from mmfreq.ops import block_mlp, irfft2, rfft2

Key = TypeVar('Key', bound=Hashable)
Record = TypeVar('Record')

# plot -> (type of its layers, description)
PLOTS: dict[str, tuple[type[nn.Module], str]] = {
    'filters': (StoredFilter, 'stored filters (GFNet, HorNet-GF, DFFormer, GFFormer)'),
    'gating': (GnConv, 'gated products of gnConv (HorNet, HorFPN)'),
    'routing': (DynamicFilter, 'routing of dynamic filters (DFFormer)'),
    'masks': (AdaptiveFrequencyFilter, 'masks of adaptive frequency filters (AFFNet)'),
}
NAMES_IN_ERRORS = 12


@dataclass(frozen=True)
class ChosenLayers:
    """The layers chosen for one plot, by name in the order of the model, and the number of layers that matched."""

    layers: dict[str, nn.Module]
    available: int


def choose_layers(model: nn.Module, plots: Collection[str] = (), pattern: str = '*', most: int = 4) -> dict[str, ChosenLayers]:
    """Choose the layers to draw for each plot: at most `most`, spread over the stages and within them.

    Args:
        plots: keys of `PLOTS`; empty for all that the model has layers for.
        pattern: glob for layer names or for consecutive parts of them: 'stages.2' is everything below it.

    Raises:
        ValueError: unknown plot, the model has no layers for it, or no layer matches. The message lists what is available.
    """
    if unknown := sorted(set(plots) - set(PLOTS)):
        raise ValueError(f'Cannot draw {", ".join(unknown)}. Choose from {", ".join(PLOTS)}.')
    if most < 1:
        raise ValueError(f'The number of layers must be at least 1, got {most}.')
    present = {
        plot: layers
        for plot, (layer_type, _) in PLOTS.items()
        if (layers := {name: module for name, module in model.named_modules() if isinstance(module, layer_type)})
    }
    if missing := [plot for plot in plots or PLOTS if plot not in present and (plots or not present)]:
        remedy = f'It has {", ".join(present)}.' if present else 'Choose a model of another family.'
        raise ValueError(f'{type(model).__name__} has no {", no ".join(PLOTS[plot][1] for plot in missing)}. {remedy}')
    candidates = {plot: layers for plot, layers in present.items() if not plots or plot in plots}
    matching = {plot: [name for name in layers if matches(name, pattern)] for plot, layers in candidates.items()}
    if not any(matching.values()):
        names = list(dict.fromkeys(name for layers in candidates.values() for name in layers))
        more = f' and {len(names) - NAMES_IN_ERRORS} more' if len(names) > NAMES_IN_ERRORS else ''
        raise ValueError(f"No layer that can be drawn matches '{pattern}'. There are {', '.join(names[:NAMES_IN_ERRORS])}{more}.")
    return {
        plot: ChosenLayers({name: candidates[plot][name] for name in spread_over_groups(names, most)}, len(names))
        for plot, names in matching.items()
        if names
    }


def matches(name: str, pattern: str) -> bool:
    """Whether a glob matches a dotted name or consecutive whole parts of it."""
    return any(fnmatchcase(name, before + pattern + after) for before in ('', '*.') for after in ('', '.*'))


def spread_over_groups(names: Sequence[str], most: int) -> list[str]:
    """At most `most` names, spread evenly over the stages (what precedes the last number of a name), then within each."""
    stages = [list(group) for _, group in groupby(names, lambda name: re.sub(r'\d+\D*$', '', name))]
    stages = spread(stages, most)
    return [name for stage in stages for name in spread(stage, most // len(stages))]


def spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, spread evenly, including the first and the last; a single one is the last."""
    if count == 1:
        return list(items[-1:])
    last, count = len(items) - 1, min(count, len(items))
    return [items[round(i * last / max(count - 1, 1))] for i in range(count)]


@torch.no_grad()
def record_calls(
    run: Callable[[], Any], modules: Mapping[Key, nn.Module], look: Callable[[nn.Module, Tensor, Tensor], Record]
) -> dict[Key, Record]:
    """`look(module, input, output)` for the first call of each module during `run()`, in the order of the calls.

    Runs without gradients. Modules that are not called are absent from the result. The hooks are removed afterwards.
    """
    records: dict[Key, Record] = {}

    def hook_for(key: Key) -> Callable:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if key not in records:
                records[key] = look(module, args[0], output)

        return hook

    handles = [module.register_forward_hook(hook_for(key)) for key, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return records


@dataclass(frozen=True)
class LearnedFilters:
    """The filters of one layer, without the part of their zero and Nyquist columns that no real map is affected by.

    A stored filter W multiplies the spectrum of a map, which is the circular convolution with the kernel whose spectrum is W
    (GFNet, arXiv 2107.00645, section 3.2).

    Attributes:
        name: of the layer in the model.
        response: complex `(C, h, w)`, zero frequency at `(h // 2, w // 2)`; a step is one cycle per map.
        kernel: real `(C, h, w)`, zero lag at `(h // 2, w // 2)`; a step is one position of the map.
    """

    name: str
    response: np.ndarray
    kernel: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """The factor by which each frequency is amplified, `(C, h, w)`."""
        return np.abs(self.response)

    def strongest(self, count: int) -> list[int]:
        """The indices of the `count` filters with the largest root mean square gain, in ascending order."""
        power = (self.gain**2).mean((1, 2))
        return sorted(np.argsort(-power, kind='stable')[:count].tolist())


@torch.no_grad()
def learned_filters(layer: StoredFilter, name: str = '', size: tuple[int, int] | None = None) -> LearnedFilters:
    """The filters of one layer.

    Args:
        size: (H, W) of the maps to resize the filters for, by the layer's rule as in forward; None is the stored grid.

    Raises:
        ValueError: the size is below 1x1.
    """
    height, width = as_grid(size or layer.grid)
    weight = layer.filter_for(size) if size else layer.stored
    weight = weight.detach().to('cpu', torch.float64).movedim(layer.weight_dims, (1, 2))  # (C, h, w // 2 + 1, 2)
    kernel = irfft2(torch.view_as_complex(weight.contiguous()), (height, width))  # orthonormal: sqrt(h w) times the kernel
    response = torch.fft.fft2(kernel, norm='ortho')
    kernel = kernel / (height * width) ** 0.5
    return LearnedFilters(name, *(torch.fft.fftshift(t, dim=(-2, -1)).numpy() for t in (response, kernel)))


def radial_gain(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean gain in rings of equal frequency.

    Args:
        gain: `(C, h, w)`, zero frequency in the center.

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


@dataclass(frozen=True)
class GatingMaps:
    """The gated products of one gnConv for one image (HorNet, arXiv 2207.14284, section 3.1).

    Attributes:
        name: of the layer in the model.
        maps: an array `(H, W)` for each order from 1: the root mean square of that order's product over the channels.
    """

    name: str
    maps: tuple[np.ndarray, ...]


def gating_maps(run: Callable[[], Any], layers: Mapping[str, GnConv]) -> list[GatingMaps]:
    """The gated products of each layer that `run()` calls."""
    # the input of the next 1x1 convolution is product i, the input of the projection is the last product
    consumers = {(name, order): conv for name, layer in layers.items() for order, conv in enumerate((*layer.pws, layer.proj_out))}
    records = record_calls(run, consumers, lambda conv, x, y: x[0].float().square().mean(0).sqrt().cpu().numpy())
    called = [name for name in layers if (name, 0) in records]
    return [GatingMaps(name, tuple(records[name, order] for order in range(len(layers[name].dims)))) for name in called]


@dataclass(frozen=True)
class Routing:
    """How one dynamic filter mixes its stored filters for one image (DFFormer, arXiv 2303.03932, section 3).

    Attributes:
        coefficients: `(N, M)`, of each stored filter in the filter of each channel; a column sums to 1.
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
        """For each stored filter the channel with its largest coefficient."""
        return self.coefficients.argmax(1).tolist()

    def mixed(self, channels: list[int]) -> LearnedFilters:
        """The mixed filters of these channels, on the stored grid."""
        weights = self.coefficients[:, channels].astype(np.float64)
        response, kernel = (np.einsum('nm,nhw->mhw', weights, part) for part in (self.basis.response, self.basis.kernel))
        return LearnedFilters(self.name, response, kernel)


def routings(run: Callable[[], Any], layers: Mapping[str, DynamicFilter]) -> list[Routing]:
    """The routing of each layer that `run()` calls."""
    num_filters = {layer.reweight: layer.num_filters for layer in layers.values()}

    def coefficients(reweight: nn.Module, mean: Tensor, logits: Tensor) -> np.ndarray:
        return mixing_coefficients(logits[:1].float(), num_filters[reweight])[0].cpu().numpy()

    records = record_calls(run, {name: layer.reweight for name, layer in layers.items()}, coefficients)
    return [Routing(values, learned_filters(layers[name], name)) for name, values in records.items()]


@dataclass(frozen=True)
class SpectralMask:
    """The mask that one layer computes from the spectrum of its input for one image (AFFNet, arXiv 2307.14008, section 3).

    Attributes:
        name: of the layer in the model.
        spectrum: magnitudes of the masked spectrum `(C, H, W)`, orthonormal, zero frequency at `(H // 2, W // 2)`.
        mask: magnitudes of the mask, likewise; 0 where the soft-shrink closes it.
    """

    name: str
    spectrum: np.ndarray
    mask: np.ndarray


def spectral_masks(run: Callable[[], Any], layers: Mapping[str, AdaptiveFrequencyFilter]) -> list[SpectralMask]:
    """The mask of each layer that `run()` calls."""

    def spectrum_and_mask(layer: AdaptiveFrequencyFilter, x: Tensor, y: Tensor) -> list[np.ndarray]:
        x = (to_bchw(x[:1]) if layer.channels_last else x[:1]).float()
        spec = rfft2(x)
        first, second = ((w.to(x.dtype), b.to(x.dtype)) for w, b in ((layer.w1, layer.b1), (layer.w2, layer.b2)))
        mask = torch.complex(*block_mlp(spec.real, spec.imag, first, second, MASK_ACTIVATIONS[layer.act], layer.threshold))
        return [_centered_magnitude(half[0].cpu().numpy(), x.shape[-1]) for half in (spec, mask)]

    return [SpectralMask(name, *parts) for name, parts in record_calls(run, layers, spectrum_and_mask).items()]


def _centered_magnitude(half: np.ndarray, width: int) -> np.ndarray:
    """Centered magnitudes `(C, H, width)` of a half spectrum `(C, H, width // 2 + 1)`, whose other half mirrors it."""
    rows, columns = -np.arange(half.shape[1]), np.arange(half.shape[2], width)
    mirrored = half[:, rows][:, :, width - columns]
    return np.fft.fftshift(np.abs(np.concatenate((half, mirrored), -1)), axes=(-2, -1))
