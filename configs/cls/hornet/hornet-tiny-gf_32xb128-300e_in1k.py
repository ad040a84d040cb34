# hornet-tiny-gf on ImageNet-1k. Published: 83.0 top-1.
_base_ = [
    '../../_base_/models/image_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_300e.py',
]
published_checkpoint = 'mmfreq://hornet-tiny-gf/in1k'
model = dict(arch='hornet-tiny-gf', drop_path_rate=0.2)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
train_dataloader = dict(batch_size=128)
