"""DFFormer's ImageNet classifier: mean over the map, norm, a two-layer head with squared ReLU."""

from torch import Tensor, nn

from mmfreq.layers import SquaredReLU
from mmfreq.models.backbones.dfformer import DFFormer, init_published
from mmfreq.models.classifiers.base import FrequencyClassifier, final_linear

HEAD_RATIO = 4


class MlpHead(nn.Module):
    """Linear, squared ReLU, norm (eps 1e-5, unlike all others), dropout, linear.

    Args:
        channels: C of the pooled features.
        num_classes: 0 for no last layer.
        dropout: before the last layer.

    Shape:
        `(N, C)` to `(N, num_classes)`.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        hidden = HEAD_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.act = SquaredReLU()
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = final_linear(hidden, num_classes)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.norm(self.act(self.fc1(x))))
        return x if pre_logits else self.fc2(x)


class DFFormerClassifier(FrequencyClassifier, DFFormer):
    """Published classifier of arXiv 2303.03932, names `norm` and `head` included.

    Args:
        arch: as in `DFFormer`.
        num_classes: width of `head.fc2`; 0 for none.
        drop_rate: dropout before it.
        **kwargs: as in `DFFormer`, but for `out_indices`: a classifier has no output norms.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    last_layer = 'head.fc2'

    def __init__(self, arch: str | dict = 'dfformer-s18', num_classes: int = 1000, drop_rate: float = 0.0, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.num_classes = num_classes
        self.head_features = HEAD_RATIO * self.channels[-1]
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        self.head = MlpHead(self.channels[-1], num_classes, drop_rate)
        self.head.apply(init_published)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(self.norm(x.mean((-2, -1))), pre_logits)
