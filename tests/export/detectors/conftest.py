"""Micro detectors with random weights whose scores and boxes are spread as those of trained ones are."""

from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmfreq  # noqa: F401  (before mmdet)

STRIDES = [8, 16, 32]
TEST_CFG = dict(nms_pre=60, min_bbox_size=0, score_thr=0.3, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
SQUARES = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=STRIDES)
SSD_ANCHORS = dict(
    type='SSDAnchorGenerator',
    scale_major=False,
    strides=STRIDES,
    ratios=[[2], [2, 3], [2]],
    min_sizes=[24, 40, 56],
    max_sizes=[40, 56, 72],
)
COMMON = dict(num_classes=4, in_channels=8, feat_channels=8, stacked_convs=1)
HEADS = {
    'RetinaNet': dict(type='RetinaHead', **COMMON, anchor_generator={**SQUARES, 'ratios': [0.5, 1.0, 2.0]}),
    'FCOS': dict(type='FCOSHead', **COMMON, norm_cfg=None, strides=STRIDES, regress_ranges=((-1, 32), (32, 64), (64, 1e8))),
    'ATSS': dict(
        type='ATSSHead',
        **COMMON,
        norm_cfg=None,
        anchor_generator=SQUARES,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    ),
    'SSD': dict(type='SSDHead', num_classes=4, in_channels=[8] * 3, anchor_generator=SSD_ANCHORS),
    'SSDLite': dict(
        type='mmfreq.AFFNetSSDLiteHead',
        num_classes=4,
        in_channels=[8] * 3,
        proj_channels=[8] * 3,
        strides=STRIDES,
        anchor_generator=dict(type='mmfreq.AFFNetSSDAnchorGenerator', ratios=[[2], [2, 3], [2]], scale_range=(0.2, 0.8)),
    ),
}


class Maps(nn.Module):
    """Stands for backbone and neck: three maps that differ from cell to cell."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 3, padding=1) for _ in STRIDES)

    def forward(self, images):
        return tuple(conv(images[:, :, ::stride, ::stride]) for conv, stride in zip(self.convs, STRIDES))


@cache
def build(name):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    head, backbone = HEADS[name], dict(type='mmfreq.HorNet', arch='hornet-micro')
    model = Config({'model': dict(type='SingleStageDetector', backbone=backbone, bbox_head=head, test_cfg=TEST_CFG)}).model
    detector = MODELS.build(model).eval()
    detector.backbone = Maps()
    with torch.no_grad():
        for key, parameter in detector.bbox_head.named_parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=1.5 / parameter[0].numel() ** 0.5)
            elif key.endswith('bias'):
                parameter.fill_(2.5 if name == 'FCOS' and key == 'conv_reg.bias' else 0)  # exp(2.5) pixels
    return detector


@pytest.fixture(params=HEADS)
def detector(request):
    """A detector of each kind, which tests do not change."""
    return build(request.param)


@pytest.fixture
def retinanet():
    return build('RetinaNet')
