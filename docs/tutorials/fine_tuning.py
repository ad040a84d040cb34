"""
Fine-tuning on your own data set
================================

This tutorial trains a segmentor with two classes from images and label PNGs, starts it from
ImageNet weights, evaluates it and draws a prediction. It covers three points that often go wrong:
label files with the values 0 and 255, ``reduce_zero_label``, and a head for another number of
classes.

A micro arch and generated images keep the run short. The config is the same for a published size.
"""

import tempfile
from pathlib import Path

import mmfreq  # isort: skip  (before mmseg: it supplies mmcv._ext if mmcv has none)

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model
from mmseg.datasets.transforms import LoadAnnotations

plt.rcParams.update({'figure.dpi': 120, 'font.size': 9, 'axes.titlesize': 9})
folder = Path(tempfile.mkdtemp())

# %%
# The data
# --------
# Your data are images and label maps of the same name, in two folders for each split. Many
# annotation tools save a binary mask as a PNG with the values 0 (background) and 255 (object).
# This script draws such a data set: cracks on a rough surface.


def draw(generator, side=96):
    """An image (side, side, 3) and its mask with the values 0 and 255."""
    surface = generator.normal(150, 14, (side, side))
    surface = cv2.GaussianBlur(surface, (0, 0), 1) + generator.normal(0, 8, (side, side))
    mask = np.zeros((side, side), np.uint8)
    for _ in range(generator.integers(2, 4)):
        start = generator.integers(0, side, 2)
        steps = generator.normal(0, 6, (12, 2)) + generator.normal(0, 8, 2)
        points = np.cumsum(np.vstack((start, steps)), axis=0).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, thickness=int(generator.integers(5, 9)))
    crack = cv2.GaussianBlur(mask, (0, 0), 1) / 255
    image = surface - 55 * crack + generator.normal(0, 10)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), mask


for split, count, seed in (('training', 64, 0), ('validation', 16, 1)):
    generator = np.random.default_rng(seed)
    for kind in ('images', 'masks'):
        (folder / kind / split).mkdir(parents=True)
    for index in range(count):
        image, mask = draw(generator)
        cv2.imwrite(str(folder / 'images' / split / f'{index:03}.png'), image)
        cv2.imwrite(str(folder / 'masks' / split / f'{index:03}.png'), mask)
print(*sorted(str(path.relative_to(folder)) for path in folder.glob('*/*')), sep='\n')

# %%
# From values to class ids
# ------------------------
# A label map for training holds the **class id** of each pixel: 0, 1, ..., and 255 where the
# pixel has no label. OpenMMLab ignores 255 in the loss and in the metric. A mask with 0 and 255
# must therefore be converted. Trained as it is, it has one class and ignored pixels, and the
# model learns to predict background everywhere.
#
# ``reduce_zero_label=True`` is not the solution. It is for data sets such as ADE20K, whose files
# use 0 for "no label" and 1, 2, ... for the classes: it subtracts one and turns 0 into 255.
# Applied to a mask with 0 and 255, it ignores every pixel:

results = dict(seg_map_path=str(folder / 'masks/training/000.png'), seg_fields=[])
for reduce_zero_label in (False, True):
    transform = LoadAnnotations(reduce_zero_label=reduce_zero_label)
    loaded = transform.transform(dict(results, reduce_zero_label=reduce_zero_label))
    print(f'reduce_zero_label={reduce_zero_label!s:5}  ids {np.unique(loaded["gt_seg_map"])}')

# %%
# So write new files with the ids 0 and 1, and keep ``reduce_zero_label=False``. Save PNG: JPEG
# changes the values at edges.

for path in sorted(folder.glob('masks/*/*.png')):
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    target = folder / 'annotations' / path.parent.name / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), (mask > 127).astype(np.uint8))
ids = cv2.imread(str(folder / 'annotations/training/000.png'), cv2.IMREAD_UNCHANGED)
print('ids in the new file:', np.unique(ids), ' object:', f'{(ids == 1).mean():.0%} of the pixels')

# %%
# The weights
# -----------
# A real run names the published file, ``mmfreq://gfnet-h-ti``, and downloads it once: see
# :doc:`/weights`. This site is built without a network, so the script saves a file with the same
# names and random values. ``load_weights`` and ``init_cfg`` read both in the same way: they drop the classifier's
# head, resize the filters to ``img_size``, and raise an error if a parameter of the backbone
# would stay without a value.

arch = 'gfnet-h-micro'
weights = folder / f'{arch}.pth'
torch.manual_seed(0)
torch.save({'model': mmfreq.build_classifier(arch).state_dict()}, weights)
report = mmfreq.load_weights(mmfreq.build_backbone(arch, img_size=96), weights)
print(str(report).replace(f'{folder}/', ''))

