"""The published ImageNet classifiers: a backbone's trunk with the published norm and head."""

from mmfreq.models.classifiers.hornet import HorNetClassifier

__all__ = ['HorNetClassifier']
