"""Draws the training curves of work directories in common axes, and prints their last and best values.

Resumed runs of one work directory are joined. By default: loss, learning rate, and the main scores of the task.

Examples:
  python tools/plot_logs.py work_dirs/run
  python tools/plot_logs.py work_dirs/one work_dirs/other --keys loss mIoU 'decode.*' --out curves.png
"""

import argparse
from pathlib import Path

import _path  # noqa: F401


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='of a training, or the folder of one run in it')
    parser.add_argument(
        '--keys', nargs='+', default=(), metavar='KEY', help="names, their last parts ('bbox_mAP'), or quoted globs"
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/plot_logs/logs.png'), help='file (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from rich.console import Console
    from rich.table import Table

    from mmfreq.analysis.plot_style import save
    from mmfreq.analysis.training_logs import best, choose_keys, plot_logs, read_log, short_names
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        logs = {name: read_log(folder) for name, folder in zip(short_names(args.work_dirs), args.work_dirs)}
        keys = choose_keys(list(logs.values()), args.keys)
        file = save(plot_logs(logs, keys, 'Training curves'), args.out)
    table = Table()
    for column in ('work directory', 'value'):
        table.add_column(column, overflow='fold')
    for column in ('last', 'iteration', 'best', 'iteration'):
        table.add_column(column, justify='right', no_wrap=True)
    for name, log in logs.items():
        table.add_section()
        joined = f' ({log.runs} runs joined)' if log.runs > 1 else ''
        for key in (key for key in keys if key in log.curves):
            curve = log.curves[key]
            step, value = best(curve, key) or ('', None)
            best_value = '' if value is None else f'{value:.4g}'
            table.add_row(name + joined, key, f'{curve.values[-1]:.4g}', str(curve.steps[-1]), best_value, str(step))
            name = joined = ''
    Console().print(table)
    print(f'figure: {file}')


if __name__ == '__main__':
    main()
