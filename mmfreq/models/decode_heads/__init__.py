"""Segmentation heads; they exist where mmsegmentation is installed."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmseg') is not None:
    from mmfreq.models.decode_heads.affnet_aspp_head import AFFNetASPPHead
    from mmfreq.models.decode_heads.gn_fpn_head import GnFPNHead
    from mmfreq.models.decode_heads.gn_uper_head import GnUPerHead

    __all__ = ['AFFNetASPPHead', 'GnFPNHead', 'GnUPerHead']
