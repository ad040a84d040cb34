# ImageNet-1k as in GFNet's recipe: RandAugment, no random erasing. Test: shorter side 256, center crop 224, bicubic.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
train_pipeline = [step for step in _base_.train_pipeline if step.type != 'RandomErasing']
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
