"""Metafiles survive reading and writing, and are written whole or not at all."""

from pathlib import Path

import pytest
import yaml

from mmfreq.zoo import rows
from mmfreq.zoo.page import Agreement, last_digit, page_text, printed_value
from mmfreq.zoo.rows import Row, load_rows, metafile_text, read_metafile, update_models, write_text


def entry(name='tiny_upernet_8xb2-160k_ade20k-512x512', **more):
    measured = {'Parameters': 52_000_000, 'FLOPs': 930_000_000_000, "FLOPs, paper's counting": 926_400_000_000}
    return {
        'Name': name,
        'In Collection': 'HorNet',
        'Config': f'configs/seg/hornet/{name}.py',
        'Metadata': {'Training Data': 'ADE20K', **measured, 'Image size': '512x2048'},
        'Results': [{'Task': 'Semantic Segmentation', 'Dataset': 'ADE20K', 'Metrics': {'mIoU': 48.1}}],
        'Published': {'Source': 'a table', 'Parameters': '52M', 'FLOPs': '926G'},
        'Recipe': {'lr': 1e-6, 'clip': 'none', 'betas': [0.9, 0.999]},
        **more,
    }


@pytest.fixture
def root(tmp_path):
    path = tmp_path / 'configs/seg/hornet/metafile.yml'
    path.parent.mkdir(parents=True)
    path.write_text(metafile_text({'Collections': [{'Name': 'HorNet'}], 'Models': [entry(), entry('b_c_1xb1-1_d')]}))
    return tmp_path


def test_what_is_written_is_read_back(root):
    path = root / 'configs/seg/hornet/metafile.yml'
    contents = read_metafile(path)
    assert contents['Models'][0] == entry() and list(contents['Models'][0]) == [key for key in rows.ORDER if key in entry()]
    assert metafile_text(contents) == path.read_text()
    assert 'betas: [0.9, 0.999]' in path.read_text() and yaml.safe_load('1.0e-06') == contents['Models'][0]['Recipe']['lr'] == 1e-6


def test_a_row_says_what_its_entry_does(root):
    row, _ = load_rows(root)
    assert (row.name, row.task, row.family, row.arch, row.dataset) == (entry()['Name'], 'seg', 'hornet', 'tiny', 'ADE20K')
    assert row.config == root / entry()['Config'] and row.metrics == {'mIoU': 48.1} and row.weights is None
    assert row.ours == [] and row.measured == []
    both = Row(entry(Recipe={'lr': 1, 'clip': 2, 'ours': ['all']}), 'seg', root)
    assert both.ours == ['lr', 'clip'] == list(both.recipe)


def test_models_are_changed_all_or_none(root):
    path = root / 'configs/seg/hornet/metafile.yml'
    before = path.read_text()

    def fails_late(model):
        return {**model, 'Weights': 1 / (model['Name'] != 'b_c_1xb1-1_d')}

    with pytest.raises(ZeroDivisionError):
        update_models(path, fails_late)
    assert path.read_text() == before
    update_models(path, lambda model: {**model, 'Weights': 'x'})
    assert [row.weights for row in load_rows(root)] == ['x', 'x']


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'page.md'
    path.write_text('old')

    def torn(self, text, **_):
        with self.open('w') as file:
            file.write(text[:2])
        raise OSError('disk full')

    monkeypatch.setattr(Path, 'write_text', torn)
    with pytest.raises(OSError, match='disk full'):
        write_text(path, 'new text')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_no_folder_of_configs_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, '__file__', str(tmp_path / 'mmfreq/zoo/rows.py'))
    with pytest.raises(FileNotFoundError, match=r'no folder configs/ beside .*mmfreq or in its \.mim: install mmfreq'):
        rows.default_root()
    (tmp_path / 'mmfreq/.mim/configs').mkdir(parents=True)
    assert rows.default_root() == tmp_path / 'mmfreq/.mim'


@pytest.mark.parametrize(
    ('printed', 'measured', 'holds'),
    [
        ('100M', 101_000_000, True),  # one per cent
        ('100M', 101_100_000, False),
        ('22M', 22_490_000, True),  # half of the last digit
        ('22M', 22_510_000, False),
        ('4.0G', 3_951_000_000, True),
        ('4.0G', 3_940_000_000, False),
    ],
)
def test_what_agrees(printed, measured, holds):
    assert Agreement('FLOPs', printed, measured).holds == holds


def test_printed_numbers():
    assert (printed_value('4.5G'), last_digit('4.5G'), last_digit('52M')) == (4.5e9, 1e8, 1e6)
    with pytest.raises(ValueError, match="'52 MB' is no printed number: expected digits and M or G"):
        printed_value('52 MB')


def test_the_page(root):
    results = [{'Metrics': {'mIoU': 48.06}, 'Checkpoint': 'tiny.pth', 'Date': '2026-01-01', 'Hardware': 'a GPU'}]
    ours = entry('b_c_1xb1-1_toy', Published={'Source': 'none: ours'}, Results=[], **{'Measured here': results})
    off = entry(
        'c_d_1xb1-1_ade20k', Published={'Source': 'x', 'Parameters': '60M', 'Note': 'Wrong head.'}, Results=[], Weights='http://x'
    )
    text = page_text([Row(each, 'seg', root) for each in (entry(), ours, off)])
    lines = [line for line in text.splitlines() if line.startswith('| [')]
    assert lines[0].endswith('| 52.00 (52M) | 512x2048 | 930.0 | 926.4 (926G) | 48.1 | - | - | - |')
    assert lines[1].endswith('| 52.00 | 512x2048 | 930.0 | 926.4 | - | - | 48.1 mIoU (tiny.pth, 2026-01-01, a GPU) | - |')
    assert lines[2].endswith('| 52.00 (60M\\*) | 512x2048 | 930.0 | 926.4 | unknown | - | - | [file](http://x) |')
    assert '- `c_d_1xb1-1_ade20k`: Wrong head.' in text
