"""benchmarks/onnx_optimized.py with a small model, and the page that it wrote."""

import re
from pathlib import Path

import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'measurements' / 'onnx_optimized.md'


def rows_of(page):
    """{model: (operators in the file, those in onnxruntime, MiB, ms, median speed, error)}, pairs as floats."""
    rows = (line.strip('| ').split(' | ') for line in page.splitlines() if re.match(r'\| [a-z0-9-]+ \| \d+, \d+ \|', line))
    pair = [1, 2, 3, 4]
    return {
        row[0]: (*(tuple(map(float, row[i].split(', '))) for i in pair), float(row[5].split('x')[0]), float(row[6])) for row in rows
    }


@pytest.mark.slow
def test_a_small_run_writes_the_page(benchmark_script, tmp_path, capsys):
    page = tmp_path / 'page.md'
    benchmark_script('onnx_optimized').main(['--archs', 'hornet-micro', '--size', '64', '--rounds', '3', '--out', str(page)])
    text = page.read_text(encoding='utf-8')
    assert text.strip() in capsys.readouterr().out
    operators, _, _, milliseconds, speed, error = rows_of(text)['hornet-micro']
    assert operators[1] < operators[0] and min(milliseconds) > 0 and speed > 0 and error < 1e-5
    assert re.search(r'^- hornet-micro: .*Conv -\d+.*\.$', text, re.MULTILINE)


def test_the_page_and_its_citation():
    rows = rows_of(PAGE.read_text(encoding='utf-8'))
    assert {name.split('-')[0] for name in rows} == {'hornet', 'gfnet', 'dfformer', 'cdfformer', 'affnet'}
    for name, (operators, _, weights, _, _, error) in rows.items():
        assert operators[1] <= operators[0] and weights[1] <= 1.01 * weights[0] and error < 1e-4, name
    speeds = [speed for *_, speed, _ in rows.values()]
    page = (ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8')
    cited = re.search(r'([\d.]+) to ([\d.]+) times as fast', page).groups()
    assert cited == (f'{min(speeds):.2f}', f'{max(speeds):.2f}')
