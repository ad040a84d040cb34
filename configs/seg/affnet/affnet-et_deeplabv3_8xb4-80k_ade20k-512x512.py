# DeepLabv3 + AFFNet-ET on ADE20K. Published: 33.0 mIoU, with a recipe that is not published. Batch and iterations (about the 120
# epochs of CVNets' ADE20K recipes) are our own choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/ade20k_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg.py',
]
model = dict(
    backbone=dict(arch='affnet-et', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet-et/in1k')),
    decode_head=dict(in_channels=144),
)
train_dataloader = dict(batch_size=4)
