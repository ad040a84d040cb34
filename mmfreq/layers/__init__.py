"""Modules that keep parameters and call `mmfreq.ops`; torch and torchvision only, so that they can be used in any code base."""

from mmfreq.layers.gnconv import GlobalLocalFilter, GnConv
from mmfreq.layers.norm import LayerNorm2d
from mmfreq.layers.spectral import GlobalFilter

__all__ = ['GlobalFilter', 'GlobalLocalFilter', 'GnConv', 'LayerNorm2d']
