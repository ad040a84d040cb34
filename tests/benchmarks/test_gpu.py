"""benchmarks/gpu.py: a dry run on a CPU, training on toy data, its time limit, shares of the bandwidth; golden numbers on CUDA."""

import re
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.testing.golden import LIMITS

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
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
    assert set(pages) == {'gpu_golden', 'gpu_spectral', 'gpu_irfft2', 'gpu_precision', 'gpu_training', 'gpu_inference'}
    printed = capsys.readouterr().out
    assert all(text in printed and 'A dry run' in text and str(tmp_path.parent) not in text for text in pages.values())
    (golden,) = rows_of(pages['gpu_golden'], 'stages')
    assert golden[:2] == ['affnet-et', '2'] and float(golden[2]) < LIMITS['affnet outputs'] and golden[3] == 'reached'
    assert ['rounds' in pages[f'gpu_{name}'] for name in ('golden', 'training')] == [False, True]
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


@pytest.mark.slow
def test_training_on_toy_data_is_not_repeated(script, tmp_path, capsys):
    write_toy_ade20k(tmp_path / 'toy', 4, 2)
    config = tmp_path / 'micro.py'
    config.write_text(
        f'_base_ = {str(TOY)!r}\ntrain_cfg = dict(max_iters=2, val_interval=1)\ntrain_dataloader = dict(batch_size=2)\n'
        'default_hooks = dict(checkpoint=dict(interval=2))\n'
    )
    command = [*TINY, '--only', 'camvid', '--configs', str(config), '--data', str(tmp_path / 'toy')]
    command += ['--work-dir', str(tmp_path / 'runs'), '--out', str(tmp_path)]
    script['main'](command)
    text = (tmp_path / 'gpu_camvid.md').read_text()
    score, mean = re.search(r'^\| `micro` \| ([\d.]+) \| ([\d.]+) \| - \|$', text, re.MULTILINE).groups()
    assert score == mean and '- From random weights, by one recipe: 2 iterations of 2 crops of 128x128' in text
    assert rows_of(text, 'validation curve')[0][-1] == f'{float(score):.1f}'
    before = sorted(tmp_path.glob('runs/**/*.log'))
    script['main'](command)
    assert len(before) == 2 and sorted(tmp_path.glob('runs/**/*.log')) == before


@pytest.mark.slow
def test_the_models_of_camvid_have_one_recipe_and_heads_that_fit(script):
    from benchmarks.training_runs import models_of

    models = models_of(script['parse_args'](['--device', 'cpu']))
    sizes = {model.name: model.size.modules['backbone'].params for model in models}  # counted in a forward pass
    assert sizes.keys() == set(script['CAMVID']) and all(4e6 < size < 3e7 for size in sizes.values()), sizes


def test_a_run_that_fails_does_not_end_the_others(script, tmp_path, monkeypatch, capsys):
    def failing(command, **options):
        raise subprocess.CalledProcessError(1, 'tools/train.py')

    monkeypatch.setattr(subprocess, 'run', failing)
    folder = ('--data', str(tmp_path), '--work-dir', str(tmp_path / 'runs'))
    script['main']([*TINY, '--only', 'camvid', *folder])
    printed = capsys.readouterr().out
    assert [printed.count(f'{arch}: not measured, Command') for arch in script['CAMVID']] == [1, 1, 1, 1]


def test_the_part_camvid_without_data(script, tmp_path, capsys):
    script['main']([*TINY, '--only', 'camvid', '--data', str(tmp_path / 'missing')])
    assert f'- not measured: there is no data at {tmp_path}/missing, see --data' in capsys.readouterr().out


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
def test_every_family_agrees_with_the_golden_numbers_on_cuda(script, tmp_path):
    script['main'](['--only', 'golden', '--out', str(tmp_path)])
    rows = rows_of((tmp_path / 'gpu_golden.md').read_text(), 'stages')
    assert len(rows) == len(script['GOLDEN']) and all(row[-1] == 'reached' for row in rows), rows


@pytest.mark.gpu
def test_small_grids_on_cuda(script, tmp_path):
    script['main'](
        ['--only', 'spectral', 'tune', '--sides', '7', '14', '--bytes', str(2**22), '--repeats', '2', '--out', str(tmp_path)]
    )
    text = (tmp_path / 'gpu_spectral.md').read_text()
    assert 'is wrong' not in text and text.count('target at least 2x') == 4
    assert 'planned' in (tmp_path / 'gpu_tune.md').read_text()
