"""The installed libraries' own configs train a step and predict on the ops that are here.

Changed in them are the data and, to keep it short, the width of the box head and the number of proposals. No weights are
downloaded. Images are (128, 160) for detection, the batch is 2.
"""

import json

import mmdet.registry
import mmseg.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torchvision.ops import box_iou

from mmfreq.datasets.toy import write_toy_ade20k, write_toy_coco

HEIGHT, WIDTH = 128, 160
MOST = 30  # regions proposed, and found, in an image


@pytest.fixture
def scope(request):
    """The config's own scope, so that its types are found in its own library."""
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Folder and class names of a toy set in COCO's layout."""
    root = tmp_path_factory.mktemp('coco')
    write_toy_coco(str(root), train=2, val=2, size=(HEIGHT, WIDTH), seed=0)
    categories = json.loads((root / 'annotations' / 'instances_train2017.json').read_text())['categories']
    return root, [category['name'] for category in categories]


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    """Folder of a toy set in ADE20K's layout."""
    root = tmp_path_factory.mktemp('ade')
    write_toy_ade20k(str(root), train=2, val=2, size=(64, 96), seed=0)
    return root


def change(node, **values):
    """Set every key of that name anywhere in a config's model and data."""
    if isinstance(node, Config):
        node = [node.model, node.train_dataloader, node.test_dataloader]
    for entry in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        change(entry, **values)
    if isinstance(node, dict):
        node.update({key: value for key, value in values.items() if key in node})


def build(cfg, registry):
    """Model with random weights, optimizer, and two samples each of the training and test data."""
    model = revert_sync_batchnorm(registry.MODELS.build(cfg.model))
    model.init_weights()
    batches = []
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        dataset = registry.DATASETS.build(loader.dataset)
        assert len(dataset) == 2
        batches.append(pseudo_collate([dataset[0], dataset[1]]))
    return model, build_optim_wrapper(model, cfg.optim_wrapper), *batches


def train_one_step(model, optimizer, batch):
    """One step; the losses by name. Asserts that they are finite and that a gradient reaches the backbone's trained stages."""
    model.train()
    batch = model.data_preprocessor(batch, training=True)
    total, losses = model.parse_losses(model(**batch, mode='loss'))
    optimizer.backward(total)
    assert all(value.isfinite().all() for value in losses.values()) and total > 0
    for stage in ('layer2', 'layer3', 'layer4'):
        grad = getattr(model.backbone, stage)[0].downsample[0].weight.grad
        assert grad.isfinite().all() and grad.abs().sum() > 0
    before = model.backbone.layer4[0].downsample[0].weight.clone()
    optimizer.step()
    assert not torch.equal(before, model.backbone.layer4[0].downsample[0].weight)
    return set(losses)


MASK_RCNN, RETINANET = 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'retinanet/retinanet_r50_fpn_1x_coco.py'
LOSSES = {
    MASK_RCNN: {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'},
    RETINANET: {'loss_cls', 'loss_bbox'},
}


@pytest.mark.parametrize('scope', ['mmdet'], indirect=True)
@pytest.mark.parametrize('name', [MASK_RCNN, pytest.param(RETINANET, marks=pytest.mark.slow)])
def test_a_stock_detector_trains_and_predicts(name, scope, coco):
    root, classes = coco
    cfg = get_config(f'mmdet::{name}')
    change(cfg, data_root=f'{root}/', scale=(WIDTH, HEIGHT), num_classes=len(classes), filter_empty_gt=False)
    change(cfg, num=64, max_per_img=MOST, fc_out_channels=64)  # regions sampled and proposed
    cfg.model.backbone.init_cfg = None
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.metainfo = {'classes': classes}
        loader.dataset.test_mode = loader is cfg.test_dataloader
    (cfg.model.test_cfg.get('rcnn') or cfg.model.test_cfg).score_thr = 0.0  # an untrained model is sure of nothing
    model, optimizer, train, test = build(cfg, mmdet.registry)
    assert LOSSES[name] <= train_one_step(model, optimizer, train)

    model.eval()
    with torch.no_grad():
        samples = model.test_step(test)
    assert len(samples) == 2
    for sample in samples:
        found = sample.pred_instances
        assert 0 < len(found) <= MOST and sample.ori_shape == (HEIGHT, WIDTH)
        assert (found.bboxes >= 0).all() and (found.bboxes <= torch.tensor([WIDTH, HEIGHT] * 2)).all()
        assert (found.scores.diff() <= 0).all() and found.scores.min() >= 0 and found.scores.max() <= 1
        assert found.labels.min() >= 0 and found.labels.max() < len(classes)
        same = (found.labels[:, None] == found.labels).triu(1)
        assert box_iou(found.bboxes, found.bboxes)[same].max() < 0.5 + 1e-4  # what non-maximum suppression promises
        if 'mask' in name:
            assert found.masks.shape == (len(found), HEIGHT, WIDTH) and found.masks.dtype == torch.bool


@pytest.mark.slow
@pytest.mark.parametrize('scope', ['mmseg'], indirect=True)
def test_a_stock_segmentor_trains_and_predicts(scope, ade20k):
    cfg = get_config('mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py')
    change(cfg, data_root=str(ade20k), crop_size=(64, 64), scale=(96, 64))
    cfg.model.pretrained = None
    cfg.model.data_preprocessor.size = (64, 64)
    model, optimizer, train, test = build(cfg, mmseg.registry)
    assert {'decode.loss_ce', 'aux.loss_ce'} <= train_one_step(model, optimizer, train)

    model.eval()
    with torch.no_grad():
        samples = model.test_step(test)
    for sample in samples:
        assert sample.pred_sem_seg.data.shape == (1, 64, 96) and sample.seg_logits.data.shape == (150, 64, 96)
        assert torch.equal(sample.pred_sem_seg.data[0], sample.seg_logits.data.argmax(0))
    assert len(samples) == 2
