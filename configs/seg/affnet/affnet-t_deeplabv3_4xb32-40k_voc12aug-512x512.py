# DeepLabv3 + AFFNet-T on PASCAL VOC 2012: 77.8 mIoU, as published; the recipe is not, and its data hold images of COCO too.
# GPUs and iterations (about as many images as 50 epochs of all those data) are our choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/voc12aug_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg_40k.py',
]
model = dict(backbone=dict(arch='affnet-t'), decode_head=dict(in_channels=192, num_classes=21))
train_dataloader = dict(batch_size=32)
