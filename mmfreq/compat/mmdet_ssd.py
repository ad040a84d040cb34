"""A fix for mmdet's SSDHead: import this module, or list it in a config's `custom_imports`, and the head can predict.

mmdet 3.3.0 reads `loss_cls` of every dense head. SSDHead does not have it, because it computes its loss itself, so every
validation or test ends in an AttributeError (mmdetection issue 11780). None is the right value for a head without a loss module.
"""

from mmdet.models.dense_heads import SSDHead

if not hasattr(SSDHead, 'loss_cls'):
    SSDHead.loss_cls = None
