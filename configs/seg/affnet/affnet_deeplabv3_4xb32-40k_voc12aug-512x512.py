# DeepLabv3 + AFFNet on PASCAL VOC 2012: 80.5 mIoU, as published; the recipe is not, and its data hold images of COCO too.
# GPUs and iterations (about as many images as 50 epochs of all those data) are our choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/voc12aug_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg.py',
]
model = dict(backbone=dict(arch='affnet'), decode_head=dict(in_channels=320, num_classes=21))
train_dataloader = dict(batch_size=32)
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=501, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=500, end=40000, by_epoch=False),
]
