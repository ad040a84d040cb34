# hornet-large-gf on ImageNet-1k. It is published for ImageNet-22k only, whose head has other classes; the top-1 is unknown.
# The recipe, that of base-gf, is our own choice.
_base_ = [
    '../../_base_/models/image_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_300e_accumulated.py',
]
published_checkpoint = 'mmfreq://hornet-large-gf/in22k'
model = dict(arch='hornet-large-gf', drop_path_rate=0.5)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
train_pipeline = [step | dict(magnitude_level=15) if step.type == 'RandAugment' else step for step in _base_.train_pipeline]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
