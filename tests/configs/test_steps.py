"""Every dense config trains a step and gives a prediction with the smallest arch of its family, by its own optimizer and heads."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmfreq.derive.mix import mix
from mmfreq.engine.machine import fit_norms, fit_precision
from mmfreq.zoo.rows import load_rows
from tests.configs.names import CONFIGS, LEAFS

HEADLINE = CONFIGS / 'upernet_hornet_ade20k.py'
# how an arch's name begins -> the smallest of its family; the first that fits
MICRO = {
    'hornet': 'hornet-micro',
    'gfnet-h': 'gfnet-h-micro',
    'gfnet-cnn': 'gfnet-cnn-micro',
    'gfnet': 'gfnet-micro',
    'cdfformer': 'cdfformer-micro',
    'dfformer': 'dfformer-micro',
    'affnet': 'affnet-micro',
    'upernet_hornet': 'hornet-micro',
}
# what the first tier runs: one of each method
QUICK = ('hornet-small-7x7_horfpn-gf', 'gfnet-h-ti_fpn', 'affnet-et_deeplabv3_8xb4', 'gfnet-s_mask', 'affnet-et_ssdlite')
REGIONS = {'model.train_cfg.rpn_proposal.max_per_img': 40, 'model.test_cfg.rpn.max_per_img': 40}
some_of = [pytest.param(path, marks=() if path.stem.startswith(QUICK) else pytest.mark.slow) for path in [*LEAFS, HEADLINE]]


def scope_of(path):
    return {'seg': 'mmseg', 'det': 'mmdet'}.get(path.parts[-3], 'mmseg')


def small(path):
    """The config with the family's smallest arch at 64 x 64, fitted to one process without a GPU."""
    arch = next(micro for begin, micro in MICRO.items() if path.stem.startswith(begin))
    cfg = with_smallest_gfnet(Config.fromfile(path)) if arch == 'gfnet-micro' else mix(str(path), arch, img_size=64).config
    if scope_of(path) == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
        if cfg.model.test_cfg.mode == 'slide':
            cfg.model.test_cfg.update(crop_size=(64, 64), stride=(42, 42))
    elif 'rpn_head' in cfg.model:
        cfg.merge_from_dict(REGIONS)
        stages = cfg.model.train_cfg.rcnn
        for stage in stages if isinstance(stages, list) else [stages]:
            stage.sampler.num = 16
    fit_norms(cfg, distributed=False)
    fit_precision(cfg, amp=False)
    return cfg


def with_smallest_gfnet(cfg):
    """By hand, since mix.py would put another neck in place of the one that these configs have chosen."""
    cfg.merge_from_dict({'model.backbone.arch': 'gfnet-micro', 'model.backbone.img_size': 64})
    spread, *fpn = cfg.model.neck if isinstance(cfg.model.neck, list) else [cfg.model.neck]
    spread.embed_dim = 32
    for part in (*fpn, cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')):
        if part:
            part.in_channels = [32] * 4 if isinstance(part.in_channels, (list, tuple)) else 32
    return cfg


def batch(path, size, count):
    """Images and what they show, as the data preprocessor takes them."""
    if scope_of(path) == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(count, [(3, *size)] * count, num_items=[3] * count, num_classes=3, with_mask=True)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size)) for _ in range(count)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *size)))
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in range(count)], data_samples=samples)


@pytest.mark.slow
@pytest.mark.parametrize('path', some_of, ids=lambda path: path.stem)
def test_one_training_and_one_prediction_step(path):
    cfg = small(path)
    with DefaultScope.overwrite_default_scope(scope_of(path)):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        before = [p.detach().clone() for p in model.backbone.parameters()]
        side = 320 if 'ssdlite' in path.stem else 64
        losses = model.train_step(batch(path, (side, side), 2), wrapper)
        assert losses and all(torch.isfinite(value).all() for value in losses.values())
        assert any(not torch.equal(a, b) for a, b in zip(before, model.backbone.parameters()))
        model.eval()
        size = (320, 320) if 'ssdlite' in path.stem else (70, 90)
        with torch.no_grad():
            (result,) = model.test_step(batch(path, size, 1))
    if scope_of(path) == 'mmseg':
        assert result.pred_sem_seg.data.shape == (1, *size)
        assert result.seg_logits.data.shape[0] == cfg.model.decode_head.num_classes
        return
    found = result.pred_instances
    assert len(found.bboxes) == len(found.scores) == len(found.labels) <= 200 and torch.isfinite(found.bboxes).all()
    assert ('masks' in found) == ('mask-rcnn' in path.stem)


@pytest.mark.slow
@pytest.mark.parametrize('row', [row for row in load_rows() if row.task != 'cls'], ids=lambda row: row.name)
def test_built_at_full_size(row):
    """Without memory; as many parameters as the zoo says."""
    cfg = Config.fromfile(row.config)
    fit_norms(cfg, distributed=False)
    with DefaultScope.overwrite_default_scope(scope_of(row.config)), torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == row.entry['Metadata']['Parameters']
