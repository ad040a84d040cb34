# RetinaNet as in DFFormer's COCO configs. The backbone returns only stages 1 to 3: the pyramid does not use stage 0, and a norm
# without a gradient is an error in DDP. A leaf config sets the arch and the neck's in_channels.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(_delete_=True, type='mmfreq.DFFormer', arch='dfformer-s18', img_size=800, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)
