"""Modules with parameters that call `mmfreq.ops`; they import only torch and torchvision, so that any code base can use them.

| module | contents |
|---|---|
| `filters` | token mixers in the frequency domain: `GlobalFilter`, `DynamicFilter`, `AdaptiveFrequencyFilter` |
| `gnconv` | `GnConv`, its `GlobalLocalFilter`, and `GnConvLayer` in place of a `Conv2d` |
| `basic` | norms, activations and the MLP |
"""

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
