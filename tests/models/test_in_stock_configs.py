"""HorNet in models of the three libraries that know nothing of it: one training step each, from the library's own configs."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

import mmfreq.registry  # noqa: F401
from mmfreq.engine.machine import sync_to_batch_norm

BACKBONE = dict(type='mmfreq.HorNet', arch='hornet-micro', img_size=64)
CHANNELS = [16, 32, 64, 128]


def stock(name, scope, **changes):
    """The model of an installed library's config with the backbone and channels replaced."""
    cfg = get_config(f'{scope}::{name}')
    cfg = Config({'model': cfg.model})
    cfg.merge_from_dict({'model': {'backbone': dict(_delete_=True, **BACKBONE), **changes}})
    cfg.model.pop('pretrained', None)
    sync_to_batch_norm(cfg.model)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg.model)


def train_step(model, batch, scope):
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)))
        before = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
        losses = model.train_step(batch, wrapper)
    assert losses and all(torch.isfinite(value).all() for value in losses.values())
    still = [n for n, p in model.backbone.named_parameters() if torch.equal(p, before[n])]
    assert not still


@pytest.mark.slow
def test_mmdet_mask_rcnn():
    from mmdet.testing import demo_mm_inputs

    model = stock('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mmdet', neck=dict(in_channels=CHANNELS))
    batch = demo_mm_inputs(2, [[3, 96, 128], [3, 128, 96]], num_items=[3, 3], num_classes=80, with_mask=True)
    train_step(model, batch, 'mmdet')


def test_mmseg_fpn():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = stock('sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py', 'mmseg', neck=dict(in_channels=CHANNELS))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 96)))) for _ in range(2)]
    inputs = [torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    train_step(model, dict(inputs=inputs, data_samples=samples), 'mmseg')


def test_mmpretrain_classifier():
    from mmpretrain.structures import DataSample

    backbone = dict(_delete_=True, out_indices=(3,), **BACKBONE)
    model = stock('resnet/resnet18_8xb32_in1k.py', 'mmpretrain', backbone=backbone, head=dict(in_channels=128))
    inputs = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(k) for k in (3, 7)]
    train_step(model, dict(inputs=inputs, data_samples=samples), 'mmpretrain')
