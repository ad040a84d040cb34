"""The fused kernels are the spectral operator: on a CPU by Triton's interpreter, in a process of its own, and on a GPU as they are.

Run as a program this file prints the errors of all cases as JSON. The interpreter multiplies in float32; here it is made to read
its operands as tensor cores do, with 11 bits. Memory that nobody wrote is NaN.
"""

import json
import os
import subprocess
import sys
from itertools import product
from math import prod
from pathlib import Path

import pytest
import torch

from mmfreq.ops import apply_filter, half_width
from mmfreq.ops.triton_launch import SMALLEST_TILE, Launch, cut_up, half_shifted_bases, plan_launch
from mmfreq.ops.triton_spectral import available, fused_filter, run_filter, run_gradients, supported

pytestmark = pytest.mark.slow

LIMIT = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SIZES = [(1, 1), (1, 2), (2, 1), (7, 7), (8, 8), (14, 14), (16, 16), (3, 8), (25, 42), (32, 32), (36, 40)]
LARGE = [(28, 28), (56, 56), (64, 64), (50, 50), (112, 112), (128, 128), (64, 128)]
# size, a filter for each sample, channels-last, dtype
CASES = {
    **{'{}x{}'.format(*size): (size, False, False, torch.float32) for size in SIZES},
    '7x7 each': ((7, 7), True, False, torch.float32),
    '8x6 each': ((8, 6), True, False, torch.float32),
    '14x14 last': ((14, 14), False, True, torch.float32),
    '9x4 each last': ((9, 4), True, True, torch.float32),
    '8x8 bf16': ((8, 8), False, False, torch.bfloat16),
    '14x7 fp16': ((14, 7), False, False, torch.float16),
}
CHANNELS = {'1x1': 40, '7x7': 18, '14x14': 5}  # others: 3; maps that share a tile: more than one program
FORMS = ('strided', 'map only', 'filter only', 'expanded gradient', 'launch', 'compiled')


def tensors(size, each, last, dtype, channels=3, device='cpu', batch=2):
    """A map, a filter that is not Hermitian, a gradient; and the positions of H and W."""
    generator = torch.Generator().manual_seed(sum(size) + channels)
    x, grad = (torch.randn(batch, channels, *size, generator=generator) for _ in range(2))
    weight = torch.randn(*[batch] * each, channels, size[0], half_width(size[1]), 2, generator=generator)
    if last:
        x, grad, weight = (
            x.permute(0, 2, 3, 1).contiguous(),
            grad.permute(0, 2, 3, 1).contiguous(),
            weight.movedim(-4, -2).contiguous(),
        )
    return x.to(device, dtype), weight.to(device), grad.to(device, dtype), ((1, 2) if last else (2, 3))


def exact(x, weight, grad, dims):
    """Result and gradients by the FFT in float64, on the CPU."""
    x, weight = (each.double().cpu().requires_grad_() for each in (x, weight))
    y = apply_filter(x, weight, dims, backend='fft')
    y.backward(grad.double().cpu())
    return y.detach(), x.grad, weight.grad


def error(got, want):
    """Norm of the difference over norm; infinite for a NaN or another shape."""
    if got.shape != want.shape:
        return float('inf')
    found = ((got.double().cpu() - want).norm() / want.norm()).item()
    return found if found == found else float('inf')


def errors_of(case, channels=3, device='cpu'):
    """Of the result, of the map's gradient and of the filter's."""
    x, weight, grad, dims = tensors(*case, channels, device)
    want = exact(x, weight, grad, dims)
    x.requires_grad_(), weight.requires_grad_()
    y = fused_filter(x, weight, dims)
    assert y.dtype == x.dtype and y.stride() == x.stride()
    y.backward(grad)
    assert x.grad.dtype == x.dtype and weight.grad.dtype == weight.dtype
    return [error(*pair) for pair in zip((y.detach(), x.grad, weight.grad), want)]


