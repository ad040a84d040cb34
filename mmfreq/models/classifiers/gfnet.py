"""The ImageNet classifiers of GFNet and GFNet-H (norm, mean over the map, linear) and that of our reconstruction."""

from torch import Tensor

from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.models.backbones.gfnet import GFNet
from mmfreq.models.backbones.gfnet_cnn import GFNetCNN
from mmfreq.models.backbones.gfnet_pyramid import GFNetPyramid
from mmfreq.models.classifiers.base import NormedHead


class GFNetHead(NormedHead):
    """The same layers in another order: every token is normed before the mean."""

    def final_features(self, x: Tensor) -> Tensor:
        return to_bchw(self.norm(to_bhwc(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((-2, -1))
        return pooled if pre_logits else self.head(pooled)


class GFNetClassifier(GFNetHead, GFNet):
    """Published classifier of arXiv 2107.00645, isotropic.

    Args:
        arch: as in `GFNet`.
        num_classes: width of the head; 0 for none.
        **kwargs: as in `GFNet`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    def __init__(self, arch: str | dict = 'gfnet-ti', num_classes: int = 1000, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.add_head(num_classes)


class GFNetPyramidClassifier(GFNetHead, GFNetPyramid):
    """Published classifier of arXiv 2107.00645, hierarchical.

    Args:
        arch: as in `GFNetPyramid`.
        num_classes: width of the head; 0 for none.
        **kwargs: as in `GFNetPyramid`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    def __init__(self, arch: str | dict = 'gfnet-h-ti', num_classes: int = 1000, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.add_head(num_classes)


class GFNetCNNClassifier(NormedHead, GFNetCNN):
    """Classifier of our reconstruction: mean over the map, norm, linear, as in ConvNeXt.

    Args:
        arch: as in `GFNetCNN`.
        num_classes: width of the head; 0 for none.
        **kwargs: as in `GFNetCNN`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    def __init__(self, arch: str | dict = 'gfnet-cnn-t', num_classes: int = 1000, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.add_head(num_classes)
