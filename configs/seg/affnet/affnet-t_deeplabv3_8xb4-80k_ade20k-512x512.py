# DeepLabv3 + AFFNet-T on ADE20K. Published: 36.9 mIoU, with a recipe that is not published. Batch and iterations (about the 120
# epochs of CVNets' ADE20K recipes) are our own choice.
_base_ = [
    '../../_base_/models/deeplabv3_affnet.py',
    '../../_base_/datasets/ade20k_affnet.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/affnet_seg.py',
]
model = dict(
    backbone=dict(arch='affnet-t', init_cfg=dict(type='Pretrained', checkpoint='mmfreq://affnet-t/in1k')),
    decode_head=dict(in_channels=192),
)
train_dataloader = dict(batch_size=4)
