"""Pictures of what the layers of a model have learned, and of what they do with a picture, as files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from mmfreq.analysis.drawable_layers import Choice
from mmfreq.analysis.filters import learned_filters
from mmfreq.analysis.gating import gating_maps
from mmfreq.analysis.masks import masks_over
from mmfreq.analysis.plots.filters import plot_filters
from mmfreq.analysis.plots.gating import plot_gating
from mmfreq.analysis.plots.masks import plot_masks
from mmfreq.analysis.plots.routing import plot_routing
from mmfreq.analysis.plots.style import save
from mmfreq.analysis.routing import routing_over


@dataclass(frozen=True)
class View:
    """What is looked at, and how.

    Attributes:
        label: of the model, the first line of each title.
        run: the model on the picture; called once for each kind that needs it.
        picture: `(H, W, 3)` uint8 RGB, drawn beside the maps.
        filters: how many stored filters of each layer, those with the largest gain.
        size: (H, W) of the maps that stored filters act on; None is the stored grid.
    """

    label: str
    run: Callable[[], Any]
    picture: np.ndarray
    filters: int = 5
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Drawn:
    """A file, what it shows in words, and the layers in it."""

    path: Path
    what: str
    layers: tuple[str, ...]


Layers = Mapping[str, nn.Module]
Plots = Iterator[tuple[str, str, tuple[str, ...], Figure]]  # stem of the file, and as in `Drawn`


def draw_layers(choices: Mapping[str, Choice], view: View, out: str | Path) -> tuple[list[Drawn], list[str]]:
    """Draw the layers chosen by `choose_layers` into the folder `out`.

    Returns:
        What was drawn, and the names of layers that could not be: the model did not call them.

    Raises:
        ValueError: fewer than one filter is asked for.
    """
    if view.filters < 1:
        raise ValueError(f'{view.filters} filters of each layer are asked for; it must be at least 1')
    drawn, missed = [], []
    for kind, choice in choices.items():
        found = [Drawn(save(plot, Path(out) / f'{stem}.png'), *rest) for stem, *rest, plot in DRAWERS[kind](choice.layers, view)]
        seen = {name for file in found for name in file.layers}
        missed += [name for name in choice.layers if name not in seen]
        drawn += found
    return drawn, missed


def _filters(layers: Layers, view: View) -> Plots:
    for name, layer in layers.items():
        found = learned_filters(layer, name, view.size)
        chosen = found.strongest(view.filters)
        grid = ' x '.join(map(str, found.gain.shape[1:]))
        title = f'{view.label}\n{name}: the {len(chosen)} strongest of {len(found.gain)} filters, on a {grid} grid'
        yield f'filters_{name}', 'gain, phase and kernel of stored filters', (name,), plot_filters(found, chosen, title)


def _gating(layers: Layers, view: View) -> Plots:
    if found := gating_maps(view.run, layers):
        what = 'gated products of gnConv, by order'
        names = tuple(maps.name for maps in found)
        yield 'gating', what, names, plot_gating(found, view.picture, f'{view.label}\n{what}')


def _routing(layers: Layers, view: View) -> Plots:
    for routing in routing_over(view.run, layers):
        name, what = routing.name, 'dynamic filters mixed for the picture'
        yield f'routing_{name}', what, (name,), plot_routing(routing, view.picture, f'{view.label}\n{name}: {what}')


def _masks(layers: Layers, view: View) -> Plots:
    if found := masks_over(view.run, layers):
        what = 'masks of adaptive frequency filters'
        names = tuple(mask.name for mask in found)
        yield 'masks', what, names, plot_masks(found, view.picture, f'{view.label}\n{what}')


DRAWERS: dict[str, Callable[[Layers, View], Plots]] = {
    'filters': _filters,
    'gating': _gating,
    'routing': _routing,
    'masks': _masks,
}