def errors_of_forms(device='cpu'):
    """The same numbers in other ways."""
    x, weight, grad, dims = tensors((8, 8), False, False, torch.float32, 34, device, batch=3)
    y, grad_x, grad_weight = exact(x, weight, grad, dims)
    found = {}

    strided = x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)  # W outermost
    found['strided'] = [error(fused_filter(strided, weight), y)]

    leaf = x.clone().requires_grad_()
    fused_filter(leaf, weight).backward(grad)
    found['map only'] = [error(leaf.grad, grad_x)]
    leaf = weight.clone().requires_grad_()
    fused_filter(x, leaf).backward(grad)
    found['filter only'] = [error(leaf.grad, grad_weight)]

    leaf = x.clone().requires_grad_()
    fused_filter(leaf, weight).sum().backward()  # a gradient whose strides are zero
    found['expanded gradient'] = [error(leaf.grad, exact(x, weight, torch.ones_like(x), dims)[1])]

    found['launch'] = []
    for launch in (Launch(1, 1, 1), Launch(2, 2, 2, 128, 2), Launch(4, 4, 3)):
        found['launch'].append(error(run_filter(x, weight, dims, launch=launch), y))
        found['launch'] += map(error, run_gradients(x, grad, weight, dims, launch=launch), (grad_x, grad_weight))

    compiled = torch.compile(lambda a, b: fused_filter(a, b).mul(2), backend='aot_eager', fullgraph=True)
    a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = compiled(a, b)
    out.backward(grad)
    found['compiled'] = [*map(error, (out.detach() / 2, a.grad / 2, b.grad / 2), (y, grad_x, grad_weight))]
    return found


def main():
    import numpy as np

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # new memory is NaN
    matmul = np.matmul

    def of_tensor_cores(a, b, **kwargs):
        a, b = ((np.ascontiguousarray(each, np.float32).view(np.int32) & -8192).view(np.float32) for each in (a, b))
        return matmul(a, b, **kwargs)

    np.matmul = of_tensor_cores
    found = {name: errors_of(case, CHANNELS.get(name, 3)) for name, case in CASES.items()}
    found |= errors_of_forms()
    x, weight, _, dims = tensors((14, 14), False, False, torch.float32)
    plain = plan_launch(cut_up(*x.shape), True, False, 1)._replace(precision='tf32')
    found['tf32'] = [error(run_filter(x, weight, dims, launch=plain), exact(x, weight, x, dims)[0])]
    print(json.dumps(found))


