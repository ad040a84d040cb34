# ResNet-18 with the UPerNet head whose 3x3 convolutions are gnConvs, in the comparison of decoders on CamVid.
_base_ = './resnet18_upernet_1xb8-800_camvid-180x240.py'
model = dict(decode_head=dict(conv_cfg=dict(type='mmfreq.GnConv', dw_kernel_size=7)))
