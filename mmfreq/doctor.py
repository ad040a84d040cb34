"""`python -m mmfreq.doctor`: report what is installed, what is missing or incompatible, and the one command that fixes it.

Needs only the standard library and runs where nothing else is installed; with `rich` the table is prettier. The exit code is 0 if
segmentation and detection can be trained here, 1 otherwise. The printed command uses pip's default index; if you install torch from
another one, add it to the command.
"""

import argparse
import json
import sys
from dataclasses import asdict

from mmfreq.compat.stack import DISTRIBUTIONS, fix_command, gather, judge, usable

COLUMNS = ('package', 'version', 'verdict', 'what', 'remedy')


def report(facts):
    """All findings as plain data, for JSON."""
    findings = judge(facts)
    return {
        'usable': usable(findings),
        'findings': [asdict(finding) for finding in findings],
        'devices': facts.devices,
        'mmcv_ops': {
            'source': None if not facts.ops else 'mmfreq' if facts.fallback else 'compiled',
            'real': sorted(op for op, available in facts.ops.items() if available),
            'stubs': sorted(op for op, available in facts.ops.items() if not available),
        },
        'fix': fix_command(findings),
    }


def print_table(rows):
    """Print the findings as a table: with rich if it is installed, in plain columns otherwise."""
    cells = [(row['name'], row['version'], row['verdict'], row['what'], row['remedy']) for row in rows]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(map(len, column)) for column in zip(COLUMNS[:3], *(row[:3] for row in cells))]
        for name, version, verdict, what, remedy in [COLUMNS, *cells]:
            start = '  '.join(cell.ljust(width) for cell, width in zip((name, version, verdict), widths))
            print(f'{start}  {what}' + (f' -> {remedy}' if remedy else ''))
        return
    table = Table(*COLUMNS)
    colors = {'ok': 'green', 'warn': 'yellow', 'fail': 'red'}
    for row in cells:
        table.add_row(*(Text(cell, style=colors[row[2]] if i == 2 else '') for i, cell in enumerate(row)))
    Console().print(table)


def print_report(data):
    """Print the report as text."""
    print_table(data['findings'])
    for name, value in data['devices'].items():
        print(f'{name}: {", ".join(value) or "none" if isinstance(value, list) else value}')
    ops = data['mmcv_ops']
    if ops['source']:
        print(f'mmcv ops that can be called ({len(ops["real"])}, {ops["source"]}): {", ".join(ops["real"])}')
        print(f'mmcv ops that raise when called ({len(ops["stubs"])}): {", ".join(ops["stubs"]) or "none"}')
    verdict = 'usable' if data['usable'] else 'not usable'
    nothing = 'nothing to fix' if data['usable'] else 'no single command; see the remedies above'
    print(f'\n{verdict} for segmentation and detection\nto fix: {data["fix"] or nothing}')


def main(argv=None):
    """Print the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m mmfreq.doctor', description=__doc__.split('\n\n')[0])
    parser.add_argument('--json', action='store_true', help='print the report as JSON')
    options = parser.parse_args(argv)
    data = report(gather(DISTRIBUTIONS))
    if options.json:
        print(json.dumps(data, indent=2))
    else:
        print_report(data)
    return 0 if data['usable'] else 1


if __name__ == '__main__':
    sys.exit(main())
