"""Importing this lets mmdet's SSDHead predict; a config asks for it in `custom_imports`.

mmdet 3.3.0 asks every dense head for its `loss_cls`, which SSDHead alone has not, as it computes its loss itself: any validation
or test ends in an AttributeError (mmdetection issue 11780). None is what the question expects of a head without a loss module.
"""

from mmdet.models.dense_heads import SSDHead

if not hasattr(SSDHead, 'loss_cls'):
    SSDHead.loss_cls = None
