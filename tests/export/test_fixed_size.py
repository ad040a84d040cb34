"""A model for images of one size gives what the model gives, and resizes nothing any more."""

import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.export import at_fixed_size
from mmfreq.layers import GlobalFilter, StoredFilter
from mmfreq.ops import resize

MICRO = [arch for arch in mmfreq.list_archs() if 'micro' in arch]


@pytest.mark.parametrize('backend', ['matmul', 'fft'])
@pytest.mark.parametrize('arch', MICRO)
def test_equals_the_model_and_resizes_no_filter(arch, backend, monkeypatch):
    assert MICRO
    model = mmfreq.build_backbone(arch).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 72, 100)
    with torch.no_grad():
        want = model(images)
    fixed = at_fixed_size(model, images[:1], backend)
    assert not fixed.training
    monkeypatch.setattr(resize, 'interpolate', None)
    with torch.no_grad():
        for got, expected in zip(fixed(images), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    filters = [m for m in fixed.modules() if isinstance(m, StoredFilter)]
    assert bool(filters) == (arch != 'affnet-micro')
    assert {m.spectral for m in fixed.modules() if hasattr(m, 'spectral')} == {backend}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_are_those_of_the_new_grids():
    model = mmfreq.build_backbone('gfnet-h-micro')
    fixed = at_fixed_size(model, torch.zeros(1, 3, 64, 96))
    grids = {tuple(m.grid) for m in fixed.modules() if isinstance(m, StoredFilter)}
    assert grids == {(16, 24), (8, 12), (4, 6), (2, 3)}


def test_a_filter_of_two_sizes_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = GlobalFilter(4, 8, channels_last=False)

        def forward(self, x):
            return self.filter(x), self.filter(x[..., ::2])

    with pytest.raises(ValueError, match=r'filter is used on maps of several sizes, \[\(8, 4\), \(8, 8\)\]'):
        at_fixed_size(Twice(), torch.zeros(1, 4, 8, 8))


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend 'dft' is unknown; choose one of auto, fft, matmul"):
        at_fixed_size(nn.Identity(), torch.zeros(1), 'dft')
