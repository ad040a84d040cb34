# DeepLabv3 + AFFNet-ET on PASCAL VOC 2012. Published: 76.1 mIoU, with a recipe that is not published and with images of COCO.
# GPUs and iterations (about the number of images of 50 epochs of that data) are our own choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/voc12aug_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg_40k.py',
]
model = dict(
    backbone=dict(arch='affnet-et', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet-et/in1k')),
    decode_head=dict(in_channels=144, num_classes=21),
)
train_dataloader = dict(batch_size=32)
