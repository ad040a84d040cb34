"""benchmarks/onnx_dft.py with a small model, and the page that it wrote."""

import re
from pathlib import Path

import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_run_writes_the_page(benchmark_script, tmp_path, capsys):
    page = tmp_path / 'page.md'
    benchmark_script('onnx_dft').main(['--archs', 'gfnet-h-micro', '--size', '64', '--rounds', '3', '--out', str(page)])
    (row,) = (line for line in page.read_text(encoding='utf-8').splitlines() if line.startswith('| gfnet-h-micro | 64x64 |'))
    assert re.search(r'\| [\d.]+x \[[\d.]+, [\d.]+\] \| \de-0\d, \de-0\d \| \d+ \(\d+ DFT in the other\) \|', row), row
    assert row in capsys.readouterr().out


def test_deployment_page_cites_the_measured_range():
    measured = (ROOT / 'docs' / 'measurements' / 'onnx_cpu.md').read_text(encoding='utf-8')
    rows = [line.split('|')[3:5] for line in measured.splitlines() if re.match(r'\| [\w-]+ \| \d+x\d+ \|', line)]
    speeds = [float(speed.split('x')[0]) for speed, _ in rows]
    assert len(rows) == 10 and all(float(error) < 1e-4 for _, errors in rows for error in errors.split(','))
    page = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8')
    cited = re.search(r'([\d.]+) to ([\d.]+) times as slowly', page).groups()
    assert cited == (f'{min(speeds):.1f}', f'{max(speeds):.1f}')
