"""The page of the zoo, and measurements written to the metafiles of a copied tree."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mmfreq.errors import UserError
from mmfreq.weights.files import find_weights
from mmfreq.zoo import page
from mmfreq.zoo.page import WRITTEN, Agreement, check_writable, last_digit, merged, page_text, printed_value, update_zoo
from mmfreq.zoo.results import FAILED, MEASURED, Result
from mmfreq.zoo.rows import Row, load_rows, metafiles, update_models
from tests.zoo.test_rows import entry

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
    """A tree with two metafiles of the repository, without measurements."""
    for path in (ROOT / 'configs/seg/hornet/metafile.yml', ROOT / 'configs/det/gfnet/metafile.yml'):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
        update_models(target, lambda entry: {key: value for key, value in entry.items() if key != 'Measured here'})
    return tmp_path


def measured(tree):
    return next(row.measured for row in load_rows(tree) if row.name == NAME)


def test_a_measurement_is_written_to_metafile_and_page(tree):
    before = {path: path.read_text() for path in metafiles(tree)}
    (changed,) = update_zoo(tree, [MULTI, SINGLE, replace(SINGLE, row='hornet-tiny-7x7', state=FAILED)])
    assert changed.name == NAME
    assert measured(tree) == [
        {
            'Metrics': {'mIoU': 49.14},
            'Test': 'single scale',
            'Origin': 'converted',
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
    assert '49.1 mIoU (x.pth, 2026-11-21, NVIDIA H200); 49.4 mIoU(ms+flip) (x.pth, 2026-11-21, NVIDIA H200) | - |' in line
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


def test_the_newest_of_each_way_of_testing_and_origin_is_kept(tree):
    update_zoo(tree, [SINGLE, MULTI])
    later, earlier = (
        replace(SINGLE, metrics={'mIoU': value}, date=date) for value, date in ((50.0, '2026-12-01'), (40.0, '2026-01-01'))
    )
    update_zoo(tree, [later])
    update_zoo(tree, [earlier])
    assert [each['Metrics'] for each in measured(tree)] == [{'mIoU': 50.0}, {'mIoU(ms+flip)': 49.4}]
    assert [each['Metrics'] for each in merged([], [later, earlier])] == [{'mIoU': 50.0}]
    trained = replace(SINGLE, origin='trained', metrics={'mIoU': 48.0})
    kept = [(each['Test'], each['Origin']) for each in merged([], [MULTI, trained, later])]
    assert kept == [('single scale', 'converted'), ('single scale', 'trained'), ('ms+flip', 'converted')]


def test_each_seed_is_listed(tree):
    runs = [replace(SINGLE, origin='trained', seed=seed, metrics={'mIoU': 48.0 + seed}) for seed in (0, 1)]
    update_zoo(tree, [*runs, replace(runs[1], metrics={'mIoU': 50.0}, date='2026-12-01')])
    assert [(each['Seed'], each['Metrics']['mIoU']) for each in measured(tree)] == [(0, 48.0), (1, 50.0)]
    (line,) = [line for line in (tree / 'model_zoo.md').read_text().splitlines() if line.startswith(f'| [{NAME}]')]
    expected = '48.0 mIoU (seed 0, x.pth, 2026-11-21, NVIDIA H200); 50.0 mIoU (seed 1, x.pth, 2026-12-01, NVIDIA H200)'
    assert f'| - | {expected} |' in line


def test_the_paragraph_of_the_readme_has_the_training_runs(tree):
    readme = tree / 'README.md'
    readme.write_text(f'# Title\n\n{WRITTEN}\nold\n\nEnd.\n')
    update_zoo(tree, [SINGLE])
    assert readme.read_text() == f'# Title\n\n{WRITTEN}\nNothing was trained here.\n\nEnd.\n'
    runs = [replace(SINGLE, origin='trained', seed=seed, metrics={'mIoU': 48.0 + seed}) for seed in (0, 1)]
    update_zoo(tree, [*runs, replace(MULTI, origin='trained', seed=0)])
    link = f'[{NAME.split("_")[0]}](configs/seg/hornet/{NAME}.py)'
    result = f'Trained here, one score for each seed. ADE20K: {link} 48.0 / 49.0 mIoU.'
    assert readme.read_text() == f'# Title\n\n{WRITTEN}\n{result}\n\nEnd.\n'
    other = NAME.replace('-160k_', '-amp-160k_')
    update_zoo(tree, [replace(runs[0], row=other)])
    assert f'[{other}](configs/seg/hornet/{other}.py) 48.0 mIoU' in readme.read_text()
    assert f'[{NAME}](' in readme.read_text()


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
def test_agreement_of_counts(printed, measured, holds):
    assert Agreement('FLOPs', printed, measured).holds == holds


def test_printed_numbers():
    assert (printed_value('4.5G'), last_digit('4.5G'), last_digit('52M')) == (4.5e9, 1e8, 1e6)
    with pytest.raises(ValueError, match=r"digits and M or G, .*'52 MB'"):
        printed_value('52 MB')


def test_page_of_rows():
    results = [
        {'Metrics': {'mIoU': 48.06}, 'Checkpoint': 'tiny.pth', 'Date': '2026-01-01', 'Hardware': 'a GPU'},
        {'Metrics': {'mIoU': 47.0}, 'Origin': 'trained', 'Checkpoint': 'iter.pth', 'Date': '2026-01-02', 'Hardware': 'CPU'},
    ]
    own = entry('b_c_1xb1-1_toy', Published={'Source': 'none: x'}, Results=[], **{'Measured here': results})
    file = find_weights('hornet-tiny-gf/ade20k')
    differs = {'Source': 'x', 'Parameters': '60M', 'Note': 'Wrong head.'}
    other = entry('c_d_1xb1-1_ade20k', Published=differs, Results=[], Weights=file.url)
    text = page_text([Row(each, 'seg', Path()) for each in (entry(), own, other)])
    lines = [line for line in text.splitlines() if line.startswith('| [')]
    assert lines[0].endswith('| 512x2048 | 52.00 | 52M | 930.0 | 926.4 | 926G | 48.1 | - | - | - | none |')
    measured = '48.1 mIoU (tiny.pth, 2026-01-01, a GPU) | 47.0 mIoU (iter.pth, 2026-01-02, CPU)'
    assert lines[1].endswith(f'| 512x2048 | 52.00 | - | 930.0 | 926.4 | - | - | - | {measured} | none |')
    assert lines[2].endswith(
        f'| 512x2048 | 52.00 | 60M\\* | 930.0 | 926.4 | - | unknown | - | - | - | [hornet-tiny-gf/ade20k]({file.url}) |'
    )
    assert '- `c_d_1xb1-1_ade20k`: Wrong head.' in text and '## Detection' not in text
