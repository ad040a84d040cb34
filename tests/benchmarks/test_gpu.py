"""benchmarks/gpu.py: a dry run on a CPU, its time limit, its shares of the bandwidth, and no timing of wrong operators."""

import runpy
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TINY = ('--device', 'cpu', '--tiny')


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, 'path', [*sys.path])
    return runpy.run_path(str(ROOT / 'benchmarks' / 'gpu.py'))


def rows_of(text, table):
    """Cells of the table below the line that begins with `table`, without its header."""
    lines = text.split(f'**{table}')[1].split('\n\n')[1].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


@pytest.mark.slow
def test_a_dry_run_writes_every_page(script, tmp_path, capsys, monkeypatch):
    archs = script['MICRO'][:1]  # each is measured in eight processes
    monkeypatch.setitem(script['main'].__globals__, 'MICRO', archs)
    script['main']([*TINY, '--out', str(tmp_path)])
    pages = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert set(pages) == {'gpu_spectral', 'gpu_irfft2', 'gpu_precision', 'gpu_training', 'gpu_inference'}
    printed = capsys.readouterr().out
    assert all(text in printed and 'A dry run' in text and str(tmp_path.parent) not in text for text in pages.values())
    grids = rows_of(pages['gpu_spectral'], '4 channels, batches of 8')
    assert [row[0] for row in grids] == ['7x7', '8x8'] and all(row[3].endswith(']') and row[5] == '-' for row in grids)
    for name in ('training', 'inference'):
        steps = rows_of(pages[f'gpu_{name}'], name)
        assert [(row[0], row[2]) for row in steps] == [(arch, p) for arch in archs for p in ('fp32', 'bf16')]
        assert all(float(row[-2]) < 1e-4 for row in steps if row[2] == 'fp32')
    assert pages['gpu_training'].count('target at least 2x') == 1
    errors = rows_of(pages['gpu_precision'], 'relative error')
    assert len(errors) == 1 and all(float(row[1]) < 1e-5 < float(row[3]) < 0.1 for row in errors)


def test_page_lists_what_was_skipped_when_the_time_is_up(script, tmp_path):
    script['main']([*TINY, '--out', str(tmp_path), '--seconds', '0', '--only', 'spectral', 'training'])
    spectral, training = ((tmp_path / f'gpu_{part}.md').read_text() for part in ('spectral', 'training'))
    assert 'time was up: 7x7, maps of 0.0156 MiB; 8x8, maps of 0.0156 MiB; 7x7, batches of 8; 8x8, batches of 8.' in spectral
    assert 'time was up: hornet-micro, training; affnet-micro, training.' in training


def test_unit_that_would_exceed_the_time_is_not_started(script, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(script['time'], 'monotonic', lambda: now[0])
    clock, done = script['Clock'](10), []
    for unit in clock.fitting(range(5)):
        now[0] += 4
        done.append(unit)
    assert done == [0, 1] and clock.skipped == ['2', '3', '4'] and clock.remaining == 2


def test_shares_and_speeds(script):
    """One channel of 4x4, four samples: a map of 256 bytes, a filter of 96; a copy of 1000 bytes per second."""
    found = {('torch.fft', False): [2.0], ('fused', False): [0.8], ('torch.fft', True): [6.0], ('fused', True): [4.0]}
    cells, verdicts = script['spectral_row'](found, 4, 4, 1, 1000)
    assert cells[:2] == ('4x4', '4') and cells[2:6] == ('2e+03', '-', '-', '2.50x [2.50, 2.50]')
    assert cells[9] == '1.50x [1.50, 1.50]'
    assert cells[10:] == ('30 %', '76 %', '39 %')  # 608 / 2, 608 / 0.8, 1568 / 4
    assert [str(verdict).rsplit(': ')[-1] for verdict in verdicts] == ['reached', 'missed', 'reached']


def test_wrong_operators_are_detected(script):
    assert all(
        script['is_correct'](operator, 3, 7, 'cpu')
        for operator in script['operators'](*script['inputs'](1, 3, 7, 'cpu')[:2]).values()
    )
    assert not script['is_correct'](lambda x, weight: script['torch_fft'](x, weight) * 1.001, 3, 7, 'cpu')
    assert not script['is_correct'](lambda x, weight: script['torch_fft'](x, weight.detach()) + 0 * weight.sum(), 3, 7, 'cpu')


def test_launches_differ_from_the_plan_and_have_a_warp_per_tile(script):
    planned = script['Launch'](4, 4, 6, 128, 2)
    found = list(script['launches'](planned, 8))
    assert planned in found and len(set(found)) > 20
    assert all(launch.tiles == launch.warps for launch in found if launch.precision == 'tf32x3' and launch.warps <= 4)
    assert all(1 <= launch.samples <= 8 for launch in found)
    assert {launch.precision for launch in islice(reversed(found), 2)} == {'tf32', 'ieee'}


def test_error_without_a_gpu(script):
    if torch.cuda.is_available():
        script['check_device']('cuda')
        return
    with pytest.raises(ValueError, match='no CUDA device'):
        script['main'](['--only', 'irfft2'])


@pytest.mark.gpu
def test_small_grids_on_cuda(script, tmp_path):
    script['main'](
        ['--only', 'spectral', 'tune', '--sides', '7', '14', '--bytes', str(2**22), '--repeats', '2', '--out', str(tmp_path)]
    )
    text = (tmp_path / 'gpu_spectral.md').read_text()
    assert 'is wrong' not in text and text.count('target at least 2x') == 4
    assert 'planned' in (tmp_path / 'gpu_tune.md').read_text()
