"""Modules that hold parameters and call `mmfreq.ops`; torch and torchvision only, so that they can be used in any code base."""

from mmfreq.layers.basic import LayerNorm2d, MapNorm, Mlp, SquaredReLU, StarReLU
from mmfreq.layers.filters import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, StoredFilter
from mmfreq.layers.gnconv import GlobalLocalFilter, GnConv, GnConvLayer

__all__ = [
    'AdaptiveFrequencyFilter',
    'DynamicFilter',
    'GlobalFilter',
    'GlobalLocalFilter',
    'GnConv',
    'GnConvLayer',
    'LayerNorm2d',
    'MapNorm',
    'Mlp',
    'SquaredReLU',
    'StarReLU',
    'StoredFilter',
]
