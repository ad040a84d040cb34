"""A model for one image size has the outputs of the original and does not resize its filters."""

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
def test_outputs_are_equal_and_no_filter_is_resized(arch, backend, monkeypatch):
    assert MICRO
    model = mmfreq.build_backbone(arch).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 72, 100)
    with torch.no_grad():
        expected = model(images)
    fixed = at_fixed_size(model, images[:1], backend)
    assert not fixed.training
    monkeypatch.setattr(resize, 'interpolate', None)
    with torch.no_grad():
        for actual, want in zip(fixed(images), expected, strict=True):
            torch.testing.assert_close(actual, want, rtol=1e-4, atol=1e-5)
    filters = [m for m in fixed.modules() if isinstance(m, StoredFilter)]
    assert bool(filters) == (arch != 'affnet-micro')
    assert {m.spectral for m in fixed.modules() if hasattr(m, 'spectral')} == {backend}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_filters_are_stored_at_the_new_grids():
    model = mmfreq.build_backbone('gfnet-h-micro')
    fixed = at_fixed_size(model, torch.zeros(1, 3, 64, 96))
    grids = {tuple(m.grid) for m in fixed.modules() if isinstance(m, StoredFilter)}
    assert grids == {(16, 24), (8, 12), (4, 6), (2, 3)}


def test_filter_used_at_two_sizes_is_rejected():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = GlobalFilter(4, 8, channels_last=False)

        def forward(self, x):
            return self.filter(x), self.filter(x[..., ::2])

    with pytest.raises(ValueError, match=r'filter is used on maps of several sizes, \[\(8, 4\), \(8, 8\)\]'):
        at_fixed_size(Twice(), torch.zeros(1, 4, 8, 8))


def test_unknown_backend_is_rejected():
    with pytest.raises(ValueError, match="backend 'dft' is unknown; choose one of auto, fft, matmul"):
        at_fixed_size(nn.Identity(), torch.zeros(1), 'dft')
