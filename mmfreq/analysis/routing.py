"""Which filters DFFormer mixes for a picture, and what they become (arXiv 2303.03932, section 3).

Legend: N stored filters, M mixed channels, h w stored grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from mmfreq.analysis.filters import LearnedFilters, learned_filters
from mmfreq.analysis.observe import observe
from mmfreq.layers import DynamicFilter


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

    seen = observe(run, {name: layer.reweight for name, layer in layers.items()}, coefficients)
    return [Routing(values, learned_filters(layers[name], name)) for name, values in seen.items()]
