"""benchmarks/onnx_open_size.py with a small model, and the page that it wrote."""

import re
from pathlib import Path

import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_run_writes_the_page(benchmark_script, tmp_path, capsys):
    page, size = tmp_path / 'page.md', ['64', '96']
    benchmark_script('onnx_open_size').main(
        ['--archs', 'hornet-micro', '--size', *size, '--timed', *size, '--rounds', '3', '--out', str(page)]
    )
    rows = [line for line in page.read_text(encoding='utf-8').splitlines() if line.startswith('| hornet-micro |')]
    assert re.fullmatch(r'\| hornet-micro \| \d+ \| 4, 4 \| \de-0\d \|', rows[0]), rows
    assert re.fullmatch(r'\| hornet-micro \| 64x96 \| \d+ \| \d+ \| [\d.]+x \[[\d.]+, [\d.]+\] \|', rows[1]), rows
    assert rows[0] in capsys.readouterr().out


def test_the_measured_errors_are_those_that_the_deployment_page_states():
    measured = (ROOT / 'docs' / 'measurements' / 'open_size.md').read_text(encoding='utf-8')
    rows = [line.strip('| ').split(' | ') for line in measured.splitlines() if re.match(r'\| [\w.-]+ \| \d+ \| \d+, \d+ \|', line)]
    errors = [float(error) for row in rows for error in row[3:]]
    assert len(rows) == 5 and len(errors) == 40
    stated = re.search(
        r'At eight sizes .* equal PyTorch\'s within (\S+) of', (ROOT / 'docs/deployment.md').read_text(encoding='utf-8')
    )
    assert max(errors) < float(stated.group(1))
