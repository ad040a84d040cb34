# Mask R-CNN with HorFPN (global-local filters) + HorNet-Small (7x7) on COCO, 1x, as in the authors' code. Published AP: unknown.
_base_ = './hornet-small-7x7_mask-rcnn_8xb2-ms-crop-1x_coco.py'
model = dict(neck=dict(type='mmfreq.GnFPN', gnconv_cfg=dict(grid=32, order=2, proj_out=True)))
