# Cascade Mask R-CNN + HorNet-Large (GF) on COCO, 3x. Published: 56.0 box AP, 48.6 mask AP.
# Starts from ImageNet-22k weights.
_base_ = [
    '../../_base_/models/cascade_mask_rcnn_hornet.py',
    '../../_base_/datasets/coco_instance_ms_crop.py',
    'mmdet::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_3x.py',
]
model = dict(
    backbone=dict(
        arch='hornet-large-gf',
        img_size=384,
        drop_path_rate=0.7,
        init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-large-gf/in22k-dense'),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
