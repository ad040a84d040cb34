"""Necks; they exist where mmdetection is installed."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmdet') is not None:
    from mmfreq.models.necks.gn_fpn import GnFPN
    from mmfreq.models.necks.ssdlite_neck import AFFNetSSDLiteNeck

    __all__ = ['AFFNetSSDLiteNeck', 'GnFPN']
