"""Speed and memory against a baseline: models x sizes x precisions x (inference, training), in paired rounds, as ratios.

Suites:
{suites}

Before anything is timed, ours and the published formulation get the same weights and must give the same outputs. On a CPU each form
is timed in a process of its own, in turns. A --quick run takes about two minutes on two CPU cores, and says that it is quick.

Examples:
  python tools/benchmark.py --suite published --size 512
  python tools/benchmark.py --suite resolutions --device cuda --batch 4 --plot resolutions.png --json resolutions.json
  python tools/benchmark.py --suite published --archs hornet-tiny-gf --forms ours compiled --size 512x1024 --precisions fp32 fp16
  python tools/benchmark.py --tune --precisions fp32 bf16 --size 14 28 56

Exit status: 0 if it was measured, whether targets are reached or not; 2 for a wrong command, or outputs that differ.
"""

import argparse
import json
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmpretrain: supplies mmcv._ext where no compiled mmcv is)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/: the published formulation and the peers
WIDTH = 200  # of tables that go into a file


def parse_args(argv=None):
    from benchmarks.harness.entries import DTYPES, MODES, SUITES
    from benchmarks.harness.tune import CHANNELS
    from mmfreq.analysis.latency import usable_cores

    listed = '\n'.join(f'  {name:12} {suite.question}' for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        description=__doc__.replace('{suites}', listed), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, default=())
    add('--suite', choices=SUITES, default='published', help='default: %(default)s')
    add('--archs', nargs='+', type=hyphened, metavar='ARCH', help='names of archs (default: of the suite)')
    add('--size', dest='sizes', nargs='+', type=image_size, metavar='S', help='sides of squares, or HxW (default: of the suite)')
    add('--precisions', nargs='+', choices=DTYPES, help='default: of the suite')
    add('--modes', nargs='+', choices=MODES, help='default: of the suite')
    add(
        '--forms',
        '--variants',
        nargs='+',
        metavar='FORM',
        help='ours, optimized, memory_efficient, compiled, compiled_blocks, mmpretrain',
    )
    add('--plain', dest='forms', action='store_const', const=('ours',), help='only the model as it is: --forms ours')
    add('--batch', type=positive, default=1, help='images at a time (default: %(default)s)')
    add('--repeats', type=positive, default=10, help='rounds (default: %(default)s)')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    add('--threads', type=positive, default=usable_cores(), help='of the CPU (default: the cores it may use)')
    add('--quick', action='store_true', default=False, help='small images, few rounds: about two minutes')
    add('--json', type=Path, default=None, metavar='FILE', help='write everything here, the times of every round too')
    add('--out', type=Path, default=None, metavar='FILE.md', help='write the tables here, with command and machine')
    add('--plot', type=Path, default=None, metavar='FILE.png', help='draw time and memory against resolution')
    add('--tune', action='store_true', default=False, help='time the spectral backends on maps of --size instead')
    add('--channels', nargs='+', type=positive, default=CHANNELS, help='of these maps (default: 32 64 128)')
    add('--list', action='store_true', default=False, help='only print what would be measured')
    return parser.parse_args(argv)


def hyphened(text):
    return text.replace('_', '-')


def positive(text):
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f'expected a positive integer, got {text!r}')
    return int(text)


def image_size(text):
    """'512' is (512, 512), '512x1024' is (512, 1024)."""
    sides = [positive(side) for side in text.split('x')]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f'expected a side or HxW, got {text!r}')
    return sides[0], sides[-1]


def print_table(console, table):
    from rich.table import Table

    shown = Table(title=table.title)
    for number, column in enumerate(table.header):
        shown.add_column(column, justify='right' if number else 'left', no_wrap=not number)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def write(path, text):
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')


def tune(args, command, console, say):
    """Times the spectral backends on maps."""
    from benchmarks.harness.tables import tuning_page
    from benchmarks.harness.tune import SIDES, tune, tuning_table
    from mmfreq.analysis.latency import describe_hardware

    sides = [height for height, _ in args.sizes] or SIDES
    choices = tune(sides, args.channels, args.precisions or ('fp32',), args.device, args.batch, args.repeats, say=say)
    machine = describe_hardware(args.device, args.threads)
    table = tuning_table(choices)
    print_table(console, table)
    write(args.json, json.dumps({'command': command, 'machine': machine, 'choices': [choice.as_dict() for choice in choices]}))
    write(args.out, tuning_page(table, command, machine))


def benchmark(args, command, console, say):
    """Measures a suite, or prints what would be measured."""
    from benchmarks.harness.entries import Settings, plan, settled
    from benchmarks.harness.measure import measure
    from benchmarks.harness.plot import check_sizes, plot
    from benchmarks.harness.tables import QUICK, page, remarks, tables, verdicts
    from benchmarks.models import makers

    models = makers()
    chosen = {field.name: getattr(args, field.name) for field in fields(Settings) if hasattr(args, field.name)}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    settings = settled(Settings(**chosen), args.quick)
    if args.plot:
        check_sizes(settings.sizes)
    groups = plan(settings, models)
    if args.list:
        for group in groups:
            print(f'{group.title}: {", ".join(entry.label for entry in group.entries)}')
        return
    results = measure(groups, settings, say)
    for table in tables(results):
        print_table(console, table)
    for line in (*remarks(results), *verdicts(results)):
        print(line)
    if args.quick:
        print(QUICK)
    write(args.json, json.dumps({'command': command, 'quick': args.quick, **results.as_dict()}, indent=1))
    write(args.out, page(results, command, args.quick, args.plot.name if args.plot else None))
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(results, args.plot)


def main(argv=None):
    args = parse_args(argv)
    import torch
    from rich.console import Console

    from benchmarks.harness.tables import command_words
    from mmfreq.errors import short_user_errors

    torch.set_num_threads(args.threads)
    command = command_words('tools/benchmark.py', sys.argv[1:] if argv is None else argv)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with short_user_errors():
        (tune if args.tune else benchmark)(args, command, console, partial(print, flush=True))


if __name__ == '__main__':
    main()
