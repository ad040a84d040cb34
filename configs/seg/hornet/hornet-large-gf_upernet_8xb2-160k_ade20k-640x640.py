# UPerNet + HorNet-Large (GF) on ADE20K. Published: 55.0 mIoU, 55.2 with multi-scale and flip.
# Starts from ImageNet-22k weights. Whether the published file is the 224 or the 384 model is unknown; both can be loaded.
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
        arch='hornet-large-gf',
        drop_path_rate=0.4,
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-large-gf/in22k-dense'),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8), clip_grad=dict(max_norm=0.1, norm_type=2))
train_dataloader = dict(batch_size=2)
