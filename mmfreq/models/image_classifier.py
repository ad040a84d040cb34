"""A published ImageNet classifier, with its norm and head, as a model of mmpretrain."""

from typing import Any

import torch
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmfreq.models._factory import build_classifier
from mmfreq.registry import MODELS


@MODELS.register_module()
class FrequencyImageClassifier(BaseClassifier):
    """`mmfreq.build_classifier(arch)` with a loss, for mmpretrain's data, hooks and metrics.

    The published head is part of the model, so a published file fits completely: in `load_from`, in `init_cfg`, or as the
    checkpoint of `tools/test.py`. For mmpretrain's own necks and heads use `mmfreq.HorNet` or another backbone in its
    `ImageClassifier`.

    Args:
        arch: as in `mmfreq.build_classifier`.
        num_classes: width of the head.
        loss: config of mmpretrain's loss; it gets logits and labels, or soft labels after batch augmentations.
        train_cfg: `dict(augments=[...])`, batch augmentations such as Mixup and CutMix.
        data_preprocessor: config of mmpretrain's `ClsDataPreprocessor`; its `num_classes` is set to the width of the head.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE)`, loaded strictly; with `fresh=('head.',)` the head keeps its initial
            values.
        **kwargs: of the classifier: `drop_path_rate`, `img_size`, `spectral`, ...

    Shape:
        `(N, 3, H, W)` to logits `(N, num_classes)` in mode 'tensor'.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int = 1000,
        loss: dict | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
        **kwargs,
    ):
        data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {}), 'num_classes': num_classes}
        if train_cfg and train_cfg.get('augments'):
            data_preprocessor['batch_augments'] = train_cfg
        super().__init__(data_preprocessor=data_preprocessor)
        self.backbone = build_classifier(arch, num_classes, init_cfg=init_cfg, **kwargs)
        self.loss_module = MMPRETRAIN_MODELS.build(loss or dict(type='mmpretrain.CrossEntropyLoss'))

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor'):
        """Logits ('tensor'), losses ('loss') or data samples with scores and labels ('predict')."""
        if mode == 'tensor':
            return self.backbone(inputs)
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        raise RuntimeError(f"mode must be 'tensor', 'loss' or 'predict', got '{mode}'")

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> tuple[Tensor] | Tensor:
        """Features, for mmpretrain's `FeatureExtractor`.

        Args:
            stage: 'backbone' for a tuple with the last stage's map `(N, C, h, w)`, 'neck' for the map that the head gets,
                'pre_logits' for the input `(N, head_features)` of the last layer.

        Raises:
            ValueError: unknown stage.
        """
        if stage == 'backbone':
            return (self.backbone.forward_stages(inputs)[-1],)
        features = self.backbone.forward_features(inputs)
        if stage == 'neck':
            return features
        if stage == 'pre_logits':
            return self.backbone.forward_head(features, pre_logits=True)
        raise ValueError(f"stage must be 'backbone', 'neck' or 'pre_logits', got '{stage}'")

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """The training loss of a batch."""
        soft = 'gt_score' in data_samples[0]
        target = torch.stack([s.gt_score for s in data_samples]) if soft else torch.cat([s.gt_label for s in data_samples])
        return dict(loss=self.loss_module(self.backbone(inputs), target))

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None) -> list[DataSample]:
        """Data samples with the softmax scores and the label of the highest score."""
        scores = self.backbone(inputs).softmax(1)
        samples = data_samples if data_samples is not None else [DataSample() for _ in scores]
        for sample, score in zip(samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(0, keepdim=True))
        return samples
