"""Backbones in the stock configs of mmseg, mmdet and mmpretrain: mix, build, one training step, predictions.

Nothing is downloaded. The configs are changed for speed: small images, fewer transformer layers and queries, and score thresholds
of 0, so that an untrained model predicts something.
"""

from itertools import cycle

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmfreq.config.mix import mix
from mmfreq.engine.processes import sync_to_batch_norm

FAMILIES = ('hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro')
ISOTROPIC = 'gfnet-micro'
SIZE = (64, 96)  # of images to segment
ADE, COCO = '_4xb4-160k_ade20k-512x512.py', '_1x_coco.py'
NARROW = {'model.decode_head.channels': 64}
REGIONS = {
    'model.train_cfg.rpn_proposal.max_per_img': 100,
    'model.test_cfg.rpn.max_per_img': 100,
    'model.test_cfg.rcnn.score_thr': 0.0,
}
ONE_STAGE = {'model.test_cfg.score_thr': 0.0}
DETR = {'model.num_queries': 20, 'model.encoder.num_layers': 1, 'model.decoder.num_layers': 2}
SEGMENTORS = {
    f'mmseg::upernet/upernet_r50{ADE}': NARROW,
    f'mmseg::sem_fpn/fpn_r50{ADE}': {},
    f'mmseg::pspnet/pspnet_r50-d8{ADE}': NARROW,
    f'mmseg::deeplabv3plus/deeplabv3plus_r50-d8{ADE}': NARROW,
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {},
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py': {
        'model.decode_head.num_queries': 20,
        'model.decode_head.pixel_decoder.encoder.num_layers': 1,
        'model.decode_head.transformer_decoder.num_layers': 2,
        'model.decode_head.train_cfg.num_points': 256,
    },
}
DETECTORS = {
    f'mmdet::mask_rcnn/mask-rcnn_r50_fpn{COCO}': REGIONS,
    f'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn{COCO}': REGIONS,
    f'mmdet::retinanet/retinanet_r50_fpn{COCO}': ONE_STAGE,
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': ONE_STAGE,
    f'mmdet::atss/atss_r50_fpn{COCO}': ONE_STAGE,
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': DETR,
}
SSD, DINO = 'mmdet::ssd/ssd300_coco.py', 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
DYHEAD = f'mmdet::dyhead/atss_r50_fpn_dyhead{COCO}'
CHANGED = SEGMENTORS | DETECTORS | {SSD: ONE_STAGE, DINO: DETR, DYHEAD: ONE_STAGE}
MATRIX = list(zip(SEGMENTORS | DETECTORS, cycle(FAMILIES)))  # outputs of a backbone do not depend on the head: one of each
OTHERS = [
    ('mmseg::setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py', ISOTROPIC),
    ('mmseg::setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py', ISOTROPIC),
    ('mmseg::setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py', 'dfformer-micro'),
    (f'mmseg::upernet/upernet_r50{ADE}', ISOTROPIC),
    (f'mmseg::deeplabv3plus/deeplabv3plus_r50-d8{ADE}', ISOTROPIC),
    ('mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py', 'affnet-micro'),
    (f'mmdet::retinanet/retinanet_r50_fpn{COCO}', ISOTROPIC),
    ('mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', ISOTROPIC),
    (SSD, 'hornet-micro'),
    (DINO, 'dfformer-micro'),
    (DYHEAD, 'affnet-micro'),
]


def short(value):
    return value.rpartition('/')[2].partition('_')[0]


def build(base, arch):
    """The mixed model, with the library's own initial weights."""
    scope = base.partition('::')[0]
    size = {'model.data_preprocessor.size': SIZE} if scope == 'mmseg' else {}
    cfg = mix(base, arch, img_size=64, options=size | CHANGED.get(base, {})).config
    sync_to_batch_norm(cfg.model)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def segmentation_batch(classes):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, classes, (1, *SIZE)))) for _ in range(2)]
    for sample in samples:
        sample.set_metainfo(dict(ori_shape=SIZE, img_shape=SIZE, pad_shape=SIZE))
    return dict(inputs=[torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


def detection_batch(base):
    sizes = [[3, 300, 300]] * 2 if base == SSD else [[3, 96, 128], [3, 128, 96]]
    return demo_mm_inputs(2, sizes, num_items=[3, 3], num_classes=80, with_mask='mask' in base)


def train_step(model, batch):
    """One step; asserts finite losses, and a finite gradient that is not zero for every parameter of the backbone."""
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=1e-3)))
    norms = {}
    for name, p in model.backbone.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: norms.update({name: p.grad.norm()}))
    model.train()
    losses = model.train_step(batch, wrapper)
    assert losses and all(torch.isfinite(value).all() for value in losses.values())
    assert norms and norms.keys() == dict(model.backbone.named_parameters()).keys()
    assert not [name for name, norm in norms.items() if not 0 < norm < float('inf')]


def check_segmentation(sample, classes):
    logits = sample.seg_logits.data
    assert logits.shape == (classes, *SIZE) and torch.isfinite(logits).all()
    assert torch.equal(sample.pred_sem_seg.data[0], logits.argmax(0))


def check_detection(sample, with_mask):
    found = sample.pred_instances
    assert 0 < len(found) <= 300 and found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
    assert found.scores.min() >= 0 and found.scores.max() <= 1 and found.labels.min() >= 0 and found.labels.max() < 80
    if with_mask:
        assert found.masks.shape == (len(found), *sample.ori_shape)


def check_trains_and_predicts(base, arch):
    model, scope = build(base, arch), base.partition('::')[0]
    assert model.backbone.arch_name == arch
    classes = model.decode_head.num_classes if scope == 'mmseg' else 80
    batch = segmentation_batch(classes) if scope == 'mmseg' else detection_batch(base)
    with DefaultScope.overwrite_default_scope(scope):
        train_step(model, batch)
        model.eval()
        with torch.no_grad():
            samples = model.test_step(batch)
    assert len(samples) == 2
    for sample in samples:
        if scope == 'mmseg':
            check_segmentation(sample, classes)
        else:
            check_detection(sample, 'mask' in base)


def test_matrix_is_complete():
    assert len(SEGMENTORS) == len(DETECTORS) == 6 and len(set(MATRIX)) == 12 and not set(MATRIX) & set(OTHERS)
    for bases in (SEGMENTORS, DETECTORS):
        assert {arch for base, arch in MATRIX if base in bases} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize(('base', 'arch'), MATRIX + OTHERS, ids=short)
def test_mixed_models_train_and_predict(base, arch):
    check_trains_and_predicts(base, arch)


def test_one_mixed_model_of_the_matrix():
    """A fast part of the matrix."""
    check_trains_and_predicts(f'mmseg::sem_fpn/fpn_r50{ADE}', 'hornet-micro')


def test_mmpretrain_classifier():
    cfg = Config({'model': get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py').model})
    backbone = dict(_delete_=True, type='mmfreq.HorNet', arch='hornet-micro', img_size=64, out_indices=(3,))
    cfg.merge_from_dict({'model': {'backbone': backbone, 'head': dict(in_channels=128)}})
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
        inputs = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
        samples = [DataSample().set_gt_label(k) for k in (3, 7)]
        train_step(model, dict(inputs=inputs, data_samples=samples))
