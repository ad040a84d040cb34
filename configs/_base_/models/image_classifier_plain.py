# image_classifier.py without mixup and cutmix.
_base_ = 'image_classifier.py'
model = dict(train_cfg=None)
