"""benchmarks/runtimes.py with a small model: its page, and results of runtimes that crash or are missing."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def runtimes(benchmark_script):
    return benchmark_script('runtimes')


@pytest.mark.slow
def test_a_small_run_writes_the_page(runtimes, tmp_path, capsys):
    page = tmp_path / 'page.md'
    options = ['--models', 'gfnet-h-micro', '--size', '32', '32', '--rounds', '2', '--runtimes', 'onnxruntime', 'TensorRT']
    runtimes.main([*options, '--out', str(page), '--folder', str(tmp_path)])
    text = page.read_text(encoding='utf-8')
    assert re.search(r'^\| onnxruntime \| [\d.]+ \| \de-0\d, [\d.]+ \|$', text, re.MULTILINE), text
    assert re.search(r'^\| TensorRT \| [\d.]+ \| operators \[1\] \|$', text, re.MULTILINE), text
    assert '- [1] operators supported; not run, it needs a GPU' in text and text in capsys.readouterr().out
    (tmp_path / 'gfnet-h-micro' / 'model.onnx').unlink()
    runtimes.main([*options, '--folder', str(tmp_path)])  # the results are read
    assert '| onnxruntime | ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('program', 'reason'),
    [
        ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'crashes (SIGSEGV)'),
        ("raise ValueError('no operator of /some/where/file.py | x')", 'ValueError: no operator of file.py / x'),
        ('import time; time.sleep(60)', 'no result in 2 s'),
    ],
)
def test_a_failure_is_a_result(program, reason, runtimes, tmp_path, monkeypatch):
    script = tmp_path / 'worker.py'
    script.write_text(program)
    monkeypatch.setattr(runtimes, '__file__', str(script))
    assert runtimes.attempt('onnxruntime', sys.executable, tmp_path, 1, 2)['reason'] == reason


def test_difference_is_infinite_for_another_shape_and_nan(runtimes):
    a = np.array([[1.0, -4.0]], np.float32)
    assert runtimes.difference(a + np.float32(0.5), a) == 0.125
    assert runtimes.difference(a[0], a) == runtimes.difference(a * np.nan, a) == float('inf')
