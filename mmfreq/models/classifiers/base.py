"""What the published classifiers share: a backbone's trunk, features and logits apart, and a last layer that can be changed."""

from typing import ClassVar

from torch import Tensor, nn


def final_linear(channels: int, num_classes: int) -> nn.Module:
    """The layer that gives the logits; no classes, no layer."""
    return nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()


class FrequencyClassifier:
    """Mixed into a backbone class, as in `class HorNetClassifier(FrequencyClassifier, HorNet)`.

    A family gives `forward_head`, and `final_features` where its head begins before the pooling.

    Attributes:
        num_classes: width of the logits; 0 is no last layer: `forward` then returns what the last layer would have got.
        head_features: width of what the last layer gets.
        last_layer: name of the last layer, as published.
    """

    last_layer: ClassVar[str] = 'head'
    num_classes: int
    head_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """The map `(N, C, h, w)` that the head starts from, of images `(N, in_channels, H, W)`."""
        return self.final_features(self.forward_stages(x)[-1])

    def final_features(self, x: Tensor) -> Tensor:
        """What lies between the last stage's map and the pooling; nothing unless a family says so."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(N, num_classes)` of such a map, or with `pre_logits` the input `(N, head_features)` of the last layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.last_layer)

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer, for fine-tuning; the rest keeps its weights."""
        parent, _, name = self.last_layer.rpartition('.')
        old = next(self.parameters())
        new = final_linear(self.head_features, num_classes)
        if isinstance(new, nn.Linear):
            nn.init.trunc_normal_(new.weight, std=0.02)
            nn.init.zeros_(new.bias)
        setattr(self.get_submodule(parent), name, new.to(device=old.device, dtype=old.dtype))
        self.num_classes = num_classes


class NormedHead(FrequencyClassifier):
    """Mean over the map, `norm`, `head` (HorNet, ConvNeXt)."""

    def add_head(self, num_classes: int) -> None:
        """Make both layers, the linear one truncated normal 0.02; for the constructor."""
        self.num_classes = num_classes
        self.head_features = self.channels[-1]
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        self.reset_classifier(num_classes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.norm(x.mean((-2, -1)))
        return pooled if pre_logits else self.head(pooled)
