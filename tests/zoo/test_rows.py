"""Metafiles are read and written without loss, and atomically."""

from pathlib import Path

import pytest
import yaml

from mmfreq.zoo import rows
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


def test_metafiles_are_read_back(root):
    path = root / 'configs/seg/hornet/metafile.yml'
    contents = read_metafile(path)
    assert contents['Models'][0] == entry() and list(contents['Models'][0]) == [key for key in rows.ORDER if key in entry()]
    assert metafile_text(contents) == path.read_text()
    assert 'betas: [0.9, 0.999]' in path.read_text() and yaml.safe_load('1.0e-06') == contents['Models'][0]['Recipe']['lr'] == 1e-6


def test_properties_of_a_row(root):
    row, _ = load_rows(root)
    assert (row.name, row.task, row.family, row.arch, row.dataset) == (entry()['Name'], 'seg', 'hornet', 'tiny', 'ADE20K')
    assert row.config == root / entry()['Config'] and row.metrics == {'mIoU': 48.1} and row.weights is None
    assert row.own_choices == [] and row.measured == []
    both = Row(entry(Recipe={'lr': 1, 'clip': 2, 'own choice': ['all']}), 'seg', root)
    assert both.own_choices == ['lr', 'clip'] == list(both.recipe)


def test_all_models_or_none_are_changed(root):
    path = root / 'configs/seg/hornet/metafile.yml'
    before = path.read_text()

    def fails_late(model):
        return {**model, 'Weights': 1 / (model['Name'] != 'b_c_1xb1-1_d')}

    with pytest.raises(ZeroDivisionError):
        update_models(path, fails_late)
    assert path.read_text() == before
    update_models(path, lambda model: {**model, 'Weights': 'x'})
    assert [row.weights for row in load_rows(root)] == ['x', 'x']


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
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


def test_missing_configs_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, '__file__', str(tmp_path / 'mmfreq/zoo/rows.py'))
    with pytest.raises(FileNotFoundError, match=r'folder configs/ beside .*mmfreq or in its \.mim\. Install mmfreq'):
        rows.default_root()
    (tmp_path / 'mmfreq/.mim/configs').mkdir(parents=True)
    assert rows.default_root() == tmp_path / 'mmfreq/.mim'
