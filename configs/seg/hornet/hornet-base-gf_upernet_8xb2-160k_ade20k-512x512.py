# UPerNet + HorNet-Base (GF) on ADE20K. Published: 50.5 mIoU, 50.9 with multi-scale and flip.
# The row in the authors' README says crop 640; their config and FLOPs are for 512, as here.
_base_ = [
    '../../_base_/models/upernet_hornet.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_160k.py',
]
model = dict(
    backbone=dict(
        arch='hornet-base-gf', drop_path_rate=0.5, init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-base-gf/in1k-dense')
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0, norm_type=2))
train_dataloader = dict(batch_size=2)
