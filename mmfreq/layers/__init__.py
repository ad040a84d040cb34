"""Modules that keep parameters and call `mmfreq.ops`; torch and torchvision only, so that they can be used in any code base."""

from mmfreq.layers.activation import SquaredReLU, StarReLU
from mmfreq.layers.gnconv import GlobalLocalFilter, GnConv
from mmfreq.layers.gnconv_layer import GnConvLayer
from mmfreq.layers.mlp import Mlp
from mmfreq.layers.norm import LayerNorm2d, MapNorm
from mmfreq.layers.spectral import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter
from mmfreq.layers.stored_filter import StoredFilter

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
