"""A folder of checkpoints with random weights, and a server of it in a thread."""

import os
import threading

import cv2
import numpy as np
import pytest
import torch

from mmfreq.apis.loading import build_model, read_config
from mmfreq.datasets import TOY_METAINFO
from mmfreq.demo.server import make_server
from mmfreq.testing.toy_segmentation import toy_segmentor, write_toy_config

DETECTOR = """
default_scope = 'mmdet'
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs')]
model = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[128.] * 3, std=[50.] * 3, bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type='mmfreq.AFFNet', arch='affnet-micro', out_indices=(2, 3)),
    neck=dict(type='FPN', in_channels=[CHANNELS], out_channels=8, num_outs=2),
    bbox_head=dict(type='FCOSHead', num_classes=5, in_channels=8, feat_channels=8, stacked_convs=1, strides=[16, 32],
                   regress_ranges=((-1, 64), (64, 1e8)), norm_cfg=None),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=6))
test_dataloader = dict(dataset=dict(type='mmfreq.ToyInstancesDataset', ann_file='none.json', data_prefix=dict(img=''),
                                    pipeline=pipeline))
"""


def png(image):
    """The bytes of a PNG file; `image` (H, W, 3) RGB."""
    return cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def save_random(config, checkpoint, meta):
    torch.manual_seed(0)
    model, _ = build_model(read_config(config), None)
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': meta}}, checkpoint)
    return model


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """`seg`: a checkpoint of a segmentor and a damaged copy; `det`: a detector with AFFNet, which stores no filters."""
    import mmfreq

    root = tmp_path_factory.mktemp('demo')
    for name in ('seg', 'det'):
        (root / name).mkdir()
    config = write_toy_config(root / 'seg/toy.py', 'none', model=toy_segmentor('GN'))
    save_random(config, root / 'seg/iter_2.pth', TOY_METAINFO)
    data = (root / 'seg/iter_2.pth').read_bytes()
    (root / 'seg/iter_1.pth').write_bytes(data[: len(data) // 2])
    os.utime(root / 'seg/iter_1.pth', (0, 0))
    channels = mmfreq.build_backbone('affnet-micro', out_indices=(2, 3)).out_channels
    (root / 'det/detector.py').write_text(DETECTOR.replace('CHANNELS', ', '.join(map(str, channels))))
    save_random(root / 'det/detector.py', root / 'det/epoch_1.pth', {})
    return root


@pytest.fixture(scope='session')
def server(folders):
    with make_server(folders=[folders / 'seg', folders / 'det'], port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
