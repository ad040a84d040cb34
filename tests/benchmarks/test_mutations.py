"""benchmarks/mutations.py: mutations are applied one by one, and the page lists which suite detects which."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))  # as if the script were started
from mutation_runs import instrumented  # noqa: E402
from mutation_sites import KINDS, PACKAGES, Sites, choose, mutated  # noqa: E402

sys.path.remove(str(ROOT / 'benchmarks'))
SCRIPT, PAGE = ROOT / 'benchmarks/mutations.py', ROOT / 'docs/measurements/mutations.md'


def changes(source):
    """(line before, line after) of every mutation of a source."""
    return [(site.line, site.after) for site in Sites('mmfreq/ops/x.py', source.encode()).found]


@pytest.mark.parametrize(
    ('line', 'after'),
    [
        ('y = a * b', ['y = a / b']),
        ('y = (a) - (b)', ['y = (a) + (b)']),
        ('y = a is not b', ['y = a is b']),
        ('y = a <= 2', ['y = a < 2', 'y = a <= 3']),
        ('y = a and b or c', ['y = a and b and c', 'y = a or b or c']),
        ('y = not a', ['y = a']),
        ('y = True', ['y = False']),
        ('y = 0.5', ['y = 1.5']),
        ('y += a', ['pass']),
        ('f(a)', ['pass']),
        ("raise ValueError('no' + f(1))", ['pass']),
        ("y = 'ä' + f(1)  # 2", ["y = 'ä' + f(2)  # 2"]),
    ],
)
def test_mutations_of_a_line(line, after):
    assert changes(line) == [(line, each) for each in after]


def test_nodes_that_are_not_mutated():
    lines = [
        '"""A docstring: 1 + 1."""',
        'import a',
        "__all__ = ['a', 1]",
        "print('a', 1)",
        "logger.info('%d', 1)",
        "x = f'{1 + 1}'",
    ]
    lines += ['x: Literal[1]', 'def f(x: Literal[1]) -> Literal[2]:', '    """Docstring."""', "x = 'a' % b"]
    assert changes('\n'.join(lines)) == []


@pytest.mark.parametrize('file', ['mmfreq/ops/spectral.py', 'mmfreq/config/wiring.py'])
def test_every_mutation_changes_the_program_and_has_a_unique_name(file):
    source = (ROOT / file).read_bytes()
    sites, original = Sites(file, source).found, ast.dump(ast.parse(source))
    assert {site.kind for site in sites} == set(KINDS) and len({site.id for site in sites}) == len(sites) > 50
    for site in sites:
        assert ast.dump(ast.parse(source[: site.start] + site.new.encode() + source[site.end :])) != original, site


def test_choice_depends_on_the_seed_and_takes_one_per_function():
    source = b'\n'.join(b'def f%d(a, b):\n    return a + b < %d' % (i, i) for i in range(9))
    sites = [site for package in PACKAGES for site in Sites(f'mmfreq/{package}/x.py', source).found]
    chosen = choose(sites, 0, 14)
    assert chosen == choose(sites[::-1], 0, 14) != choose(sites, 1, 14)
    assert len({(site.file, site.function) for site in chosen}) == 14
    assert sorted(site.package for site in chosen) == sorted([*PACKAGES, *PACKAGES])


def test_file_is_restored(tmp_path):
    path = tmp_path / 'mmfreq/ops/x.py'
    path.parent.mkdir(parents=True)
    path.write_text('y = 1\n')
    (site,) = Sites('mmfreq/ops/x.py', path.read_bytes()).found
    before = path.read_bytes(), path.stat().st_mtime
    with mutated(tmp_path, site, 3):
        assert path.read_text() == 'y = 2\n' and path.stat().st_mtime == before[1] + 4
    assert (path.read_bytes(), path.stat().st_mtime) == before


def test_instrumented_blocks_equal_those_of_the_mutations():
    source = (
        '"""Doc."""\nfrom __future__ import annotations\ndef f(x):\n    """Doc."""\n    if x:\n        return 1\n    return 2\n'
    )
    noted = []
    space = {'__block__': noted.append}
    exec(compile(instrumented(source, 'x.py'), 'x.py', 'exec'), space)
    assert space['f'](False) == 2 and noted == ['x.py:3', 'x.py:5'] and space['f'].__doc__ == 'Doc.'
    assert space['f'](True) == 1 and noted[2:] == ['x.py:5', 'x.py:6']
    assert [site.block for site in Sites('x.py', source.encode()).found] == ['x.py:6', 'x.py:5']


AREA = """SIDES = 4


def area(width, height):
    return width * height


def at_least(one, other):
    return one >= other


def countdown(number):
    while number > 0:
        number -= 1


def unused(one):
    return not one
"""
WEAK = """import subprocess, sys
from mmfreq.ops import area

def test_one_row():
    assert area.area(3, 1) == 3

def test_in_another_process():
    code = 'from mmfreq.ops.area import at_least; assert at_least(1, 1)'
    subprocess.run([sys.executable, '-c', code], check=True)

def test_sides():
    assert area.SIDES == 4
"""
STRONG = WEAK + '\ndef test_rectangle():\n    assert area.area(2, 3) == 6\n'
FAILS = '\ndef test_that_fails():\n    assert area.area(1, 1) == 2\n'


def test_page_of_two_suites(tmp_path):
    """The page of a small package; a second call runs nothing."""
    for suite, text in (('old', WEAK), ('new', STRONG + FAILS)):
        for path, content in {
            'mmfreq/__init__.py': '',
            'mmfreq/ops/__init__.py': '',
            'mmfreq/ops/area.py': AREA,
            'tests/ops/test_area.py': text,
            'pyproject.toml': '[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n',
        }.items():
            (tmp_path / suite / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / suite / path).write_text(content)
    command = [sys.executable, str(SCRIPT), '--cold', '--count', '5', '--workers', '1', '--json', 'found.jsonl', '--out', 'page.md']
    command += ['--suite', 'old=old', '--suite', 'new=new']
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    page, found = (tmp_path / 'page.md').read_text(), (tmp_path / 'found.jsonl').read_text()
    rows = {row[0]: row[-2:] for row in (line[2:-2].split(' | ') for line in page.splitlines() if line.startswith('| `'))}
    cells_by_function = {re.search(r':(.+):', place)[1]: cells for place, cells in rows.items()}
    assert cells_by_function == {
        '<module>': ['`test_area.py::test_sides`'] * 2,
        'area': ['**no**, 3 tests', '`test_area.py::test_rectangle`'],
        'at_least': ['`test_area.py::test_in_another_process`'] * 2,
        'countdown': ['**no**: no test executes it'] * 2,
        'unused': ['**no**: no test executes it'] * 2,
    }
    assert '| ops | 5 | 2 | 3 |' in page and page.count('no reason yet') == 2 and str(tmp_path) not in page
    assert re.search(r'one suite only\n\n- `ops/area.py:area:\w+`: new\n', page)
    assert '- new: 5 tests; not used: 1 that fail without a mutation, 0 longer than 60 s.' in page
    results = [line for line in map(json.loads, found.splitlines()) if line['kind'] == 'result']
    assert len(results) == 10
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / 'found.jsonl').read_text() == found


def test_reasons_belong_to_undetected_mutations():
    page, reasons = PAGE.read_text(encoding='utf-8'), json.loads((SCRIPT.parent / 'mutations_reasons.json').read_text())
    assert 'no reason yet' not in page
    assert not [name for name, reason in reasons.items() if f'`{name}`: {reason}' not in page]
