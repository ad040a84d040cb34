"""benchmarks/int8.py on toy data."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def int8(benchmark_script):
    return benchmark_script('int8')


@pytest.mark.slow
def test_a_toy_segmentor(int8, trained, tmp_path):
    page = tmp_path / 'page.md'
    checkpoint = sorted(trained.glob('*.pth'))[-1]
    int8.main([str(trained / 'toy.py'), str(checkpoint), '--calibration', '2', '--out', str(page)])
    rows = re.findall(r'^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$', page.read_text(encoding='utf-8'), re.MULTILINE)
    assert [row[0] for row in rows] == list(int8.KINDS)
    scores, times, sizes = (dict(zip(int8.KINDS, map(float, column))) for column in list(zip(*rows, strict=True))[1:])
    assert times['float32'] == 1 and abs(scores['fp16 file'] - scores['float32']) < 1
    assert sizes['int8: all that onnxruntime quantizes'] < sizes['float32']


def test_the_deployment_page_cites_the_measurements(int8):
    measured = (ROOT / 'docs/measurements/int8_cpu.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| [\d.]+ \|$', measured, re.MULTILINE)
    scores, times = {row[0]: row[1] for row in rows}, {row[0]: float(row[2]) for row in rows}
    assert list(scores) == list(int8.KINDS)
    text = ' '.join((ROOT / 'docs/deployment.md').read_text(encoding='utf-8').split())
    best = 'int8: convolutions'
    cited = f'took {times[best]:.2f} of the time of float32, at {scores[best]} instead of {scores["float32"]} % mIoU'
    assert cited in text and times[best] < 1
    assert times['int8: all that onnxruntime quantizes'] >= 1 and times['fp16 file'] > 1


def test_mean_iou_by_hand(int8):
    matrix = np.array([[3.0, 1, 0], [0, 4, 0], [0, 0, 0]])  # the last class does not occur
    assert int8.mean_iou(matrix) == (3 / 4 + 4 / 5) / 2
