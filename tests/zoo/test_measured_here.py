"""Measurements enter the metafiles and the page of a copied tree, and no tree that is not one's own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mmfreq.errors import UserError
from mmfreq.zoo import page
from mmfreq.zoo.page import check_writable, merged, page_text, update_zoo
from mmfreq.zoo.results import FAILED, MEASURED, Result
from mmfreq.zoo.rows import load_rows, metafiles

ROOT = Path(__file__).resolve().parents[2]
NAME = 'hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512'
SINGLE = Result(
    *(NAME, 'single scale', '0123456789abcdef' * 4, 'c' * 16, 'downloads/x.pth', MEASURED, {'mIoU': 49.14}, {'aAcc': 80.0}),
    date='2026-11-21 10:30',
    hardware='NVIDIA H200',
    versions={'torch': '2.15.0', 'mmfreq': '0.1.0'},
)
MULTI = replace(SINGLE, test='ms+flip', metrics={'mIoU(ms+flip)': 49.4})


@pytest.fixture
def tree(tmp_path):
    """Two metafiles of the repository, alone."""
    for path in (ROOT / 'configs/seg/hornet/metafile.yml', ROOT / 'configs/det/gfnet/metafile.yml'):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    return tmp_path


def measured(tree):
    return next(row.measured for row in load_rows(tree) if row.name == NAME)


def test_a_measurement_enters_the_metafile_and_the_page(tree):
    before = {path: path.read_text() for path in metafiles(tree)}
    (changed,) = update_zoo(tree, [MULTI, SINGLE, replace(SINGLE, row='hornet-tiny-7x7', state=FAILED)])
    assert changed.name == NAME
    assert measured(tree) == [
        {
            'Metrics': {'mIoU': 49.14},
            'Test': 'single scale',
            'Checkpoint': 'x.pth',
            'sha256': '0123456789ab',
            'Date': '2026-11-21',
            'Hardware': 'NVIDIA H200',
            'Versions': {'torch': '2.15.0', 'mmfreq': '0.1.0'},
        },
        measured(tree)[1],
    ]
    assert measured(tree)[1]['Metrics'] == {'mIoU(ms+flip)': 49.4}
    page = (tree / 'model_zoo.md').read_text()
    assert page == page_text(load_rows(tree))
    (line,) = [line for line in page.splitlines() if line.startswith(f'| [{NAME}]')]
    assert '49.1 mIoU (x.pth, 2026-11-21, NVIDIA H200); 49.4 mIoU(ms+flip)' in line
    other = [path for path in before if path.read_text() != before[path]]
    assert [path.parent.name for path in other] == ['hornet']
    assert update_zoo(tree, [SINGLE, MULTI]) == []


def test_nothing_else_in_the_metafile_changes(tree):
    path = tree / 'configs/seg/hornet/metafile.yml'
    before = path.read_text()
    update_zoo(tree, [SINGLE])
    content = yaml.safe_load(path.read_text())
    for model in content['Models']:
        model.pop('Measured here', None)
    assert content['Models'] == [
        {key: value for key, value in model.items() if key != 'Measured here'} for model in yaml.safe_load(before)['Models']
    ]
    added = [line for line in path.read_text().splitlines() if line not in before.splitlines()]
    assert added[0] == '  Measured here:' and len(path.read_text().splitlines()) > len(before.splitlines())


def test_the_newest_of_each_way_of_testing_stays(tree):
    update_zoo(tree, [SINGLE, MULTI])
    later, earlier = (
        replace(SINGLE, metrics={'mIoU': value}, date=date) for value, date in ((50.0, '2026-12-01'), (40.0, '2026-01-01'))
    )
    update_zoo(tree, [later])
    update_zoo(tree, [earlier])
    assert [entry['Metrics'] for entry in measured(tree)] == [{'mIoU': 50.0}, {'mIoU(ms+flip)': 49.4}]
    assert [entry['Metrics'] for entry in merged([], [later, earlier])] == [{'mIoU': 50.0}]


def test_an_installed_package_is_refused(tree):
    installed = tree.rename(tree.with_name('.mim'))
    with pytest.raises(UserError, match=r'--update-zoo .*\.mim'):
        update_zoo(installed, [SINGLE])
    assert not (installed / 'model_zoo.md').exists()


def test_a_tree_that_cannot_be_written_is_refused(tree, monkeypatch):
    closed = tree / 'configs/det/gfnet'
    monkeypatch.setattr(page.os, 'access', lambda path, mode: Path(path) != closed)
    with pytest.raises(UserError, match=r'configs/det/gfnet/metafile\.yml'):
        check_writable(tree)
