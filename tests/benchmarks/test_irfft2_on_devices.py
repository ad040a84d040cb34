"""benchmarks/irfft2_on_devices.py: on a CPU its two columns are zero and rounding errors."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'irfft2_on_devices.py'


def test_both_columns_agree_on_a_cpu():
    script = runpy.run_path(str(SCRIPT))
    found = script['rows']('cpu')
    assert [grid for grid, *_ in found] == ['7x7', '8x8', '14x14', '16x16', '28x28', '32x32', '56x56', '64x64', '25x42']
    assert all(torch_error == 0 and error < 1e-6 for _, torch_error, error in found)
    assert script['table']('cpu').count('\n| ') == len(found) + 1


@pytest.mark.gpu
def test_irfft2_on_cuda_agrees_with_the_cpu():
    found = runpy.run_path(str(SCRIPT))['rows']('cuda')
    assert all(error < 1e-6 for _, _, error in found), found
