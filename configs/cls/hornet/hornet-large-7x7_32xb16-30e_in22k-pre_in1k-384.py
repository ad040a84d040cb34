# hornet-large-7x7, fine-tuned from ImageNet-22k at 384 with the published recipe. Published top-1: unknown.
_base_ = [
    '../../_base_/models/image_classifier_plain.py',
    '../../_base_/datasets/imagenet_384_warped.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_finetune_30e.py',
]
model = dict(
    arch='hornet-large-7x7',
    drop_path_rate=0.4,
    init_cfg=dict(
        type='Pretrained', checkpoint='mmfreq://hornet-large-7x7/in22k', fresh=('head.',)
    ),  # the published run keeps 1000 rows of the head
)
train_dataloader = dict(batch_size=16)
