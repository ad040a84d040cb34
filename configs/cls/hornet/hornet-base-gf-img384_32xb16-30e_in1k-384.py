# hornet-base-gf-img384 on ImageNet-1k at 384. No weights are published, and the top-1 is unknown.
# The recipe, that of the large model starting from base-gf at 224, is our own choice.
_base_ = [
    '../../_base_/models/image_classifier_plain.py',
    '../../_base_/datasets/imagenet_384_warped.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_finetune_30e.py',
]
model = dict(
    arch='hornet-base-gf-img384',
    drop_path_rate=0.5,
    init_cfg=dict(type='Pretrained', checkpoint='mmfreq://hornet-base-gf/in1k'),
)
train_dataloader = dict(batch_size=16)
