"""Every HorNet segmentation config: its name, the published recipe, a full-size build, one training and one prediction step."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

import mmfreq
from mmfreq.engine.machine import sync_to_batch_norm
from mmfreq.registry import MODELS

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
FILES = sorted((CONFIGS / 'seg/hornet').glob('*.py'))
HEADLINE = CONFIGS / 'upernet_hornet_ade20k.py'
NAME = re.compile(
    r'(?P<arch>hornet-([a-z]+(-7x7|-gf)?|dim(?P<dim>\d+)))_(?P<head>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<iters>\d+k?)_(?P<data>[a-z0-9]+)-'
    r'(?P<height>\d+)x(?P<width>\d+)'
)
DATASETS = {'ade20k': ('ADE20KDataset', 150), 'camvid': ('mmfreq.CamVidDataset', 11), 'toy': ('mmfreq.ToyShapesDataset', 6)}

# the published ADE20K recipes: crop, stride, drop path, decay rate, num_layers, clipping (None: none), checkpointing
RECIPES = {
    'hornet-tiny-7x7_upernet': (512, 341, 0.4, 0.9, 6, None, False),
    'hornet-tiny-gf_upernet': (512, 341, 0.4, 0.9, 6, 1, False),
    'hornet-small-7x7_upernet': (512, 341, 0.3, 0.9, 12, None, False),
    'hornet-small-gf_upernet': (512, 341, 0.3, 0.9, 12, 1, False),
    'hornet-base-7x7_upernet': (512, 341, 0.4, 0.9, 12, None, False),
    'hornet-base-gf_upernet': (512, 341, 0.5, 0.9, 12, 1, False),
    'hornet-large-7x7_upernet': (640, 426, 0.4, 0.8, 12, None, False),
    'hornet-large-gf_upernet': (640, 426, 0.4, 0.8, 12, 0.1, True),
    'hornet-small-7x7_horfpn-7x7-upernet': (512, 341, 0.3, 0.9, 12, None, False),
    'hornet-small-7x7_horfpn-gf-upernet': (512, 341, 0.3, 0.9, 12, 0.1, False),
}
# parameters of the whole segmentor, in millions, as published (HorFPN's: computed from the published modules)
SEGMENTOR_PARAMS = {
    'hornet-tiny-7x7_upernet': 52,
    'hornet-tiny-gf_upernet': 55,
    'hornet-small-7x7_upernet': 81.18,
    'hornet-small-gf_upernet': 85,
    'hornet-base-7x7_upernet': 121,
    'hornet-base-gf_upernet': 126,
    'hornet-large-7x7_upernet': 232,
    'hornet-large-gf_upernet': 239,
    'hornet-small-7x7_horfpn-7x7-upernet': 74.28,
    'hornet-small-7x7_horfpn-gf-upernet': 74.66,
}


def build(model):
    """The segmentor with batch norm for SyncBN, as every run of one process has it."""
    sync_to_batch_norm(model)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(model)


def published():
    return [f for f in FILES if 'ade20k' in f.stem]


def key(file):
    return '_'.join(file.stem.split('_')[:2])


def test_collection_is_complete():
    assert {key(f) for f in published()} == set(RECIPES)
    assert len(FILES) >= len(RECIPES) + 3


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_name_tells_the_truth(file):
    said = NAME.fullmatch(file.stem)
    assert said, f'{file.stem} is not <arch>_<head>_<gpus>xb<batch>-<schedule>_<dataset>-<height>x<width>'
    cfg = Config.fromfile(file)
    dataset, classes = DATASETS[said['data']]
    arch = cfg.model.backbone.arch
    assert arch.base_dim == int(said['dim']) if said['dim'] else arch == said['arch']
    assert cfg.train_dataloader.batch_size == int(said['batch'])
    assert cfg.train_cfg.max_iters == int(said['iters'].replace('k', '000'))
    assert cfg.train_dataloader.dataset.type == cfg.test_dataloader.dataset.type == dataset
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == classes
    assert tuple(cfg.model.data_preprocessor.size) == (int(said['height']), int(said['width']))
    crops = [t.crop_size for t in cfg.train_pipeline if t.type == 'RandomCrop']
    assert all(tuple(c) == tuple(cfg.model.data_preprocessor.size) for c in crops)
    assert ('mmfreq.GnUPerHead' if 'horfpn' in said['head'] else 'UPerHead') == cfg.model.decode_head.type


@pytest.mark.parametrize('file', published(), ids=lambda f: f.stem)
def test_recipe_is_the_published(file):
    cfg = Config.fromfile(file)
    crop, stride, drop_path, rate, num_layers, clip, with_cp = RECIPES[key(file)]
    backbone = cfg.model.backbone
    assert (backbone.drop_path_rate, backbone.get('with_cp', False)) == (drop_path, with_cp)
    if 'gf' in backbone.arch:
        assert backbone.img_size == 384  # filters of 24x13 and 12x7
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))
    assert cfg.train_pipeline[2].scale == (4 * crop, crop)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(decay_rate=rate, decay_type='stage_wise', num_layers=num_layers)
    assert cfg.optim_wrapper.get('clip_grad') == (None if clip is None else dict(max_norm=clip, norm_type=2))
    head, aux = cfg.model.decode_head, cfg.model.auxiliary_head
    assert (head.channels, head.dropout_ratio, head.norm_cfg.type, head.align_corners) == (512, 0.1, 'SyncBN', False)
    assert (aux.in_index, aux.channels, aux.num_convs, aux.loss_decode.loss_weight) == (2, 256, 1, 0.4)
    assert cfg.imagenet_checkpoint.startswith('https://')
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (160000, 16000)


def test_schedule_is_the_published():
    """lr(t) = base (1 - t / 160000), times the warm-up 1 - (1 - t / 1500)(1 - 1e-6) before iteration 1500."""
    cfg = Config.fromfile(HEADLINE)
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


@pytest.mark.parametrize('file', published(), ids=lambda f: f.stem)
def test_full_size_builds_with_the_published_number_of_parameters(file):
    with torch.device('meta'):
        model = build(Config.fromfile(file).model)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    want = SEGMENTOR_PARAMS[key(file)]
    assert abs(millions - want) < (0.5 if isinstance(want, int) else 0.006), millions


@pytest.mark.parametrize('file', [*FILES, HEADLINE], ids=lambda f: f.stem)
def test_one_training_and_one_prediction_step_with_the_smallest_arch(file):
    cfg = Config.fromfile(file)
    cfg.model.backbone.update(arch='hornet-micro', img_size=64)
    cfg.model.data_preprocessor.size = (64, 64)
    for head, channels in ((cfg.model.decode_head, [16, 32, 64, 128]), (cfg.model.auxiliary_head, 64)):
        head.update(in_channels=channels, channels=16)
    if cfg.model.test_cfg.mode == 'slide':
        cfg.model.test_cfg.update(crop_size=(64, 64), stride=(42, 42))
    model = build(cfg.model)
    with DefaultScope.overwrite_default_scope('mmseg'):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = [p.detach().clone() for p in model.backbone.parameters()]
    batch = dict(inputs=[torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in range(2)], data_samples=samples(2))
    losses = model.train_step(batch, wrapper)
    assert all(torch.isfinite(v).all() for v in losses.values()) and {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.backbone.parameters()))
    model.eval()
    image = dict(inputs=[torch.randint(0, 255, (3, 70, 90), dtype=torch.uint8)], data_samples=samples(1, (70, 90)))
    with torch.no_grad():
        (result,) = model.test_step(image)
    assert result.pred_sem_seg.data.shape == (1, 70, 90)
    assert result.seg_logits.data.shape[0] == cfg.model.decode_head.num_classes


def samples(count, size=(64, 64)):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    out = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, *size)))
        out.append(sample)
    return out


def test_headline_is_the_tiny_gf_row():
    row = CONFIGS / 'seg/hornet/hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
    assert Config.fromfile(HEADLINE).to_dict() == Config.fromfile(row).to_dict()


def test_published_weights_enter_by_options(tmp_path):
    """As README says: two options name the file of the ImageNet weights."""
    classifier = mmfreq.build_classifier('hornet-micro')
    torch.save({'model': classifier.state_dict()}, tmp_path / 'weights.pth')
    cfg = Config.fromfile(HEADLINE)
    options = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'weights.pth')}
    cfg.merge_from_dict({'model.backbone.arch': 'hornet-micro', **{f'model.backbone.init_cfg.{k}': v for k, v in options.items()}})
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    assert torch.equal(backbone.stages[0][0].pwconv1.weight, classifier.stages[0][0].pwconv1.weight)
