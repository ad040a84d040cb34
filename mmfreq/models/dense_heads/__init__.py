"""Detection heads; they exist where mmdetection is installed."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmdet') is not None:
    from mmfreq.models.dense_heads.rpn_head import ConvCfgRPNHead

    __all__ = ['ConvCfgRPNHead']
