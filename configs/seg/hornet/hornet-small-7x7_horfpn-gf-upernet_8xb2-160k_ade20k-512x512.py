# UPerNet with HorFPN (global-local filter) and HorNet-Small (7x7) on ADE20K, as in the authors' code. Published mIoU: unknown.
_base_ = './hornet-small-7x7_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(decode_head=dict(type='mmfreq.GnUPerHead', gnconv_cfg=dict(grid=32, order=2, proj_out=True)))
optim_wrapper = dict(clip_grad=dict(max_norm=0.1, norm_type=2))
