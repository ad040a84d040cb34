"""README.md and pyproject.toml claim only versions of Python, torch, numpy and OneDL that passed in docs/measurements/stacks.md."""

import re
from pathlib import Path

import pytest

import mmfreq
from mmfreq.compat.stack import oldest_torch, release
from mmfreq.testing.stack_table import COLUMNS, PASSED, read_table

ROOT = Path(mmfreq.__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
METADATA = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
ROWS = read_table((ROOT / 'docs/measurements/stacks.md').read_text(encoding='utf-8'))
WANTED = [line.split() for line in (ROOT / 'tools/stacks.txt').read_text().splitlines() if line.strip() and line[0] != '#']
SENTENCE = re.compile(r'Python (\d\.\d+) to (\d\.\d+), torch from (\d\.\d+), numpy (\d) and (\d), and the OneDL forks')


def unproven(rows):
    """Claims for which no row has passed."""
    passed = [cells for cells in rows.values() if cells['verdict'] == PASSED and int(cells['passed']) > 100]
    core = [cells for cells in passed if cells['tests'] == 'core']
    first, last, torch, *numpy = SENTENCE.search(' '.join(README.split())).groups()
    pythons = {release(cells['Python'])[:2] for cells in passed}
    proofs = {f'Python 3.{minor}': (3, minor) in pythons for minor in range(release(first)[1], release(last)[1] + 1)}
    proofs[f'torch {torch}'] = any(release(cells['torch'])[:2] == release(torch) for cells in core)
    proofs |= {f'numpy {major}': any(cells['numpy'].startswith(f'{major}.') for cells in core) for major in numpy}
    proofs['[onedl]'] = any(cells['mmcv'].startswith('onedl-mmcv ') for cells in core)
    proofs['[lite] with the newest torch'] = any(
        cells['mmcv'].startswith('mmcv-lite ') and release(cells['torch']) >= newest(rows) for cells in core
    )
    return [claim for claim, proven in proofs.items() if not proven]


def newest(rows):
    return max(release(cells['torch']) for cells in rows.values() if cells['torch'] != '-')


def test_every_claim_has_a_row_that_passed():
    assert unproven(ROWS) == []


@pytest.mark.parametrize('name', [row[0] for row in WANTED])
def test_no_row_is_idle(name):
    """Each row proves a claim that no other row proves."""
    failed = {**ROWS[name], 'verdict': 'FAILED'}
    assert unproven(ROWS | {name: failed}) and unproven({stack: cells for stack, cells in ROWS.items() if stack != name})


def test_readme_metadata_and_doctor_claim_the_same():
    first, last, torch, *_ = SENTENCE.search(' '.join(README.split())).groups()
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', METADATA)
    assert (classified[0], classified[-1]) == (first, last) and f'requires-python = ">={first}"' in METADATA
    assert torch == oldest_torch()


def test_the_table_holds_what_the_script_tests():
    assert [row[0] for row in WANTED] == list(ROWS)
    for name, python, tests, *requirements in WANTED:
        cells = dict(zip(COLUMNS, ROWS[name].values()))
        assert (cells['Python'].rpartition('.')[0], cells['tests']) == (python, tests), name
        pinned = dict(line.split('==') for line in requirements if '==' in line)
        assert {package: cells[package].partition('+')[0] for package in pinned} == pinned
    oldest = next(row for row in WANTED if row[0] == 'oldest')
    assert f'torch=={oldest_torch()}.0' in oldest
