"""Our classifiers as models of mmpretrain; they exist where mmpretrain is installed."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmpretrain') is not None:
    from mmfreq.models.image_classifiers.frequency_image_classifier import FrequencyImageClassifier

    __all__ = ['FrequencyImageClassifier']
