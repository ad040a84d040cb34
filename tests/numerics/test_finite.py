"""Outputs and gradients are finite for every family, size, batch, precision, memory layout and mode."""

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmfreq
from mmfreq.models._factory import backbone_class
from mmfreq.testing.backbone_contract import failures
from tests.numerics.strategies import (
    DECODERS,
    FEATURES,
    MICRO,
    MIXERS,
    PRECISIONS,
    C,
    as_input,
    backward,
    batches,
    examples,
    formats,
    grids,
    model_of,
    noise,
    not_finite,
    precisions,
    run,
    sides,
)


def check_backbone(arch, height, width, batch, precision, memory_format, train):
    # AFFNet's batch norm needs more than one value per channel
    if train and arch.startswith('affnet') and batch == 1 and max(height, width) <= 32:
        batch = 2
    model = model_of('backbone', arch, precision, train)
    x = as_input(noise(batch, 3, height, width), precision, memory_format)
    outs = run(model, x, precision)
    assert len(outs) == 4 and all(len(out) == batch for out in outs)
    backward(outs)
    assert not not_finite(outs, [x], model)


def check_mixer(name, height, width, batch, precision, memory_format):
    model = model_of('mixer', name, precision, train=True)
    x = as_input(noise(batch, C, height, width), precision, memory_format)
    outs = run(model, x, precision)
    assert outs[0].shape == x.shape
    backward(outs)
    assert not not_finite(outs, [x], model)


def check_decoder(name, height, width, batch, precision, memory_format):
    model = model_of('decoder', name, precision, train=True)
    shapes = [(C, 2 * height, 2 * width), (2 * C, height, width)] if name != 'GnConv' else [(C, height, width)]
    maps = [as_input(noise(batch, *shape), precision, memory_format) for shape in shapes]
    outs = run(model, maps if name != 'GnConv' else maps[0], precision)
    assert all(len(out) == batch for out in outs)
    backward(outs)
    assert not not_finite(outs, maps, model)


def test_strategies_cover_all_families():
    families = {arch.split('-')[0] for arch in mmfreq.list_archs()}
    assert {arch.split('-')[0] for arch in MICRO} >= families - {'gfformer'} and len(FEATURES) == 2
    assert len(MICRO) >= 6 and len(MIXERS) == 6 and len(DECODERS) == 4 and len(PRECISIONS) == 5


@pytest.mark.slow
@given(st.sampled_from(MICRO), sides, sides, batches, precisions, formats, st.booleans())
@examples(18)
def test_backbones(arch, height, width, batch, precision, memory_format, train):
    check_backbone(arch, height, width, batch, precision, memory_format, train)


@given(st.sampled_from(tuple(MIXERS)), grids, grids, batches, precisions, formats)
@examples(40)
def test_mixers(name, height, width, batch, precision, memory_format):
    check_mixer(name, height, width, batch, precision, memory_format)


@given(st.sampled_from(tuple(DECODERS)), grids, grids, batches, precisions, formats)
@examples(16)
def test_decoders(name, height, width, batch, precision, memory_format):
    check_decoder(name, height, width, batch, precision, memory_format)


@pytest.mark.slow
@pytest.mark.parametrize('arch', MICRO)
def test_backbones_with_more_sizes(arch):
    @given(st.integers(32, 160), st.integers(32, 160), batches, precisions, formats, st.booleans())
    @examples(10)
    def check(height, width, batch, precision, memory_format, train):
        check_backbone(arch, height, width, batch, precision, memory_format, train)

    check()


def with_uniform_weights(arch, blocks):
    """A backbone in eval mode, of at most `blocks` in a stage, with uniform weights: the published initialization is slow."""
    cls = backbone_class(arch)
    record = cls.ARCHS[arch]
    depths = getattr(record, 'depths', None)
    with torch.device('meta'):
        model = cls(arch=asdict(replace(record, depths=tuple(min(depth, blocks) for depth in depths)) if depths else record))
    model = model.to_empty(device='cpu').eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05) if parameter.ndim > 1 else parameter.fill_(0.5)
        for buffer in model.buffers():
            buffer.fill_(1)
    return model


@pytest.mark.slow
@pytest.mark.parametrize('family', ['hornet', 'gfnet', 'dfformer', 'affnet'])
def test_every_arch_at_the_smallest_sizes(family):
    """Declared shapes and finite values, the deepest arch with all blocks; gradients are tested with the micro models."""
    archs = [arch for arch in mmfreq.list_archs(family) if arch not in MICRO]
    deepest = max(archs, key=lambda arch: sum(getattr(backbone_class(arch).ARCHS[arch], 'depths', ())))

    def check(arch):
        model = with_uniform_weights(arch, blocks=99 if arch == deepest else 2)
        for size, precision in (((32, 39), 'float32'), ((33, 77), 'bfloat16 autocast')):  # not narrower: docs/performance.md
            with torch.no_grad():
                outs = run(model, noise(1, 3, *size), precision)
            sides = zip(*(model.stage_sides(side) for side in size))
            assert [tuple(out.shape) for out in outs] == [(1, c, *each) for c, each in zip(model.channels, sides, strict=True)]
            assert all(out.isfinite().all() for out in outs)

    assert not failures(check, archs)
