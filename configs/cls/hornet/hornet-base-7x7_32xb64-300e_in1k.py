# hornet-base-7x7 on ImageNet-1k. Published: 84.2 top-1.
_base_ = [
    '../../_base_/models/image_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_300e_accumulated.py',
]
published_checkpoint = 'mmfreq://hornet-base-7x7/in1k'
model = dict(arch='hornet-base-7x7', drop_path_rate=0.5)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
train_dataloader = dict(batch_size=64)
