"""`python -m mmfreq.doctor`: what is installed, what fits together, what is missing and the one command that mends it.

Needs nothing but the standard library; with `rich` the table is prettier. Exit code 0 if segmentation and detection can be
trained here, 1 otherwise. The command it prints is for pip's default index; where torch comes from another, add that index
yourself.
"""

import argparse
import json
import sys
from dataclasses import asdict

from mmfreq.compat.stack import DISTRIBUTIONS, fix_command, gather, judge, usable

COLUMNS = ('package', 'version', 'verdict', 'what', 'remedy')


def report(facts):
    """The whole finding as plain data."""
    findings = judge(facts)
    return {
        'usable': usable(findings),
        'findings': [asdict(finding) for finding in findings],
        'devices': facts.devices,
        'mmcv_ops': {
            'source': None if not facts.ops else 'mmfreq' if facts.fallback else 'compiled',
            'real': sorted(op for op, there in facts.ops.items() if there),
            'stubs': sorted(op for op, there in facts.ops.items() if not there),
        },
        'mend': fix_command(findings),
    }


def print_table(rows):
    """The findings as a table: by rich where there is one, in plain columns otherwise."""
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
    colours = {'ok': 'green', 'warn': 'yellow', 'fail': 'red'}
    for row in cells:
        table.add_row(*(Text(cell, style=colours[row[2]] if i == 2 else '') for i, cell in enumerate(row)))
    Console().print(table)


def print_report(data):
    """The report for people."""
    print_table(data['findings'])
    for name, value in data['devices'].items():
        print(f'{name}: {", ".join(value) or "none" if isinstance(value, list) else value}')
    ops = data['mmcv_ops']
    if ops['source']:
        print(f'mmcv ops that can be called ({len(ops["real"])}, {ops["source"]}): {", ".join(ops["real"])}')
        print(f'mmcv ops that raise when called ({len(ops["stubs"])}): {", ".join(ops["stubs"]) or "none"}')
    verdict = 'usable' if data['usable'] else 'not usable'
    nothing = 'nothing to mend' if data['usable'] else 'no command does it, see the remedies above'
    print(f'\n{verdict} for segmentation and detection\nto mend: {data["mend"] or nothing}')


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