@pytest.fixture(scope='module')
def interpreted():
    """Errors by the name of the case, from the interpreter."""
    pytest.importorskip('triton')
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run([sys.executable, __file__], env=env, cwd=root, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', CASES)
def test_kernels_are_the_operator_and_its_gradients(interpreted, name):
    assert len(interpreted[name]) == 3
    assert max(interpreted[name]) < LIMIT[CASES[name][-1]], interpreted[name]


@pytest.mark.parametrize('form', FORMS)
def test_strides_launch_and_what_is_wanted_change_nothing(interpreted, form):
    assert interpreted[form] and max(interpreted[form]) < LIMIT[torch.float32], interpreted[form]


def test_the_interpreter_reads_operands_as_tensor_cores_do(interpreted):
    """Else the errors above would be of products in float32, and would say nothing of the split into three."""
    assert 5e-4 < interpreted['tf32'][0] < 5e-3


def test_triton_is_imported_by_the_kernels_alone():
    code = "import sys, mmfreq.ops.triton_spectral; assert not {'triton', 'mmfreq.ops.triton_kernels'} & set(sys.modules)"
    result = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_map_that_nobody_can_fuse_is_refused():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(3, 8, 5, 2)
    assert not available(x.device) and not supported(x, weight)
    with pytest.raises(ValueError, match=r"on cpu; use apply_filter with backend='fft'"):
        fused_filter(x, weight)


@pytest.mark.parametrize(
    ('x', 'weight', 'dims', 'fit'),
    [
        ((2, 3, 8, 8), (3, 8, 5, 2), (2, 3), True),
        ((2, 3, 8, 8), (2, 3, 8, 5, 2), (-2, -1), True),
        ((2, 8, 8, 3), (8, 5, 3, 2), (1, 2), True),
        ((2, 8, 8, 3), (2, 8, 5, 3, 2), (1, 2), True),
        ((2, 1, 128, 128), (1, 128, 65, 2), (2, 3), True),
        ((2, 1, 128, 126), (1, 128, 64, 2), (2, 3), False),
        ((2, 1, 132, 8), (1, 132, 5, 2), (2, 3), False),
        ((2, 3, 8, 8), (3, 8, 8, 2), (2, 3), False),
        ((2, 3, 8, 8), (1, 8, 5, 2), (2, 3), False),
        ((2, 3, 8, 8), (8, 5, 2), (2, 3), False),
        ((2, 3, 8, 8), (3, 8, 5, 2), (0, 1), False),
        ((3, 8, 8), (3, 8, 5, 2), (1, 2), False),
        ((0, 3, 8, 8), (3, 8, 5, 2), (2, 3), False),
    ],
)
def test_what_is_supported_is_a_matter_of_shapes(monkeypatch, x, weight, dims, fit):
    monkeypatch.setattr('mmfreq.ops.triton_spectral.available', lambda device: True)
    assert supported(torch.zeros(x), torch.zeros(weight), dims) is fit
    assert not supported(torch.zeros(x, dtype=torch.float64), torch.zeros(weight), dims)
    assert not supported(torch.zeros(x), torch.zeros(weight, dtype=torch.complex64), dims)


@pytest.mark.parametrize(('side', 'folds'), [*product((1, 2, 5, 7, 8, 27, 32), (1,)), *product((4, 8, 12, 36, 64), (2,))])
def test_half_shifted_bases_are_orthogonal(side, folds):
    """A frequency has the squared length N / 2; zero among the cosines and Nyquist among the sines have N."""
    n = (side + 1) // 2 // folds
    bases = half_shifted_bases(side, folds, n, n, torch.device('cpu')).double()
    for parity, (cosines, sines) in enumerate(bases):
        weights = torch.full((n,), 2.0, dtype=torch.float64)  # of a folded pixel: how many pixels it stands for
        weights[-1] -= side % 2
        gram = [basis.T @ (weights.unsqueeze(1) * basis) * folds for basis in (cosines, sines)]
        want = torch.full((n,), side / 2, dtype=torch.float64)
        with_zero, with_nyquist = want.clone(), want.clone()
        with_zero[0] = side if parity == 0 else want[0]
        with_nyquist[0] = (side if side % 2 == 0 else 0) if parity == 0 else want[0]
        torch.testing.assert_close(gram[0], with_zero.diag(), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(gram[1], with_nyquist.diag(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize('size', SIZES + LARGE)
@pytest.mark.parametrize('batch', [1, 8, 512])
def test_every_map_has_its_place_in_a_tile(size, batch):
    cut = cut_up(batch, 100, *size)
    assert all(SMALLEST_TILE <= side <= 32 and side % part == 0 for side, part in zip(cut.tile, cut.folded))
    assert all(part * cut.folds * 2 >= side for side, part in zip(size, cut.folded))
    assert cut.tiles * prod(cut.tile) // prod(cut.folded) >= 100
    for shared in (True, False):
        launch = plan_launch(cut, shared, False, 132)
        assert 1 <= launch.samples <= batch and (shared or launch.samples == 1)
        assert launch.tiles <= cut.tiles and launch.warps in (1, 2, 4)


@pytest.mark.gpu
@pytest.mark.parametrize('name', CASES)
def test_on_cuda(name):
    found = errors_of(CASES[name], CHANNELS.get(name, 3), 'cuda')
    assert max(found) < LIMIT[CASES[name][-1]], found


@pytest.mark.gpu
@pytest.mark.parametrize('size', LARGE)
def test_large_maps_on_cuda(size):
    found = errors_of((size, False, False, torch.float32), 3, 'cuda')
    assert max(found) < LIMIT[torch.float32], found


@pytest.mark.gpu
def test_strides_launch_and_what_is_wanted_change_nothing_on_cuda():
    found = errors_of_forms('cuda')
    assert set(found) == set(FORMS)
    assert all(max(errors) < LIMIT[torch.float32] for errors in found.values()), found


@pytest.mark.gpu
@pytest.mark.parametrize('side', [7, 14, 28])
def test_many_programs_on_cuda(side):
    """Several tiles and samples in each program, as at full size."""
    x, weight, grad, dims = tensors((side, side), False, False, torch.float32, 256, 'cuda', batch=128)
    y, grad_x, grad_weight = exact(x, weight, grad, dims)
    assert plan_launch(cut_up(*x.shape), True, False, 132).tiles > 1
    assert error(run_filter(x, weight, dims), y) < LIMIT[torch.float32]
    found = list(map(error, run_gradients(x, grad, weight, dims), (grad_x, grad_weight)))
    assert max(found) < LIMIT[torch.float32], found


if __name__ == '__main__':
    main()
