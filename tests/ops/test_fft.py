"""Laws of the spectral operator."""

import pytest
import torch

from mmfreq.ops import apply_filter, half_width, irfft2, rfft2
from mmfreq.ops.fft import irfft2_written_out

GRIDS = [(7, 7), (8, 8), (14, 15), (1, 5), (5, 1), (1, 1), (1, 8), (13, 11), (25, 42), (37, 41)]
BACKENDS = ('fft', 'matmul')


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def transfer_function(kernel):
    """Real view of the half spectrum of a spatial kernel `(C, H, W)`."""
    return torch.view_as_real(torch.fft.rfft2(kernel))


def circular_convolution(x, kernel):
    """By its definition: out[u, v] = sum_ij kernel[i, j] x[u - i, v - j], indices modulo the grid."""
    out = torch.zeros_like(x)
    for i in range(kernel.shape[-2]):
        for j in range(kernel.shape[-1]):
            out += kernel[:, i, j, None, None] * x.roll((i, j), (-2, -1))
    return out


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', GRIDS)
def test_identity_filter_changes_nothing(size, backend):
    x = random(2, 3, *size)
    weight = torch.stack((torch.ones(3, size[0], half_width(size[1])), torch.zeros(3, size[0], half_width(size[1]))), -1)
    torch.testing.assert_close(apply_filter(x, weight, backend=backend), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', [(7, 7), (8, 6), (1, 5), (5, 1), (5, 8)])
def test_filter_is_circular_convolution(size, backend):
    x, kernel = random(2, 3, *size), random(3, *size)
    got = apply_filter(x, transfer_function(kernel), backend=backend)
    torch.testing.assert_close(got, circular_convolution(x, kernel), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', GRIDS)
def test_filter_commutes_with_roll(size, backend):
    x, weight = random(2, 3, *size), random(3, size[0], half_width(size[1]), 2)
    shift = dict(shifts=(2, 3), dims=(-2, -1))
    got = apply_filter(x.roll(**shift), weight, backend=backend)
    torch.testing.assert_close(got, apply_filter(x, weight, backend=backend).roll(**shift), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('size', GRIDS)
def test_all_forms_agree_on_filters_that_are_not_hermitian(size):
    x, weight = random(2, 3, *size), random(3, size[0], half_width(size[1]), 2)
    fft = apply_filter(x, weight, backend='fft')
    spec = rfft2(x) * torch.view_as_complex(weight)
    torch.testing.assert_close(apply_filter(x, weight, backend='matmul'), fft, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(irfft2_written_out(spec, size), irfft2(spec, size), rtol=1e-11, atol=1e-11)


def test_imaginary_part_of_self_conjugate_entries_has_no_effect():
    x, weight = random(1, 2, 6, 8), random(2, 6, 5, 2)
    changed = weight.clone()
    changed[:, 0, 0, 1] += 3  # zero frequency: its own conjugate
    changed[:, 3, 4, 1] += 3  # Nyquist in both directions
    for backend in BACKENDS:
        torch.testing.assert_close(apply_filter(x, changed, backend=backend), apply_filter(x, weight, backend=backend))
    changed[:, 1, 1, 1] += 3
    assert not torch.allclose(apply_filter(x, changed), apply_filter(x, weight))


@pytest.mark.parametrize('backend', BACKENDS)
def test_dims_may_lie_anywhere(backend):
    x, weight = random(2, 3, 9, 10), random(3, 9, 6, 2)
    want = apply_filter(x, weight, backend=backend)
    got = apply_filter(x.permute(0, 2, 3, 1), weight.permute(1, 2, 0, 3), dims=(1, 2), backend=backend)
    torch.testing.assert_close(got.permute(0, 3, 1, 2), want)


@pytest.mark.parametrize('backend', BACKENDS)
def test_filter_per_sample(backend):
    x, weight = random(2, 3, 8, 8), random(2, 3, 8, 5, 2)
    each = [apply_filter(x[i : i + 1], weight[i], backend=backend) for i in range(2)]
    torch.testing.assert_close(apply_filter(x, weight, backend=backend), torch.cat(each))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', [(3, 4), (4, 5), (1, 3)])
def test_gradients(size, backend):
    x = random(1, 2, *size).requires_grad_()
    weight = random(2, size[0], half_width(size[1]), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: apply_filter(a, b, backend=backend), (x, weight))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_in_is_dtype_out_and_the_work_is_float32(dtype, backend):
    x, weight = random(1, 2, 14, 14).to(dtype), random(2, 14, 8, 2, dtype=torch.float32)
    got = apply_filter(x, weight, backend=backend)
    assert got.dtype == dtype
    exact = apply_filter(x.double(), weight.double())
    torch.testing.assert_close(got, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize('backend', BACKENDS)
def test_autocast_does_not_reach_the_transform(backend):
    x, weight = random(1, 2, 14, 14, dtype=torch.float32), random(2, 14, 8, 2, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        got = apply_filter(x, weight, backend=backend)
        low = apply_filter(x.bfloat16(), weight, backend=backend)
    torch.testing.assert_close(got, apply_filter(x, weight, backend=backend), rtol=0, atol=0)
    assert low.dtype == torch.bfloat16


def test_bad_arguments_are_told():
    x = random(1, 2, 8, 8)
    with pytest.raises(ValueError, match='auto, fft, matmul'):
        apply_filter(x, random(2, 8, 5, 2), backend='ftt')
    with pytest.raises(ValueError, match=r'\(7, 4\) cannot act on a 8x8 map, which needs \(8, 5\)'):
        apply_filter(x, random(2, 7, 4, 2))
    with pytest.raises(ValueError, match='size 2'):
        apply_filter(x, random(2, 8, 5))
    with pytest.raises(TypeError, match='floating'):
        apply_filter(torch.ones(1, 2, 8, 8, dtype=torch.int64), random(2, 8, 5, 2))


@pytest.mark.gpu
@pytest.mark.parametrize('size', [(7, 7), (8, 8), (14, 14), (16, 16), (28, 28), (32, 32), (25, 42)])
def test_cuda_has_the_meaning_of_the_cpu(size):
    x, weight = random(2, 3, *size, dtype=torch.float32), random(3, size[0], half_width(size[1]), 2, dtype=torch.float32)
    torch.testing.assert_close(apply_filter(x.cuda(), weight.cuda()).cpu(), apply_filter(x, weight), rtol=1e-5, atol=1e-5)