# %%
# The config
# ----------
# One file of Python holds the model, the data and the schedule. Save it as ``my_config.py``.
# Where the number of classes appears, it is 2: background and crack. Both are classes, so
# ``num_classes`` counts the background, too.

(folder / 'my_config.py').write_text(f"""
_base_ = 'mmseg::_base_/default_runtime.py'

# the model: Semantic FPN with GFNet-H
data_preprocessor = dict(
    type='SegDataPreProcessor', size=(96, 96), seg_pad_val=255, bgr_to_rgb=True,
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmfreq.GFNetPyramid', arch='{arch}', img_size=96,
        init_cfg=dict(type='Pretrained', checkpoint='{weights}'),
    ),
    neck=dict(type='FPN', in_channels=[16, 24, 32, 48], out_channels=32, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[32, 32, 32, 32], in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32], channels=32, num_classes=2, align_corners=False,
        norm_cfg=dict(type='GN', num_groups=8), loss_decode=dict(type='CrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)

# the data
metainfo = dict(classes=('background', 'crack'), palette=[[90, 90, 90], [220, 40, 40]])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset', data_root='{folder}', metainfo=metainfo, reduce_zero_label=False,
    img_suffix='.png', seg_map_suffix='.png',
)
train_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline, **dataset,
    ),
)
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline, **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# the schedule
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=10),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=10, end=120),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=120, val_interval=120)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=120))
work_dir = '{folder / 'work'}'
log_level = 'ERROR'  # for this page; leave it out to see the log
""")

# %%
# For GFNet-H-S only ``arch``, the channels of its maps and the file of weights change.
# ``out_channels`` has the channels, and ``tools/mix.py`` writes them into any config.

config = Config.fromfile(folder / 'my_config.py')
large = mmfreq.build_backbone('gfnet-h-s')
size = sum(p.numel() for p in large.parameters())
print(f'gfnet-h-s: in_channels={list(large.out_channels)}, {size / 1e6:.1f}M parameters')

# %%
# Training
# --------
# On the command line, ``python tools/train.py my_config.py`` starts this run; with ``--dry-run``
# it checks the data, the labels, the weights and the disk first, and stops. In Python,
# ``mmfreq.engine.launch.train('my_config.py')`` does the same. This page uses mmengine's ``Runner``,
# without these checks and without resuming, to show that nothing else is needed:

torch.manual_seed(0)
runner = Runner.from_cfg(config)
runner.train()
loss, _ = runner.message_hub.get_scalar('train/loss').data

figure, ax = plt.subplots(figsize=(4.6, 2.4), layout='constrained')
ax.plot(loss, linewidth=1)
ax.set(xlabel='iteration', ylabel='loss', ylim=(0, None))
ax.grid(alpha=0.3)
plt.show()

# %%
# Evaluation
# ----------
# A model that predicts background everywhere has a high accuracy (aAcc), because most pixels are
# background. So compare the mIoU with that of this constant prediction, as ``tools/test.py
# --baseline`` does.

metrics = runner.val_loop.run()
print(
    'this model:            ',
    ', '.join(f'{name} {metrics[name]:.1f}' for name in ('aAcc', 'mIoU')),
)
paths = sorted(folder.glob('annotations/validation/*.png'))
truth = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths])
background = float((truth == 0).mean())
print(f'background everywhere:  aAcc {100 * background:.1f}, mIoU {100 * background / 2:.1f}')

# %%
# A prediction
# ------------
# ``init_model`` builds the model of a config and loads a checkpoint. The config names the
# ImageNet weights, too; the checkpoint replaces them. On the command line: ``python
# tools/infer.py my_config.py CHECKPOINT IMAGES``.

model = init_model(config, str(folder / 'work' / 'iter_120.pth'), device='cpu')
figure, axes = plt.subplots(3, 3, figsize=(4.8, 4.8), layout='constrained')
for row, name in zip(axes, ('000.png', '003.png', '006.png')):
    image = cv2.imread(str(folder / 'images/validation' / name))
    label = cv2.imread(str(folder / 'annotations/validation' / name), cv2.IMREAD_UNCHANGED)
    predicted = inference_model(model, image).pred_sem_seg.data[0].numpy()
    row[0].imshow(image[..., ::-1])
    for ax, ids in zip(row[1:], (label, predicted)):
        ax.imshow(image[..., ::-1], alpha=0.6)
        ax.imshow(np.ma.masked_equal(ids, 0), cmap='autumn', vmin=0, vmax=1, alpha=0.8)
for ax, title in zip(axes[0], ('image', 'label', 'prediction')):
    ax.set_title(title)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
