"""Dense configs train a step and predict with the smallest arch of their family and their own optimizer and heads.

One config of each combination of family and model types is run; every config is built at full size on the meta device.
"""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmfreq.config.mix import mix
from mmfreq.config.reading import type_name
from mmfreq.engine.processes import fit_norms, fit_precision
from mmfreq.zoo.rows import load_rows
from tests.configs.names import CONFIGS, LEAFS
from tests.configs.reading import check_each, read_config

HEADLINE = CONFIGS / 'upernet_hornet_ade20k.py'
# prefix of an arch name -> smallest arch of its family; the first match is used
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
# the configs that are run: one of each combination
RUN = (
    'affnet-et_ssdlite_8xb16-200e_coco-320x320',
    'affnet_mask-rcnn_8xb2-1x_coco',
    'cdfformer-s18_retinanet_8xb2-amp-1x_coco',
    'dfformer-s18_mask-rcnn_8xb2-1x_coco',
    'dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320',
    'gfnet-cnn-t_mask-rcnn_8xb2-1x_coco',
    'gfnet-s_mask-rcnn_8xb2-1x_coco',
    'hornet-tiny-gf_cascade-mask-rcnn_8xb2-ms-crop-3x_coco',
    'hornet-micro_mask-rcnn_1xb4-8e_toy-160x192',
    'hornet-small-7x7_mask-rcnn-horfpn-gf_8xb2-ms-crop-1x_coco',
    'affnet-et_deeplabv3_8xb4-80k_ade20k-512x512',
    'affnet_upernet_8xb2-160k_ade20k-512x512',
    'dfformer-s18_fpn_8xb4-40k_ade20k-512x512',
    'cdfformer-s18_upernet_8xb2-160k_ade20k-512x512',
    'gfnet-h-ti_upernet_8xb2-160k_ade20k-512x512',
    'gfnet-h-ti_fpn_8xb4-40k_ade20k-512x512',
    'gfnet-s_upernet_8xb2-160k_ade20k-512x512',
    'hornet-tiny-gf_upernet_8xb2-amp-160k_ade20k-512x512',
    'hornet-dim32_upernet_1xb8-1600_camvid-180x240',
    'affnet-dim48_upernet_1xb8-800_camvid-180x240',
    'dfformer-dim32_upernet_1xb8-800_camvid-180x240',
    'gfnet-h-dim40_upernet_1xb8-800_camvid-180x240',
    'hornet-small-7x7_horfpn-gf-upernet_8xb2-160k_ade20k-512x512',
)
QUICK = ('gfnet-h-ti_fpn_8xb4-40k_ade20k-512x512', 'dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320')  # run in the fast tests
REGIONS = {'model.train_cfg.rpn_proposal.max_per_img': 40, 'model.test_cfg.rpn.max_per_img': 40}
SLOW = pytest.mark.slow
run_configs = pytest.mark.parametrize('name', [pytest.param(name, marks=() if name in QUICK else SLOW) for name in RUN])


def scope_of(path):
    return {'seg': 'mmseg', 'det': 'mmdet'}.get(path.parts[-3], 'mmseg')


def types_of(node):
    """All types in a nested config."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    own = {type_name(node['type'])} if isinstance(node, dict) and 'type' in node else set()
    return own.union(*map(types_of, children))


def combination(path):
    """What a step depends on: the family, and the types of the model and of all its parts except the backbone."""
    model = read_config(path).model
    family = path.parent.name if path != HEADLINE else 'hornet'
    return scope_of(path), family, frozenset(types_of({key: value for key, value in model.items() if key != 'backbone'}))


def test_every_combination_is_run_once():
    by_name = {path.stem: combination(path) for path in [*LEAFS, HEADLINE]}
    run = [by_name[name] for name in RUN]
    assert len(set(run)) == len(run)
    assert {name: sorted(each[2]) for name, each in by_name.items() if each not in run} == {}, 'add one of these to RUN'


def small(path):
    """The config with the family's smallest arch at 64 x 64, fitted to one process without a GPU."""
    arch = next(micro for begin, micro in MICRO.items() if path.stem.startswith(begin))
    cfg = with_smallest_gfnet(read_config(path)) if arch == 'gfnet-micro' else mix(str(path), arch, img_size=64).config
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
    """Set manually, because mix.py would replace the neck of these configs."""
    cfg.merge_from_dict({'model.backbone.arch': 'gfnet-micro', 'model.backbone.img_size': 64})
    feature2pyramid, *fpn = cfg.model.neck if isinstance(cfg.model.neck, list) else [cfg.model.neck]
    feature2pyramid.embed_dim = 32
    for part in (*fpn, cfg.model.get('decode_head'), cfg.model.get('auxiliary_head')):
        if part:
            part.in_channels = [32] * 4 if isinstance(part.in_channels, (list, tuple)) else 32
    return cfg


def batch(path, size, count):
    """Images and annotations, in the format of the data preprocessor."""
    if scope_of(path) == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(count, [(3, *size)] * count, num_items=[3] * count, num_classes=3, with_mask=True)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size)) for _ in range(count)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *size)))
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in range(count)], data_samples=samples)


@run_configs
def test_one_training_and_one_prediction_step(name):
    (path,) = (path for path in LEAFS if path.stem == name)
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
def test_built_at_full_size():
    """On the meta device: as many parameters as in the metafiles, each exactly once in the optimizer."""
    check_each([row for row in load_rows() if row.task != 'cls'], check_full_size, label=lambda row: row.name)


def check_full_size(row):
    cfg = read_config(row.config)
    fit_norms(cfg, distributed=False)
    fit_precision(cfg, amp=False)
    with DefaultScope.overwrite_default_scope(scope_of(row.config)), torch.device('meta'):
        model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert sum(p.numel() for p in model.parameters()) == row.entry['Metadata']['Parameters']
    stepped = [id(p) for group in groups for p in group['params'] if p.requires_grad]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
