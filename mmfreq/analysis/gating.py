"""What the gated products of gnConv look like over a picture, order by order (HorNet, arXiv 2207.14284, section 3.1).

Legend: n order of a gnConv, H W grid of its map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from mmfreq.analysis.observe import observe
from mmfreq.layers import GnConv


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
    seen = observe(run, takers, _energy)
    called = [name for name in layers if (name, 0) in seen]
    return [GatingMaps(name, tuple(seen[name, order] for order in range(len(layers[name].dims)))) for name in called]


def _energy(module: nn.Module, product: Tensor, output: Tensor) -> np.ndarray:
    return product[0].float().square().mean(0).sqrt().cpu().numpy()
