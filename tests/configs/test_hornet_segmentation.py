"""HorNet's segmentation configs beyond the audit of the recipes: heads, filters, the learning rate, the weights."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

import mmfreq
from mmfreq.registry import MODELS
from tests.configs.reading import check_each, read_config

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
FILES = sorted((CONFIGS / 'seg/hornet').glob('*ade20k*.py'))
HEADLINE = CONFIGS / 'upernet_hornet_ade20k.py'


def test_model_is_as_published():
    check_each(FILES, check_model)


def check_model(file):
    cfg = read_config(file)
    backbone, head, aux = cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head
    assert backbone.get('with_cp', False) == (backbone.arch == 'hornet-large-gf')
    if 'gf' in backbone.arch:
        assert backbone.img_size == 384  # filters of 24x13 and 12x7
    assert head.type == ('mmfreq.GnUPerHead' if 'horfpn' in file.stem else 'UPerHead')
    assert (head.channels, head.dropout_ratio, head.norm_cfg.type, head.align_corners) == (512, 0.1, 'SyncBN', False)
    assert (aux.in_index, aux.channels, aux.num_convs, aux.loss_decode.loss_weight) == (2, 256, 1, 0.4)
    assert cfg.optim_wrapper.optimizer.betas == (0.9, 0.999)
    start = f'mmfreq://{backbone.arch}/in{"22k" if "large" in backbone.arch else "1k"}-dense'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=start) and cfg.train_cfg.val_interval == 16000


def test_schedule_is_as_published():
    """lr(t) = base (1 - t / 160000), times the warm-up 1 - (1 - t / 1500)(1 - 1e-6) before iteration 1500."""
    cfg = read_config(HEADLINE)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optim_wrapper(
        torch.nn.ParameterList([weight]), dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0))
    ).optimizer
    schedulers = [_scheduler(cfg_item, optimizer) for cfg_item in cfg.param_scheduler]
    for t in range(4001):
        if t in (0, 1, 700, 1499, 1500, 1501, 4000):
            warm = 1 - (1 - t / 1500) * (1 - 1e-6) if t < 1500 else 1
            assert optimizer.param_groups[0]['lr'] == pytest.approx((1 - t / 160000) * warm, rel=1e-6), t
        for scheduler in schedulers:
            scheduler.step()


def _scheduler(cfg, optimizer):
    from mmengine.registry import PARAM_SCHEDULERS

    return PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer))


def test_published_weights_can_be_set_by_options(tmp_path):
    """As in README: two options set the file of the ImageNet weights."""
    classifier = mmfreq.build_classifier('hornet-micro')
    torch.save({'model': classifier.state_dict()}, tmp_path / 'weights.pth')
    cfg = read_config(HEADLINE)
    options = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'weights.pth')}
    cfg.merge_from_dict({'model.backbone.arch': 'hornet-micro', **{f'model.backbone.init_cfg.{k}': v for k, v in options.items()}})
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    assert torch.equal(backbone.stages[0][0].pwconv1.weight, classifier.stages[0][0].pwconv1.weight)
