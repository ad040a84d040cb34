"""One row for each stack that `tools/test_stacks.sh` tests: what was installed and what pytest said; rows go into a Markdown file.

    python -m mmfreq.testing.stack_table row NAME TESTS REPORT.xml       run by the Python of the stack
    python -m mmfreq.testing.stack_table not-tested NAME PYTHON TESTS WHY
    python -m mmfreq.testing.stack_table into FILE.md ROW ...

The first two print a row. Standard library only: a stack that could not be installed has its row too.
"""

import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

from mmfreq.compat.finder import using_fallback
from mmfreq.compat.stack import FAMILIES

COLUMNS = ('stack', 'verdict', 'passed', 'failed', 'skipped', 'Python', 'torch', 'torchvision', 'numpy', 'mmcv', 'tests', 'date')
PASSED, FAILED = 'passed', 'FAILED'


def measured(name, tests, report):
    """Cells of a stack whose tests ran in this very Python; `report` is the path of pytest's JUnit file.

    The verdict is `passed` only where something passed and nothing failed.
    """
    passed, failed, skipped = counts(report)
    verdict = PASSED if passed and not failed else FAILED
    versions = [installed(package) for package in ('torch', 'torchvision', 'numpy')]
    return (name, verdict, passed, failed, skipped, platform.python_version(), *versions, mmcv_kind(), tests, today())


def not_tested(name, python, tests, why):
    """Cells of a stack that could not be made; the reason is in its verdict."""
    return (name, f'{FAILED}: {why}', '-', '-', '-', python, '-', '-', '-', '-', tests, today())


def counts(report):
    """(passed, failed, skipped) of a JUnit file; errors count as failures, a missing or torn file is one failure."""
    try:
        suites = ElementTree.parse(report).getroot().findall('testsuite')
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ('tests', 'failures', 'errors', 'skipped')
    )
    return total - failures - errors - skipped, failures + errors, skipped


def installed(distribution):
    """Its version, '-' if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return '-'


def mmcv_kind():
    """Such as 'mmcv-lite 2.1.0, ops by mmfreq'."""
    stock, onedl, _ = FAMILIES['mmcv']
    there = [f'{name} {installed(name)}' for name in (*stock, onedl) if installed(name) != '-']
    return f'{" + ".join(there)}, {"ops by mmfreq" if using_fallback() else "compiled ops"}' if there else '-'


def today():
    """The date here, such as '2026-11-30'."""
    return time.strftime('%Y-%m-%d')


def markdown(cells):
    """The cells as a line of a Markdown table; a '|' or a newline within a cell would break it."""
    return '| ' + ' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells) + ' |'


def read_table(text):
    """Stack -> its cells as text by column, from the Markdown table whose header is `COLUMNS`; other tables are ignored."""
    lines = text.splitlines()
    if markdown(COLUMNS) not in lines:
        return {}
    rows = {}
    for line in lines[lines.index(markdown(COLUMNS)) + 2 :]:
        if not line.startswith('| '):
            break
        cells = dict(zip(COLUMNS, line[2:-2].split(' | '), strict=True))
        rows[cells['stack']] = cells
    return rows


def put_into(text, rows):
    """The Markdown text with these rows in its table, made at the end if there is none.

    A stack's earlier row is replaced; those of other stacks, and all else, stay as they are.
    """
    header = [markdown(COLUMNS), '|' + '---|' * len(COLUMNS)]
    before = read_table(text)
    after = before | read_table('\n'.join([*header, *rows]))
    lines = text.splitlines()
    start = lines.index(header[0]) if before else len(lines)
    table = [*header, *(markdown(cells.values()) for cells in after.values())]
    return '\n'.join([*lines[:start], *table, *lines[start + (2 + len(before) if before else 0) :]]) + '\n'


def main(argv):
    """See the docstring of this file."""
    command, *arguments = argv
    if command == 'into':
        path, *rows = arguments
        path = Path(path)
        path.write_text(put_into(path.read_text(encoding='utf-8') if path.exists() else '', rows), encoding='utf-8')
        return
    print(markdown({'row': measured, 'not-tested': not_tested}[command](*arguments)))


if __name__ == '__main__':
    main(sys.argv[1:])
