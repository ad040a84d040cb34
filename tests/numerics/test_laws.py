"""Outputs do not depend on the memory format or on the rest of the batch; extreme images give finite outputs, NaN propagates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.numerics.strategies import (
    DECODERS,
    MICRO,
    MIXERS,
    C,
    as_input,
    backward,
    batches,
    examples,
    grids,
    model_of,
    noise,
    not_finite,
    run,
    sides,
)

# largest difference over the largest value, for float32 sums in another order through up to 20 layers
CLOSE = 2e-5
# gradients of parameters are sums over all pixels with cancellation
CLOSE_GRADIENTS = 2e-4


def difference(got, want):
    """The largest difference over the largest value."""
    return ((got - want).abs().max() / want.abs().max().clamp(min=1e-6)).item()


def gradients_of(model, x, memory_format):
    model.zero_grad(set_to_none=True)
    image = as_input(x, 'float32', memory_format)
    outs = run(model, image)
    backward(outs)
    return [out.detach() for out in outs], [image.grad, *(p.grad.clone() for p in model.parameters())]


def check_memory_format(group, name, shape):
    model = model_of(group, name)
    results = {memory: gradients_of(model, noise(*shape), memory) for memory in ('contiguous', 'channels_last')}
    (outs, grads), (other_outs, other_grads) = results.values()
    assert max(difference(*pair) for pair in zip(other_outs, outs, strict=True)) < CLOSE
    assert max(difference(*pair) for pair in zip(other_grads, grads, strict=True)) < CLOSE_GRADIENTS


@given(st.sampled_from(MICRO), sides, sides, batches)
@examples(6)
def test_backbones_do_not_depend_on_the_memory_format(arch, height, width, batch):
    check_memory_format('backbone', arch, (batch, 3, height, width))


@given(st.sampled_from(tuple(MIXERS)), grids, grids, batches)
@examples(20)
def test_mixers_do_not_depend_on_the_memory_format(name, height, width, batch):
    check_memory_format('mixer', name, (batch, C, height, width))


@given(st.sampled_from(MICRO), sides, sides)
@examples(6)
def test_images_of_a_batch_are_independent(arch, height, width):
    """In eval mode."""
    model, images = model_of('backbone', arch), noise(3, 3, height, width)
    with torch.no_grad():
        together = run(model, images)
        for k in range(3):
            single = run(model, images[k : k + 1])
            assert max(difference(many[k : k + 1], one) for many, one in zip(together, single, strict=True)) < CLOSE


@given(st.sampled_from(('GnUPerHead', 'GnFPNHead', 'GnFPN')), grids, grids)
@examples(6)
def test_maps_of_a_batch_are_independent(name, height, width):
    model, maps = model_of('decoder', name), [noise(3, C, 2 * height, 2 * width), noise(3, 2 * C, height, width)]
    with torch.no_grad():
        together = run(model, maps)
        single = run(model, [each[:1] for each in maps])
        assert max(difference(many[:1], one) for many, one in zip(together, single, strict=True)) < CLOSE


def test_decoders_are_complete():
    assert set(DECODERS) == {'GnUPerHead', 'GnFPNHead', 'GnFPN', 'GnConv'}


IMAGES = {
    'zeros': lambda *shape: torch.zeros(*shape),
    'constant': lambda *shape: torch.full(shape, 0.7),
    'constant and large': lambda *shape: torch.full(shape, 1e4),
    'large': lambda *shape: 1e4 * noise(*shape),
    'tiny': lambda *shape: 1e-20 * noise(*shape),
}


@pytest.mark.parametrize('arch', MICRO)
def test_extreme_images_give_finite_outputs_and_gradients(arch):
    model = model_of('backbone', arch)
    for content, image in IMAGES.items():
        x = image(1, 3, 40, 33).requires_grad_()
        outs = run(model, x)
        backward(outs)
        assert not not_finite(outs, [x], model), content


@pytest.mark.slow
@pytest.mark.parametrize('arch', MICRO)
def test_extreme_images_in_training(arch):
    model = model_of('backbone', arch, train=True)
    for content, image in IMAGES.items():
        x = image(2, 3, 64, 48).requires_grad_()
        outs = run(model, x)
        assert all(out.isfinite().all() for out in outs), content
        if arch.startswith('affnet') and content == 'zeros':
            continue  # see test_gradients_of_affnet_overflow_for_a_constant_batch
        backward(outs)
        assert not not_finite(outs, [x], model), content


def test_gradients_of_affnet_overflow_for_a_constant_batch():
    """Each of AFFNet's batch norms multiplies the gradient by 1 / sqrt(eps) = 316, until it overflows."""
    model = model_of('backbone', 'affnet-micro', train=True)
    x = torch.zeros(2, 3, 64, 48, requires_grad=True)
    backward(run(model, x))
    assert not x.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize('precision', ['bfloat16 autocast', 'float16 autocast'])
@pytest.mark.parametrize('arch', MICRO)
def test_extreme_images_in_half_precision(arch, precision):
    """The forward pass only: loss scaling handles infinite gradients."""
    model = model_of('backbone', arch, precision)
    with torch.no_grad():
        for content, image in IMAGES.items():
            assert all(out.isfinite().all() for out in run(model, image(1, 3, 48, 40), precision)), content


@pytest.mark.parametrize('arch', MICRO)
def test_nan_in_an_image_propagates(arch):
    """No output map is finite, also in float16, where saturating activations could hide a NaN."""
    for precision in ('float32', 'float16 autocast', 'float16'):
        model = model_of('backbone', arch, precision)
        for value in (float('nan'), float('inf')):
            x = noise(1, 3, 40, 33)
            x[0, 1, 20, 20] = value
            with torch.no_grad():
                outs = run(model, as_input(x, precision, 'contiguous'), precision)
            assert not any(out.isfinite().all() for out in outs), (precision, value)


@pytest.mark.parametrize('precision', ['float32', 'float16'])
@pytest.mark.parametrize('name', MIXERS)
def test_nan_in_a_map_propagates(name, precision):
    model, x = model_of('mixer', name, precision), noise(1, C, 14, 11)
    x[0, C - 1, 3, 4] = float('nan')
    with torch.no_grad():
        (out,) = run(model, as_input(x, precision, 'contiguous'), precision)
    assert out.isnan().any()
