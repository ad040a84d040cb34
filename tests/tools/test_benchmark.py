"""The command line of the benchmark: output, files and errors."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ('--size', 64, '--repeats', 2, '--threads', 2)


@pytest.fixture
def benchmark(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setenv('COLUMNS', '300')
    tool = importlib.import_module('benchmark')
    monkeypatch.setattr('benchmarks.harness.timing.SIDES', {'cpu': (64,)})
    monkeypatch.setattr(tool, 'WIDTH', 300)

    def run(*args):
        tool.main([str(arg) for arg in args])
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_suite_reference_writes_tables_and_json(benchmark, tmp_path):
    files = ('--json', tmp_path / 'deep' / 'x.json', '--out', tmp_path / 'x.md')
    text = benchmark('--archs', 'hornet_micro', 'affnet-micro', '--precisions', 'fp32', *SMALL, *files)
    for words in ('mmfreq: speed', 'saved: ratio', 'geometric mean', 'target at least 1.1x', 'two '):
        assert words in text
    data = json.loads((tmp_path / 'deep' / 'x.json').read_text())
    assert [group['title'] for group in data['groups']] == [
        f'{arch}-micro, 64x64, {mode}' for arch in ('hornet', 'affnet') for mode in ('inference', 'training')
    ]
    for group in data['groups']:
        base, run = group['runs'][:2]
        assert (base['form'], run['form']) == ('reference', 'mmfreq') and len(run['seconds']) == 2
        assert 0 < run['relative_error'] < 1e-4 and run['multiply_adds'] == base['multiply_adds'] > 0
        rounds = [a / b for a, b in zip(base['seconds'], run['seconds'])]
        assert run['speed_over_baseline']['median'] == pytest.approx(sum(rounds) / 2)
    page = (tmp_path / 'x.md').read_text()
    assert 'python tools/benchmark.py --archs hornet_micro affnet-micro' in page and '--json x.json --out x.md' in page
    assert str(tmp_path) not in page and len(re.findall(r'^\| (?:hornet|affnet)-micro \| 64x64 \|', page, re.MULTILINE)) == 4


@pytest.mark.slow
def test_growth_with_a_plot(benchmark, tmp_path):
    files = ('--plot', tmp_path / 'images' / 'x.png', '--out', tmp_path / 'pages' / 'x.md')
    text = benchmark('--suite', 'growth', '--archs', 'dfformer-micro', *files, *SMALL, '--size', 64, '64x128')
    assert 'time per pixel from 64x64 to 64x128' in text and (tmp_path / 'images/x.png').read_bytes().startswith(b'\x89PNG')
    assert '](../images/x.png)' in (tmp_path / 'pages/x.md').read_text()


@pytest.mark.slow
def test_beside_peers(benchmark):
    text = benchmark('--suite', 'peers', '--archs', 'dfformer-micro', '--modes', 'inference', '--quick', *SMALL)
    rows = {row[0]: row for row in (re.split(r' *[│┃] *', line.strip('│┃ ')) for line in text.splitlines()) if len(row) > 5}
    assert {'convformer_s18', 'caformer_s18', 'convnext_tiny', 'dfformer-micro'} <= set(rows)
    assert rows['convformer_s18'][3] == '1.00x [1.00, 1.00]' and "speed over convformer_s18's" in text
    assert 'A quick run' in text


def test_list_measures_nothing(benchmark, monkeypatch):
    monkeypatch.setattr('benchmarks.harness.measure.measure', lambda *_: pytest.fail('measured'))
    lines = benchmark('--list', '--forms', 'mmfreq', 'mmpretrain').splitlines()
    assert len(lines) == 10 and lines[0].startswith('hornet-tiny-7x7, 512x512, inference: hornet-tiny-7x7 reference fp32 512x512, ')
    assert 'mmpretrain' in lines[0] and 'mmpretrain' not in lines[-1] and 'bf16' in lines[0] and 'bf16' not in lines[1]


@pytest.mark.slow
def test_tune(benchmark, tmp_path):
    args = ('--tune', '--channels', 4, '--size', 7, 8, '--repeats', 2, '--threads', 2)
    text = benchmark(*args, '--json', tmp_path / 'x.json', '--out', tmp_path / 'x.md')
    timings = json.loads((tmp_path / 'x.json').read_text())['timings']
    assert [(timing['side'], timing['channels'], timing['precision']) for timing in timings] == [(7, 4, 'fp32'), (8, 4, 'fp32')]
    assert all(timing['best'] in timing['seconds'] for timing in timings)
    assert 'fastest' in text and '| 8x8 | 4 | fp32 |' in (tmp_path / 'x.md').read_text()


def test_different_outputs_are_refused(benchmark, monkeypatch, capsys):
    from benchmarks import reference

    monkeypatch.setattr(reference, 'twin', lambda model: reference.build(model.arch_name).eval())  # with other weights
    with pytest.raises(SystemExit) as end:
        benchmark('--archs', 'hornet-micro', *SMALL)
    assert end.value.code == 2 and 'same weights and return different outputs' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('--archs', 'hornet-tinny-gf', *SMALL), 'nearest: hornet-tiny-gf'),
        (('--size', '0'), "expected a positive integer, got '0'"),
        (('--size', '1x2x3'), 'expected a side or HxW'),
        (('--size', 512, '--plot', 'x.png'), 'A plot against resolution needs at least two sizes'),
        (('--suite', 'growth', '--size', 512), 'Give at least two'),
        (('--forms', 'melted'), "The form 'melted' is unknown"),
    ],
)
def test_error_of_invalid_arguments_is_one_line(benchmark, args, message, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark(*args)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_without_a_checkout_it_ends_with_one_sentence(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module('benchmark'), 'ROOT', tmp_path)
    with pytest.raises(
        SystemExit, match=r'^tools/benchmark\.py needs a checkout of the repository: .*no folder benchmarks/ in .*\.$'
    ):
        benchmark('--list')
