"""docs/reliability.md: every row names an existing test, every fault test has a row, and the figures are counted."""

import ast
import re
from functools import cache
from pathlib import Path

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.testing.stack_table import PASSED, read_table
from tests.engine.test_interruption import DEATHS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')
SUBJECTS = re.compile(
    'interrupt|preempt|hostile|bad_images|download|failing|failure_log|preflight|loss_guard|soak|shutdown|half_range'
)
CITED = re.compile(r'`(tests/[\w/]+\.py)::(\w+)`')


def rows():
    """(fault, what happens, tests) of each row in the tables of faults."""
    faults = PAGE[PAGE.index('## Interruption') :]
    lines = [line for line in faults.splitlines() if line.startswith('| ') and not line.startswith('| fault ')]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines]


@cache
def functions(path):
    return {
        node.name: node
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8')))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_row_names_an_existing_test():
    assert len(rows()) >= 70
    for row in rows():
        assert len(row) == 3, row
        cited = CITED.findall(row[2])
        assert cited, row
        for path, name in cited:
            assert name.startswith('test_') and name in functions(path), f'{path}::{name}'


def test_every_fault_test_file_is_listed():
    """A fault test without a row is a missing row."""
    named = {path for row in rows() for path, _ in CITED.findall(row[2])}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'tests').rglob('test_*.py') if SUBJECTS.search(path.stem)}
    assert len(files) >= 10 and files <= named, files - named


def figure(label):
    return int(re.search(rf'^\| {label}[^|]*\| (\d+) \|', PAGE, re.MULTILINE)[1])


def test_number_of_kills():
    assert figure('[^|]*kills') == sum(map(len, DEATHS.values())) > 10


def test_number_of_stacks():
    rows = read_table((ROOT / 'docs/measurements/stacks.md').read_text(encoding='utf-8')).values()
    passed = [row for row in rows if row['verdict'] == PASSED]
    assert figure('stacks and Pythons') == len(passed) >= 3
