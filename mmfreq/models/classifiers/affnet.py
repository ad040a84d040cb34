"""AFFNet's ImageNet classifier: a 1x1 expansion, mean over the map, dropout, linear."""

from torch import Tensor, nn

from mmfreq.models.backbones.affnet import AFFNet, ConvNormAct
from mmfreq.models.classifiers.base import FrequencyClassifier, final_linear

EXPANSION, WIDEST = 4, 960


class AFFNetClassifier(FrequencyClassifier, AFFNet):
    """Published classifier of arXiv 2307.14008, names `conv_1x1_exp` and `classifier.fc` included.

    Args:
        arch: as in `AFFNet`.
        num_classes: width of `classifier.fc`; 0 for none.
        drop_rate: dropout before it.
        **kwargs: as in `AFFNet`, but for `out_indices`.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    last_layer = 'classifier.fc'

    def __init__(self, arch: str | dict = 'affnet', num_classes: int = 1000, drop_rate: float = 0.1, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.num_classes = num_classes
        self.head_features = min(EXPANSION * self.channels[-1], WIDEST)
        self.conv_1x1_exp = ConvNormAct(self.channels[-1], self.head_features)
        self.classifier = nn.Sequential()
        self.classifier.add_module('dropout', nn.Dropout(drop_rate))
        self.classifier.add_module('fc', final_linear(self.head_features, num_classes))
        if num_classes > 0:
            nn.init.xavier_uniform_(self.classifier.fc.weight)
            nn.init.zeros_(self.classifier.fc.bias)

    def final_features(self, x: Tensor) -> Tensor:
        return self.conv_1x1_exp(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.classifier.dropout(x.mean((-2, -1)))
        return pooled if pre_logits else self.classifier.fc(pooled)
