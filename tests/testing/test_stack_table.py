"""The table of stacks: nothing passes by default, a new row replaces the earlier one, and other text does not change."""

import sys

import numpy
import pytest
import torch

from mmfreq.testing.stack_table import COLUMNS, counts, main, markdown, put_into, read_table, row_of_not_tested, row_of_tested

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
def test_verdict_is_passed_only_if_tests_ran_and_none_failed(report, numbers, verdict):
    assert row_of_tested('a', 'core', report(*numbers))[1] == verdict


def test_missing_or_truncated_report_is_a_failure(tmp_path):
    truncated = tmp_path / 'truncated.xml'
    truncated.write_text(REPORT[:30])
    for path in (truncated, tmp_path / 'none.xml'):
        assert row_of_tested('a', 'core', path)[1:5] == ('FAILED', 0, 1, 0)


def test_row_contains_the_installed_versions(report):
    cells = dict(zip(COLUMNS, row_of_tested('a', 'core', report(2, 0, 0, 1)), strict=True))
    assert (cells['passed'], cells['failed'], cells['skipped']) == (1, 0, 1)
    assert cells['Python'] == '.'.join(map(str, sys.version_info[:3]))
    assert (cells['torch'].partition('+')[0], cells['numpy']) == (torch.__version__.partition('+')[0], numpy.__version__)
    import mmcv

    assert mmcv.__version__ in cells['mmcv'] and ('ops by mmfreq' in cells['mmcv']) != ('compiled' in cells['mmcv'])


def test_row_of_a_stack_that_was_not_installed_has_the_reason(capsys):
    main(['not-tested', 'a', '3.10', 'core', 'no wheel | for\nthis Python'])
    printed = capsys.readouterr().out.strip()
    cells = read_table(put_into('', [printed]))['a']
    assert cells['verdict'] == 'FAILED: no wheel / for this Python' and cells['Python'] == '3.10' and cells['torch'] == '-'


def test_rows_change_the_table_only(tmp_path):
    def row(name, reason):
        return markdown(row_of_not_tested(name, '3.11', 'core', reason))

    path = tmp_path / 'stacks.md'
    main(['into', str(path), row('a', 'one'), row('b', 'two')])
    assert [cells['verdict'] for cells in read_table(path.read_text()).values()] == ['FAILED: one', 'FAILED: two']
    page = f'# Title\n\n| other | table |\n|---|---|\n| a | b |\n\n{path.read_text()}\nProse.\n\n| another |\n|---|\n| a |\n'
    path.write_text(page)
    main(['into', str(path), row('b', 'three'), row('c', 'four')])
    expected = page.replace(row('b', 'two'), row('b', 'three') + '\n' + row('c', 'four'))
    assert path.read_text() == expected
