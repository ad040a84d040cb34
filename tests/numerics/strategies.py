"""Strategies of the property tests: micro models of every family, mixers, decoders, precisions, and how to run them."""

from functools import cache

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS

import mmfreq
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter, GnConv
from mmfreq.registry import MODELS as MMFREQ_MODELS

MICRO = tuple(arch for arch in mmfreq.list_archs() if arch.endswith('micro'))
C = 16  # channels of mixers; also divisible by AFFNet's 8 blocks and by 2^4
MIXERS = {
    'gnconv': lambda: GnConv(C, order=3),
    'gnconv order 5': lambda: GnConv(C, order=5),
    'gnconv with a filter': lambda: GnConv(C, order=3, grid=14),
    'global filter': lambda: GlobalFilter(C, 14),
    'dynamic filter': lambda: DynamicFilter(C, 14),
    'adaptive frequency filter': lambda: AdaptiveFrequencyFilter(C),
}
FEATURES = [C, 2 * C]  # channels of the input maps of a decoder
SEGMENTATION = dict(channels=C, num_classes=5, norm_cfg=dict(type='GN', num_groups=4), align_corners=False)
DECODERS = {
    'GnUPerHead': dict(
        type='mmfreq.GnUPerHead', in_channels=FEATURES, in_index=[0, 1], pool_scales=(1, 2), dropout_ratio=0.0, **SEGMENTATION
    ),
    'GnFPNHead': dict(
        type='mmfreq.GnFPNHead', in_channels=FEATURES, in_index=[0, 1], feature_strides=[4, 8], dropout_ratio=0.0, **SEGMENTATION
    ),
    'GnFPN': dict(type='mmfreq.GnFPN', in_channels=FEATURES, out_channels=C, num_outs=3),
    'GnConv': dict(type='mmfreq.GnConv', in_channels=C, out_channels=C, kernel_size=3, padding=1),
}
# name -> (dtype of the parameters and the input, dtype of autocast or None)
PRECISIONS = {
    'float32': (torch.float32, None),
    'bfloat16': (torch.bfloat16, None),
    'float16': (torch.float16, None),
    'bfloat16 autocast': (torch.float32, torch.bfloat16),
    'float16 autocast': (torch.float32, torch.float16),
}
FORMATS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}


def examples(count):
    """Settings of a property test: the same examples in every run, no time limit."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


sides = st.integers(32, 97)  # of images
grids = st.integers(5, 25)  # of maps
batches = st.integers(1, 3)
precisions = st.sampled_from(tuple(PRECISIONS))
formats = st.sampled_from(tuple(FORMATS))


@cache
def cached_model(group, name, dtype):
    torch.manual_seed(0)
    if group == 'backbone':
        model = mmfreq.build_backbone(name)
    elif group == 'mixer':
        model = MIXERS[name]()
    elif name == 'GnConv':
        config = dict(DECODERS[name])
        model = MMFREQ_MODELS.get(config.pop('type').split('.')[1])(**config)
    else:
        model = MODELS.build(dict(DECODERS[name]))
    return model.to(dtype)


def model_of(group, name, precision='float32', train=False):
    """A cached model with fixed weights, without gradients."""
    model = cached_model(group, name, PRECISIONS[precision][0]).train(train)
    for parameter in model.parameters():
        parameter.grad = None
    return model


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def as_input(x, precision, memory_format):
    """An input in the dtype and memory layout of a case, with requires_grad."""
    return x.to(PRECISIONS[precision][0]).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()


def run(model, inputs, precision='float32'):
    """The outputs as a tuple of maps."""
    cast = PRECISIONS[precision][1]
    with torch.autocast('cpu', cast, enabled=cast is not None):
        out = model(inputs)
    return out if isinstance(out, tuple) else (out,)


def backward(outs):
    """The backward pass of a weighted mean of the outputs."""
    weights = (noise(*out.shape, seed=1) for out in outs)
    sum((out.float() * weight).mean() for out, weight in zip(outs, weights)).backward()


def not_finite(outs, inputs, model):
    """Names of outputs and gradients with NaN or infinities, and of parameters without a gradient."""
    found = [f'output {k}' for k, out in enumerate(outs) if not out.isfinite().all()]
    found += [f'gradient of input {k}' for k, x in enumerate(inputs) if x.grad is None or not x.grad.isfinite().all()]
    return found + [f'gradient of {name}' for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
