"""The table of tested stacks: one row per stack of `tools/test_stacks.sh`, with the installed versions and pytest's counts.

    python -m mmfreq.testing.stack_table row NAME TESTS REPORT.xml       print a row; run by the Python of the stack
    python -m mmfreq.testing.stack_table not-tested NAME PYTHON TESTS REASON      print a row
    python -m mmfreq.testing.stack_table into FILE.md ROW ...            write rows into the Markdown table

Needs only the standard library, so that a stack that could not be installed has a row, too.
"""

import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

from mmfreq.compat.finder import using_fallback
from mmfreq.compat.stack import OPENMMLAB

COLUMNS = ('stack', 'verdict', 'passed', 'failed', 'skipped', 'Python', 'torch', 'torchvision', 'numpy', 'mmcv', 'tests', 'date')
PASSED, FAILED = 'passed', 'FAILED'


def row_of_tested(name, tests, report):
    """Row of a stack whose tests ran in this Python; `report` is the path of pytest's JUnit file.

    The verdict is `passed` only if at least one test passed and none failed.
    """
    passed, failed, skipped = counts(report)
    verdict = PASSED if passed and not failed else FAILED
    versions = [installed(package) for package in ('torch', 'torchvision', 'numpy')]
    return (name, verdict, passed, failed, skipped, platform.python_version(), *versions, installed_mmcv(), tests, today())


def row_of_not_tested(name, python, tests, reason):
    """Row of a stack that could not be installed; the verdict contains the reason."""
    return (name, f'{FAILED}: {reason}', '-', '-', '-', python, '-', '-', '-', '-', tests, today())


def counts(report):
    """(passed, failed, skipped) of a JUnit file; errors count as failures, a missing or truncated file is one failure."""
    try:
        suites = ElementTree.parse(report).getroot().findall('testsuite')
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ('tests', 'failures', 'errors', 'skipped')
    )
    return total - failures - errors - skipped, failures + errors, skipped


def installed(distribution):
    """The version, '-' if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return '-'


def installed_mmcv():
    """For example 'mmcv-lite 2.1.0, ops by mmfreq'."""
    stock, onedl, _ = OPENMMLAB['mmcv']
    found = [f'{name} {installed(name)}' for name in (*stock, onedl) if installed(name) != '-']
    return f'{" + ".join(found)}, {"ops by mmfreq" if using_fallback() else "compiled ops"}' if found else '-'


def today():
    """The local date, for example '2026-11-30'."""
    return time.strftime('%Y-%m-%d')


def markdown(cells):
    """The cells as a line of a Markdown table; '|' and newlines in a cell are replaced."""
    return '| ' + ' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells) + ' |'


def read_table(text):
    """{stack: {column: text}} from the Markdown table with the header `COLUMNS`; other tables are ignored."""
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
    """The Markdown text with these rows in its table, which is appended if there is none.

    An earlier row of the same stack is replaced. The other rows and the rest of the text do not change.
    """
    header = [markdown(COLUMNS), '|' + '---|' * len(COLUMNS)]
    before = read_table(text)
    after = before | read_table('\n'.join([*header, *rows]))
    lines = text.splitlines()
    start = lines.index(header[0]) if before else len(lines)
    table = [*header, *(markdown(cells.values()) for cells in after.values())]
    return '\n'.join([*lines[:start], *table, *lines[start + (2 + len(before) if before else 0) :]]) + '\n'


def main(argv):
    """Run one of the commands in the module docstring."""
    command, *arguments = argv
    if command == 'into':
        path, *rows = arguments
        path = Path(path)
        path.write_text(put_into(path.read_text(encoding='utf-8') if path.exists() else '', rows), encoding='utf-8')
        return
    print(markdown({'row': row_of_tested, 'not-tested': row_of_not_tested}[command](*arguments)))


if __name__ == '__main__':
    main(sys.argv[1:])
