"""Laws of the table of stacks: nothing passes by default, a row replaces its stack's earlier one, and prose stays."""

import sys

import numpy
import pytest
import torch

from mmfreq.testing.stack_table import COLUMNS, counts, main, markdown, measured, not_tested, put_into, read_table

REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}" /></testsuites>'


@pytest.fixture
def report(tmp_path):
    def write(*numbers):
        path = tmp_path / 'report.xml'
        path.write_text(REPORT.format(*numbers))
        return path

    return write


def test_counts_add_up(report):
    assert counts(report(10, 1, 2, 3)) == (4, 3, 3)


@pytest.mark.parametrize(
    ('numbers', 'verdict'),
    [((5, 0, 0, 0), 'passed'), ((5, 0, 0, 4), 'passed'), ((5, 1, 0, 0), 'FAILED'), ((5, 0, 1, 0), 'FAILED'),
     ((5, 0, 0, 5), 'FAILED'), ((0, 0, 0, 0), 'FAILED')],
)  # fmt: skip
def test_only_what_ran_and_did_not_fail_has_passed(report, numbers, verdict):
    assert measured('a', 'core', report(*numbers))[1] == verdict


def test_a_missing_or_torn_report_is_a_failure(tmp_path):
    torn = tmp_path / 'torn.xml'
    torn.write_text(REPORT[:30])
    for path in (torn, tmp_path / 'none.xml'):
        assert measured('a', 'core', path)[1:5] == ('FAILED', 0, 1, 0)


def test_a_row_says_what_is_installed_here(report):
    cells = dict(zip(COLUMNS, measured('a', 'core', report(2, 0, 0, 1)), strict=True))
    assert (cells['passed'], cells['failed'], cells['skipped']) == (1, 0, 1)
    assert cells['Python'] == '.'.join(map(str, sys.version_info[:3]))
    assert (cells['torch'].partition('+')[0], cells['numpy']) == (torch.__version__.partition('+')[0], numpy.__version__)
    import mmcv

    assert mmcv.__version__ in cells['mmcv'] and ('ops by mmfreq' in cells['mmcv']) != ('compiled' in cells['mmcv'])


def test_what_could_not_be_made_has_a_row_with_the_reason(capsys):
    main(['not-tested', 'a', '3.10', 'core', 'no wheel | for\nthis Python'])
    printed = capsys.readouterr().out.strip()
    cells = read_table(put_into('', [printed]))['a']
    assert cells['verdict'] == 'FAILED: no wheel / for this Python' and cells['Python'] == '3.10' and cells['torch'] == '-'


def test_rows_go_into_the_table_and_nothing_else_changes(tmp_path):
    def row(name, why):
        return markdown(not_tested(name, '3.11', 'core', why))

    path = tmp_path / 'stacks.md'
    main(['into', str(path), row('a', 'one'), row('b', 'two')])
    assert [cells['verdict'] for cells in read_table(path.read_text()).values()] == ['FAILED: one', 'FAILED: two']
    page = f'# Title\n\n| other | table |\n|---|---|\n| a | b |\n\n{path.read_text()}\nProse.\n\n| another |\n|---|\n| a |\n'
    path.write_text(page)
    main(['into', str(path), row('b', 'three'), row('c', 'four')])
    expected = page.replace(row('b', 'two'), row('b', 'three') + '\n' + row('c', 'four'))
    assert path.read_text() == expected
