"""Small models of images that do not have three channels: configs, checkpoints of random weights, and files for them."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfreq.apis.loading import build_model, read_config
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor
from tests.broken_images import pixels

SIZE = (64, 96)
TIFFFILE = dict(type='LoadImageFromFile', imdecode_backend='tifffile', color_type='unchanged', to_float32=True)
# name -> (channels, the transform that loads, mean, std)
KINDS = {
    'gray': (1, dict(type='LoadImageFromFile', color_type='grayscale'), 120.0, 60.0),
    '16 bits': (1, dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True), 30000.0, 15000.0),
    '4 bands': (4, dict(type='LoadImageFromFile', color_type='unchanged'), 120.0, 60.0),
    '5 bands': (5, TIFFFILE, 3000.0, 1500.0),
}
DETECTOR = """
default_scope = 'mmdet'
pipeline = [dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
model = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[128.], std=[50.], pad_size_divisor=32),
    backbone=dict(type='mmfreq.HorNet', arch='hornet-micro', in_channels=1, out_indices=(2, 3)),
    neck=dict(type='FPN', in_channels=[64, 128], out_channels=8, num_outs=2),
    bbox_head=dict(type='FCOSHead', num_classes=5, in_channels=8, feat_channels=8, stacked_convs=1, strides=[16, 32],
                   regress_ranges=((-1, 64), (64, 1e8)), norm_cfg=None),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=6))
test_dataloader = dict(dataset=dict(type='mmfreq.ToyInstancesDataset', ann_file='none.json', data_prefix=dict(img=''),
                                    pipeline=pipeline))
"""
CLASSIFIER = """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=4, mean=[120.0], std=[60.0])
model = dict(type='ImageClassifier', backbone=dict(type='mmfreq.HorNet', arch='hornet-micro', in_channels=1, out_indices=(3,)),
             neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=4, in_channels=128))
test_dataloader = dict(dataset=dict(type='CustomDataset', data_root='nowhere', pipeline=[
    dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='CenterCrop', crop_size=64), dict(type='PackInputs')]))
"""


def segmentor(kind):
    """The text of a config."""
    channels, load, mean, std = KINDS[kind]
    model = toy_segmentor('GN', in_channels=channels)
    model['data_preprocessor'] |= dict(mean=[mean] * channels, std=[std] * channels, bgr_to_rgb=False)
    cfg = toy_segmentation_config('nowhere', model=model)
    cfg['test_dataloader']['dataset']['pipeline'][0] = load
    return ''.join(f'{name} = {value!r}\n' for name, value in cfg.items())


def write_model(folder, text):
    """Write a config and a checkpoint of random weights, of which segmentors predict several classes; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    config.write_text(text, encoding='utf-8')
    torch.manual_seed(1)
    model, _ = build_model(read_config(config), None)
    if hasattr(model, 'decode_head'):
        model.decode_head.conv_seg.weight.data.mul_(100)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoint)
    return config, checkpoint


def write_image(folder, kind):
    """An image file for a model; returns its path and its values, (H, W) or (H, W, C), as the model gets them."""
    color = pixels(SIZE)
    if kind == '5 bands':
        import tifffile

        bands = np.dstack([color, color[::-1, :, :2]]).astype(np.uint16) * 20
        tifffile.imwrite(folder / 'five.tif', bands, photometric='minisblack', planarconfig='contig')
        return folder / 'five.tif', bands.astype(np.float32)
    values = {
        'gray': color[..., 0],
        '16 bits': color[..., 0].astype(np.uint16) * 250,
        '4 bands': np.dstack([color, color[::-1, :, 0]]),
    }[kind]
    path = folder / f'{kind.replace(" ", "_")}.png'
    cv2.imwrite(str(path), values)
    return path, values.astype(np.float32) if kind == '16 bits' else values


def expected_prediction(config, checkpoint, path):
    """What the model predicts for the output of the config's own test pipeline, annotations aside, as `tools/test.py` does."""
    from mmengine.dataset import Compose

    cfg = Config.fromfile(config)
    model, _ = build_model(cfg, checkpoint)
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if step['type'] != 'LoadAnnotations']
    packed = Compose(steps)({'img_path': str(path), 'img_id': 0})
    with torch.no_grad():
        return model.test_step({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})[0]


def models_by_kind(tmp_path_factory, **more):
    """A function from a kind to its config, checkpoint, image file and the values of that, each written once.

    Args:
        more: texts of further configs by name, which get a gray image.
    """
    texts = {kind: segmentor(kind) for kind in KINDS} | more
    made = {}

    def get(kind):
        if kind == '5 bands':
            pytest.importorskip('tifffile')
        if kind not in made:
            folder = tmp_path_factory.mktemp('model')
            made[kind] = *write_model(folder, texts[kind]), *write_image(folder, kind if kind in KINDS else 'gray')
        return made[kind]

    return get
