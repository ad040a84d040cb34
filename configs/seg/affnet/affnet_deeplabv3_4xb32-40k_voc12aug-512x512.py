# DeepLabv3 + AFFNet on PASCAL VOC 2012: 80.5 mIoU, as published; the recipe is not, and its data hold images of COCO too.
# GPUs and iterations (about as many images as 50 epochs of all those data) are our choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/voc12aug_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg_40k.py',
]
model = dict(backbone=dict(arch='affnet'), decode_head=dict(in_channels=320, num_classes=21))
train_dataloader = dict(batch_size=32)
