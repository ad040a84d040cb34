"""HorNet's ImageNet classifier: mean over the map, norm, linear (in this order)."""

from torch import nn

from mmfreq.models.backbones.hornet import HorNet
from mmfreq.models.classifiers.base import NormedHead


class HorNetClassifier(NormedHead, HorNet):
    """Published classifier of arXiv 2207.14284, names `norm` and `head` included.

    Args:
        arch: as in `HorNet`.
        num_classes: width of the head; 0 for none.
        **kwargs: as in `HorNet`, but for `out_indices`: a classifier has no output norms.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    def __init__(self, arch: str | dict = 'hornet-tiny-gf', num_classes: int = 1000, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.add_head(num_classes)
        self.apply(init_classifier)


def init_classifier(module: nn.Module) -> None:
    """The published init: convolutions and linear layers truncated normal 0.02, biases 0."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
