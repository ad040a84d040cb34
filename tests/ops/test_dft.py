"""The bases of the matrix products are kept, and are real tensors whoever asks for them first."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfreq.ops import apply_filter, dft


class Filter(nn.Module):
    def forward(self, x):
        weight = torch.ones(x.shape[-2], x.shape[-1] // 2 + 1, 2) * torch.tensor([0.5, 0.25])
        return apply_filter(x, weight, backend='matmul')


def eager(x):
    return None


def in_export(x):
    torch.export.export(Filter(), (x,))


def in_strict_export(x):
    torch.export.export(Filter(), (x,), strict=True)


def compiled(x):
    torch._dynamo.reset()
    torch.compile(Filter(), backend='aot_eager', fullgraph=True)(x)


def traced(x):
    torch.jit.trace(Filter(), x)


def vectorised(x):
    torch.func.vmap(Filter())(x)


def on_fake_tensors(x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        Filter()(mode.from_tensor(x))


no_export = pytest.mark.skipif(
    find_spec('torch._export.passes.replace_autocast_with_hop_pass') is None,
    reason='torch.export cannot keep autocast off, as in 2.4',
)
FIRST = [eager, compiled, traced, vectorised, on_fake_tensors]
FIRST += [pytest.param(function, marks=no_export) for function in (in_export, in_strict_export)]


@pytest.mark.slow
@pytest.mark.parametrize('first', FIRST)
def test_who_asks_first_does_not_matter(first):
    x = torch.randn(2, 3, 6, 9)
    want = apply_filter(x, torch.ones(6, 5, 2) * torch.tensor([0.5, 0.25]), backend='fft')
    for function in (dft.cos_sin, dft.multiplicity):
        function.cache_clear()
    first(x)
    torch.testing.assert_close(Filter()(x), want)
    for kept in (*dft.cos_sin(6, 6, 6, x.dtype, x.device), dft.multiplicity(9, x.dtype, x.device)):
        assert type(kept) is torch.Tensor and not kept.requires_grad and not kept.is_inference()


def test_fake_tensors_after_real_ones():
    x = torch.randn(1, 1, 6, 9)
    Filter()(x)
    with FakeTensorMode() as mode:
        assert Filter()(mode.from_tensor(x)).shape == x.shape


def test_they_are_made_once():
    dft.cos_sin.cache_clear()
    Filter()(torch.randn(1, 1, 6, 9))
    made = dft.cos_sin.cache_info().misses
    assert made > 0
    Filter()(torch.randn(3, 2, 6, 9))
    assert dft.cos_sin.cache_info().misses == made


def test_in_inference_mode_first():
    dft.cos_sin.cache_clear()
    with torch.inference_mode():
        Filter()(torch.randn(1, 1, 6, 9))
    x = torch.randn(1, 1, 6, 9, requires_grad=True)
    Filter()(x).sum().backward()
    assert torch.isfinite(x.grad).all()
