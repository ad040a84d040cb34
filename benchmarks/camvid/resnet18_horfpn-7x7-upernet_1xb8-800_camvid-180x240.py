# ResNet-18 with the UPerNet head whose bottleneck is a gnConv (the published HorFPN), in the comparison of decoders on CamVid.
_base_ = './resnet18_upernet_1xb8-800_camvid-180x240.py'
model = dict(decode_head=dict(type='mmfreq.GnUPerHead', gnconv_cfg=dict(kernel_size=7)))
