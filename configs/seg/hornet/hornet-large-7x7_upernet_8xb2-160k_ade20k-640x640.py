# UPerNet + HorNet-Large (7x7) on ADE20K. Published: 54.1 mIoU, 54.5 with multi-scale and flip.
# Starts from ImageNet-22k weights.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k_640x640.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
data_preprocessor = dict(size=(640, 640))
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        arch='hornet-large-7x7',
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-large-7x7/in22k-dense'),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
train_dataloader = dict(batch_size=2)
