"""Laws of the spectral operator."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfreq.ops import apply_filter, apply_mixture, half_width, irfft2, map_spectrum, rfft2
from mmfreq.ops.spectral import hermitian_columns
from mmfreq.testing import naming

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
def test_backends_agree_on_filters_that_are_not_hermitian(size):
    x, weight = random(2, 3, *size), random(3, size[0], half_width(size[1]), 2)
    fft = apply_filter(x, weight, backend='fft')
    spec = rfft2(x) * torch.view_as_complex(weight)
    torch.testing.assert_close(apply_filter(x, weight, backend='matmul'), fft, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(irfft2(hermitian_columns(spec, size[1]), size), irfft2(spec, size), rtol=1e-11, atol=1e-11)


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
def test_dims_may_be_anywhere(backend):
    x, weight = random(2, 3, 9, 10), random(3, 9, 6, 2)
    want = apply_filter(x, weight, backend=backend)
    got = apply_filter(x.permute(0, 2, 3, 1), weight.permute(1, 2, 0, 3), dims=(1, 2), backend=backend)
    torch.testing.assert_close(got.permute(0, 3, 1, 2), want)


@pytest.mark.parametrize('backend', BACKENDS)
def test_filter_may_be_a_strided_view(backend):
    x, wide = torch.randn(2, 3, 6, 9), torch.randn(3, 6, 5, 3)
    for weight in (wide[..., :2], wide.as_strided((3, 6, 5, 2), (29, 5, 1, 1)), wide.as_strided((1, 6, 5, 2), (7, 10, 2, 1))):
        some = x[:, : len(weight)]
        torch.testing.assert_close(apply_filter(some, weight, backend=backend), apply_filter(some, weight.clone(), backend=backend))


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


@pytest.mark.parametrize('size', [(3, 4), (4, 5), (1, 3), (2, 1)])
def test_rfft2_has_the_derivatives_of_torch_fft(size):
    x, direction = random(2, 2, *size), random(2, 2, *size)

    def loss(transform):
        return lambda x: (transform(x).abs() + 1).log().sum()

    loss_fn, reference = loss(rfft2), loss(lambda x: torch.fft.rfft2(x, norm='ortho'))
    for derivative in (torch.func.grad, torch.func.hessian):
        torch.testing.assert_close(derivative(loss_fn)(x), derivative(reference)(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.func.jvp(loss_fn, (x,), (direction,)), torch.func.jvp(reference, (x,), (direction,)))
    each = torch.func.vmap(torch.func.grad(loss_fn))(x)
    torch.testing.assert_close(each, torch.stack([torch.func.grad(reference)(one) for one in x]), rtol=1e-9, atol=1e-12)


FUNCTIONS = {
    'filter': (apply_filter, lambda size: (random(2, size[0], half_width(size[1]), 2),)),
    'mixture': (apply_mixture, lambda size: (random(1, 3, 2), random(size[0], half_width(size[1]), 3, 2))),
}


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('size', [(3, 4), (2, 3)])
def test_first_and_second_derivatives(size, name, backend):
    function, weights = FUNCTIONS[name]
    inputs = [t.requires_grad_() for t in (random(1, 2, *size), *weights(size))]

    def call(*tensors):
        return function(*tensors, backend=backend)

    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_mixture_is_a_filter_per_sample_and_channel():
    x, routing, filters = random(2, 3, 6, 9), random(2, 4, 3), random(6, 5, 4, 2)
    mixed = torch.einsum('bnm,hfnc->bmhfc', routing, filters)
    for backend in BACKENDS:
        torch.testing.assert_close(apply_mixture(x, routing, filters, backend), apply_filter(x, mixed))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_fake_and_meta_tensors_leave_no_state(name, backend):
    function, weights = FUNCTIONS[name]
    tensors = [t.float() for t in (random(1, 2, 6, 9), *weights((6, 9)))]
    want = function(*tensors, backend=backend)
    with FakeTensorMode() as mode:
        assert function(*map(mode.from_tensor, tensors), backend=backend).shape == (1, 2, 6, 9)
    assert function(*(t.to('meta') for t in tensors), backend=backend).shape == (1, 2, 6, 9)
    assert torch.equal(function(*tensors, backend=backend), want)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_preserved_and_the_computation_is_float32(dtype, backend):
    x, weight = random(1, 2, 14, 14).to(dtype), random(2, 14, 8, 2, dtype=torch.float32)
    got = apply_filter(x, weight, backend=backend)
    assert got.dtype == dtype
    exact = apply_filter(x.double(), weight.double())
    torch.testing.assert_close(got, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize('backend', BACKENDS)
def test_autocast_does_not_affect_the_transform(backend):
    x, weight = random(1, 2, 14, 14, dtype=torch.float32), random(2, 14, 8, 2, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        got = apply_filter(x, weight, backend=backend)
        low = apply_filter(x.bfloat16(), weight, backend=backend)
    torch.testing.assert_close(got, apply_filter(x, weight, backend=backend), rtol=0, atol=0)
    assert low.dtype == torch.bfloat16


def test_invalid_arguments_raise():
    x = random(1, 2, 8, 8)
    with pytest.raises(ValueError, match=naming('ftt', 'auto', *BACKENDS)):
        apply_filter(x, random(2, 8, 5, 2), backend='ftt')
    with pytest.raises(ValueError, match=naming('(7, 4)', '8x8', '(8, 5)')):
        apply_filter(x, random(2, 7, 4, 2))
    with pytest.raises(ValueError, match='size 2'):
        apply_filter(x, random(2, 8, 5))
    with pytest.raises(TypeError, match='floating'):
        apply_filter(torch.ones(1, 2, 8, 8, dtype=torch.int64), random(2, 8, 5, 2))


def gated(re, im):
    """A function whose result is not Hermitian in the zero and Nyquist columns."""
    return re * im.sigmoid() + 0.5, im * (re + im).tanh()


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', GRIDS)
def test_identity_function_returns_the_map(size, backend):
    x = random(2, 3, *size)
    got = map_spectrum(x, lambda re, im: (re, im), backend=backend)
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', GRIDS)
def test_function_gets_the_orthonormal_half_spectrum(size, backend):
    x, seen = random(2, 3, *size), []

    def record(re, im):
        seen.append(torch.complex(re, im))
        return re, im

    map_spectrum(x, record, backend=backend)
    torch.testing.assert_close(seen, [rfft2(x)], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', GRIDS)
def test_function_that_multiplies_is_a_filter(size, backend):
    x, weight = random(2, 3, *size), random(3, size[0], half_width(size[1]), 2)
    c, d = weight.unbind(-1)
    got = map_spectrum(x, lambda a, b: (a * c - b * d, a * d + b * c), backend=backend)
    torch.testing.assert_close(got, apply_filter(x, weight, backend=backend), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('size', GRIDS)
def test_backends_agree_on_functions_that_are_not_hermitian(size):
    x = random(2, 3, *size)
    spec = rfft2(x)
    spec = torch.complex(*gated(spec.real, spec.imag))
    fft = map_spectrum(x, gated, backend='fft')
    torch.testing.assert_close(map_spectrum(x, gated, backend='matmul'), fft, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(irfft2(hermitian_columns(spec, size[1]), size), fft, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dims', [(1, 2), (0, 3), (3, 0), (-1, -3)])
def test_dims_of_map_spectrum_may_be_anywhere(dims, backend):
    x = random(2, 3, 9, 10)
    got = map_spectrum(x.movedim((-2, -1), dims), gated, dims=dims, backend=backend)
    torch.testing.assert_close(got.movedim(dims, (-2, -1)), map_spectrum(x, gated, backend=backend))


@pytest.mark.parametrize('backend', BACKENDS)
def test_function_gets_h_and_f_in_place_of_h_and_w(backend):
    shapes = []
    map_spectrum(random(2, 9, 10, 3), lambda re, im: (shapes.append(re.shape), (re, im))[1], dims=(1, 2), backend=backend)
    assert shapes == [(2, 9, 6, 3)]


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('size', [(3, 4), (4, 5), (1, 3)])
def test_gradients_of_map_spectrum(size, backend):
    x = random(1, 2, *size).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: map_spectrum(a, gated, backend=backend), (x,))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_function_gets_float32_and_the_dtype_is_preserved(dtype, backend):
    x, seen = random(1, 2, 14, 14).to(dtype), []

    def function(re, im):
        seen.extend((re.dtype, im.dtype, (re.flatten(0, 2) @ im.flatten(0, 2).T).dtype))  # a product that autocast would lower
        return gated(re, im)

    with torch.autocast('cpu', torch.bfloat16):
        got = map_spectrum(x, function, backend=backend)
    assert got.dtype == dtype
    assert set(seen) == {torch.float64 if dtype == torch.float64 else torch.float32}
    exact = map_spectrum(x.double(), gated)
    torch.testing.assert_close(got, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_invalid_arguments_of_map_spectrum_raise():
    with pytest.raises(ValueError, match=naming('ftt', 'auto', *BACKENDS)):
        map_spectrum(random(1, 2, 8, 8), gated, backend='ftt')
    with pytest.raises(TypeError, match='floating'):
        map_spectrum(torch.ones(1, 2, 8, 8, dtype=torch.int64), gated)


@pytest.mark.gpu
@pytest.mark.parametrize('size', [(7, 7), (8, 8), (14, 14), (16, 16), (28, 28), (32, 32), (25, 42)])
def test_cuda_filter_agrees_with_cpu(size):
    x, weight = random(2, 3, *size, dtype=torch.float32), random(3, size[0], half_width(size[1]), 2, dtype=torch.float32)
    torch.testing.assert_close(apply_filter(x.cuda(), weight.cuda()).cpu(), apply_filter(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize('size', [(7, 7), (8, 8), (16, 16), (25, 42), (32, 32)])
def test_cuda_map_spectrum_agrees_with_cpu(size):
    x = random(2, 3, *size, dtype=torch.float32)
    torch.testing.assert_close(map_spectrum(x.cuda(), gated).cpu(), map_spectrum(x, gated), rtol=1e-5, atol=1e-5)
