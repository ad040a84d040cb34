"""plot_logs.py reads work directories, prints a table and draws a figure."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def plot_logs(call_tool):
    return partial(call_tool, 'plot_logs')


@pytest.fixture
def work_dirs(tmp_path):
    """Two work directories, the first with two runs."""
    for name, time, losses in (('one', '1', (3, 2, 1)), ('one', '2', (1.5, 1.25)), ('two', '1', (4, 3, 2, 1))):
        file = tmp_path / name / time / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        first = 30 if time == '2' else 10
        records = [{'loss': loss, 'lr': 0.5, 'iter': first + 10 * i, 'step': first + 10 * i} for i, loss in enumerate(losses)]
        file.write_text('\n'.join(map(json.dumps, [*records, {'mIoU': 50.0 + len(losses), 'step': 40}])))
    return tmp_path / 'one', tmp_path / 'two'


def rows(text):
    return [[cell.strip() for cell in line.strip('│').split('│')] for line in text.splitlines() if line.startswith('│')]


def test_last_and_best_values_are_printed_and_drawn(plot_logs, work_dirs, tmp_path):
    text = plot_logs(*work_dirs, '--out', tmp_path / 'logs.png')
    assert rows(text) == [
        ['one (2 runs joined)', 'loss', '1.25', '40', '1.25', '40'],
        ['', 'lr', '0.5', '40', '', ''],
        ['', 'mIoU', '52', '40', '52', '40'],
        ['two', 'loss', '1', '40', '1', '40'],
        ['', 'lr', '0.5', '40', '', ''],
        ['', 'mIoU', '54', '40', '54', '40'],
    ]
    assert f'figure: {tmp_path}/logs.png' in text
    assert np.asarray(Image.open(tmp_path / 'logs.png').convert('RGB')).std() > 5


def test_keys_of_a_single_run(plot_logs, work_dirs, tmp_path):
    text = plot_logs(work_dirs[0] / '1', '--keys', 'loss', '--out', tmp_path / 'new' / 'logs.png')
    assert rows(text) == [['1', 'loss', '1', '30', '1', '30']] and (tmp_path / 'new/logs.png').is_file()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda one: [one / 'gone'], 'Give the work directory of a training'),
        (lambda one: [one.parent], 'Give one of them: one, two'),
        (lambda one: [one, '--keys', 'loss', 'bbox_mAP'], "no key 'bbox_mAP' in the logs; there are loss, lr, mIoU"),
    ],
)
def test_errors_are_one_line_with_status_2(plot_logs, work_dirs, make, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        plot_logs(*make(work_dirs[0]))
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_duplicate_directory_is_drawn_once(plot_logs, work_dirs, tmp_path):
    text = plot_logs(work_dirs[1], str(work_dirs[1]) + '/', '--out', tmp_path / 'logs.png')
    assert len(rows(text)) == 3
