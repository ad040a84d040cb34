"""The fused kernels equal the spectral operator: on a CPU with Triton's interpreter, in its own process, and compiled on a GPU.

As a program this file prints the errors of all cases as JSON. The interpreter multiplies in float32; here it is patched to read its
operands with 11 bits, like tensor cores. Uninitialized memory is NaN.
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

from benchmarks.triton.triton_launch import SMALLEST_TILE, Launch, cut_up, half_shifted_bases, plan_launch
from benchmarks.triton.triton_spectral import available, fused_filter, run_filter, run_gradients, supported
from mmfreq.ops import apply_filter, half_width
from mmfreq.testing import naming

LIMIT = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SIZES = [(1, 1), (1, 2), (2, 1), (7, 7), (8, 8), (14, 14), (3, 8), (25, 42), (36, 40)]
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
# others: 3; maps that share a tile: more than one program; large maps: one program for each
CHANNELS = {'1x1': 40, '7x7': 18, '14x14': 5, '25x42': 2, '36x40': 1}
FORMS = ('strided', 'map only', 'filter only', 'expanded gradient', 'launch', 'compiled')
KERNELS = ('triton', 'benchmarks.triton.triton_kernels')  # modules that only the kernels import


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
    x, weight, grad, dims = tensors((8, 8), False, False, torch.float32, 3, device)
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

    compiled = torch.compile(lambda a, b: fused_filter(a, b).mul(2), backend='aot_eager', fullgraph=True)
    a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = compiled(a, b)
    out.backward(grad)
    found['compiled'] = [*map(error, (out.detach() / 2, a.grad / 2, b.grad / 2), (y, grad_x, grad_weight))]

    x, weight, grad, dims = tensors((8, 8), False, False, torch.float32, 34, device, batch=3)  # three tiles
    y, grad_x, grad_weight = exact(x, weight, grad, dims)
    found['launch'] = []
    for launch in (Launch(1, 1, 1), Launch(2, 2, 2, 128, 2), Launch(4, 4, 3)):
        found['launch'].append(error(run_filter(x, weight, dims, launch=launch), y))
        found['launch'] += map(error, run_gradients(x, grad, weight, dims, launch=launch), (grad_x, grad_weight))
    return found


def too_large(found):
    """Cases that lack an error or have one that is not below its limit."""
    limits = {name: LIMIT[CASES[name][-1] if name in CASES else torch.float32] for name in found}
    return {name: errors for name, errors in found.items() if not errors or not max(errors) < limits[name]}


def main():
    import numpy as np

    early = [name for name in KERNELS if name in sys.modules]
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
    print(json.dumps({'errors': found, 'imported early': early}))


@pytest.fixture(scope='module')
def interpreted():
    """Errors by the name of the case, from the interpreter, and what was imported before the first kernel."""
    pytest.importorskip('triton')
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run([sys.executable, __file__], env=env, cwd=root, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_kernels_equal_the_operator_and_its_gradients(interpreted):
    errors = {name: interpreted['errors'][name] for name in CASES}
    assert {len(each) for each in errors.values()} == {3}
    assert not too_large(errors)


@pytest.mark.slow
def test_strides_launch_and_requested_gradients_do_not_change_the_result(interpreted):
    assert not too_large({form: interpreted['errors'][form] for form in FORMS})


@pytest.mark.slow
def test_interpreter_reads_operands_like_tensor_cores(interpreted):
    """Else the errors above would be of products in float32, and would say nothing of the split into three."""
    assert 5e-4 < interpreted['errors']['tf32'][0] < 5e-3


@pytest.mark.slow
def test_triton_is_imported_only_by_the_kernels(interpreted):
    assert interpreted['imported early'] == []


def test_unsupported_maps_are_refused():
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(3, 8, 5, 2)
    assert not available(x.device) and not supported(x, weight)
    with pytest.raises(ValueError, match=naming('cpu', 'apply_filter')):
        fused_filter(x, weight)


# shapes of a map and a filter, positions of H and W
SUPPORTED = [
    ((2, 3, 8, 8), (3, 8, 5, 2), (2, 3)),
    ((2, 3, 8, 8), (2, 3, 8, 5, 2), (-2, -1)),
    ((2, 8, 8, 3), (8, 5, 3, 2), (1, 2)),
    ((2, 8, 8, 3), (2, 8, 5, 3, 2), (1, 2)),
    ((2, 1, 128, 128), (1, 128, 65, 2), (2, 3)),
]
NOT_SUPPORTED = [
    ((2, 1, 128, 126), (1, 128, 64, 2), (2, 3)),
    ((2, 1, 132, 8), (1, 132, 5, 2), (2, 3)),
    ((2, 3, 8, 8), (3, 8, 8, 2), (2, 3)),
    ((2, 3, 8, 8), (1, 8, 5, 2), (2, 3)),
    ((2, 3, 8, 8), (8, 5, 2), (2, 3)),
    ((2, 3, 8, 8), (3, 8, 5, 2), (0, 1)),
    ((3, 8, 8), (3, 8, 5, 2), (1, 2)),
    ((0, 3, 8, 8), (3, 8, 5, 2), (2, 3)),
]


def test_supported_depends_on_shapes_and_dtypes(monkeypatch):
    monkeypatch.setattr('benchmarks.triton.triton_spectral.available', lambda device: True)

    def fit(x, weight, dims, *dtypes):
        return supported(*(torch.zeros(shape, dtype=dtype) for shape, dtype in zip((x, weight), dtypes)), dims)

    every = SUPPORTED + NOT_SUPPORTED
    assert [case for case in every if fit(*case, torch.float32, torch.float32)] == SUPPORTED
    assert not [case for case in every if fit(*case, torch.float64, torch.float32)]
    assert not [case for case in every if fit(*case, torch.float32, torch.complex64)]


def test_half_shifted_bases_are_orthogonal():
    """A frequency has the squared length N / 2; zero among the cosines and Nyquist among the sines have N."""
    for side, folds in (*product((1, 2, 5, 7, 8, 27, 32), (1,)), *product((4, 8, 12, 36, 64), (2,))):
        n = (side + 1) // 2 // folds
        bases = half_shifted_bases(side, folds, n, n, torch.device('cpu')).double()
        for parity, (cosines, sines) in enumerate(bases):
            weights = torch.full((n,), 2.0, dtype=torch.float64)  # of a folded pixel: how many pixels it stands for
            weights[-1] -= side % 2
            gram = torch.stack([basis.T @ (weights.unsqueeze(1) * basis) * folds for basis in (cosines, sines)])
            want = torch.full((2, n), side / 2, dtype=torch.float64)
            if parity == 0:
                want[:, 0] = torch.tensor([side, side if side % 2 == 0 else 0])
            torch.testing.assert_close(gram, want.diag_embed(), rtol=1e-6, atol=1e-5, msg=lambda m, at=(side, folds): f'{at}: {m}')


def test_every_map_has_a_place_in_a_tile():
    for size, batch in product(SIZES + LARGE, (1, 8, 512)):
        cut, case = cut_up(batch, 100, *size), (size, batch)
        assert all(SMALLEST_TILE <= side <= 32 and side % part == 0 for side, part in zip(cut.tile, cut.folded)), case
        assert all(part * cut.folds * 2 >= side for side, part in zip(size, cut.folded)), case
        assert cut.tiles * prod(cut.tile) // prod(cut.folded) >= 100, case
        for shared in (True, False):
            launch = plan_launch(cut, shared, False, 132)
            assert 1 <= launch.samples <= batch and (shared or launch.samples == 1), case
            assert launch.tiles <= cut.tiles and launch.warps in (1, 2, 4), case


@pytest.mark.slow
@pytest.mark.gpu
def test_on_cuda():
    assert not too_large({name: errors_of(case, CHANNELS.get(name, 3), 'cuda') for name, case in CASES.items()})


@pytest.mark.slow
@pytest.mark.gpu
def test_large_maps_on_cuda():
    assert not too_large({size: errors_of((size, False, False, torch.float32), 3, 'cuda') for size in LARGE})


@pytest.mark.slow
@pytest.mark.gpu
def test_strides_launch_and_requested_gradients_do_not_change_the_result_on_cuda():
    found = errors_of_forms('cuda')
    assert set(found) == set(FORMS)
    assert not too_large(found)


@pytest.mark.slow
@pytest.mark.gpu
def test_many_programs_on_cuda():
    """Several tiles and samples in each program, as at full size."""
    found = {}
    for side in (7, 14, 28):
        x, weight, grad, dims = tensors((side, side), False, False, torch.float32, 256, 'cuda', batch=128)
        y, grad_x, grad_weight = exact(x, weight, grad, dims)
        assert plan_launch(cut_up(*x.shape), True, False, 132).tiles > 1
        found[side] = [error(run_filter(x, weight, dims), y)]
        found[side] += map(error, run_gradients(x, grad, weight, dims), (grad_x, grad_weight))
    assert not too_large(found)


if __name__ == '__main__':
    main()
