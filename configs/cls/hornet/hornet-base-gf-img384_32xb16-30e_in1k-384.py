# hornet-base-gf-img384 on ImageNet-1k at 384: no file, top-1: unknown. The recipe, that of large, is our choice.
_base_ = [
    '../../_base_/models/image_classifier_plain.py',
    '../../_base_/datasets/imagenet_384_warped.py',
    'mmpretrain::_base_/default_runtime.py',
    '../../_base_/schedules/hornet_in1k_finetune_30e.py',
]
model = dict(arch='hornet-base-gf-img384', drop_path_rate=0.5)
train_dataloader = dict(batch_size=16)
