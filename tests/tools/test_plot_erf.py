"""plot_erf.py compares several models, with or without checkpoints, in one table and one figure."""

import importlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import mmfreq


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools'))
    monkeypatch.setenv('COLUMNS', '160')
    return importlib.import_module('plot_erf')


def numbers(text, row):
    line = next(line for line in text.splitlines() if f'│ {row} ' in line)
    return [float(n) for n in re.findall(r'│ +([\d.]+)', line)]


@pytest.mark.slow
def test_models_side_by_side(tool, tmp_path, capsys):
    torch.save(mmfreq.build_classifier('hornet-micro').state_dict(), tmp_path / 'h.pth')
    words = ('hornet-micro', tmp_path / 'h.pth', 'dfformer-micro', 'hornet-micro', tmp_path / 'h.pth')
    tool.main([str(w) for w in (*words, '--size', 64, '--count', 2, '--stage', 1, '--device', 'cpu', '--out', tmp_path / 'e.png')])
    text = capsys.readouterr().out
    assert '2 synthetic images of 64 x 64 pixels' in text and f'figure: {tmp_path}/e.png' in text
    found = [numbers(text, row) for row in ('hornet-micro', 'dfformer-micro (random weights)', 'hornet-micro h')]
    assert all(len(row) == 4 and row == sorted(row) and row[0] > 0 and row[-1] <= 100 for row in found)
    assert found[0] == found[2] != found[1]  # the same weights, the same field
    assert np.asarray(Image.open(tmp_path / 'e.png').convert('RGB')).std() > 10


@pytest.mark.slow
def test_images_of_a_folder(tool, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'photo.png'), np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8))
    options = ('--images', tmp_path, '--size', 32, 64, '--device', 'cpu', '--out', tmp_path / 'out' / 'e.png')
    tool.main([str(word) for word in ('affnet-micro', *options)])
    assert '1 images of 32 x 64 pixels' in capsys.readouterr().out and (tmp_path / 'out/e.png').is_file()


def test_checkpoint_belongs_to_the_model_before_it(tool):
    assert tool.paired(['a', 'a.pth', 'b.py', 'c']) == [('a', 'a.pth'), ('b.py', None), ('c', None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('h.pth', 'hornet-micro'), 'The checkpoint h.pth does not follow a model'),
        (('hornet-micro', 'a.pth', 'b.pth'), 'The checkpoint b.pth does not follow a model'),
        (('hornet-mikro',), 'nearest: hornet-micro'),
        (('hornet-micro', '--stage', '4'), '4 stages, 0 to 3; got stage 4'),
        (('hornet-micro', '--size', '1', '2', '3'), 'H W or one side'),
        (('hornet-micro', '--size', '16'), 'at least 32'),
        (('hornet-micro', '--count', '0'), 'at least 1'),
        (('hornet-micro', '--images', 'gone'), 'gone does not exist'),
    ],
)
def test_errors_are_one_line_with_status_2(tool, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        tool.main([*args, '--device', 'cpu'])
    assert end.value.code == 2 and message in capsys.readouterr().err
