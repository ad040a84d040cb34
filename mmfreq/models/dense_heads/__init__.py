"""Detection heads; they exist where mmdetection is installed."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmdet') is not None:
    from mmfreq.models.dense_heads.rpn_head import ConvCfgRPNHead
    from mmfreq.models.dense_heads.ssd_anchors import AFFNetSSDAnchorGenerator
    from mmfreq.models.dense_heads.ssdlite_head import AFFNetSSDLiteHead

    __all__ = ['AFFNetSSDAnchorGenerator', 'AFFNetSSDLiteHead', 'ConvCfgRPNHead']
