"""Benchmark speed and memory against a baseline: models x sizes x precisions x (inference, training), as ratios of paired rounds.

Suites:
{suites}

Before anything is timed, mmfreq and the reference implementation get the same weights and must return the same outputs. On a CPU
each form is timed in its own process, in turns. A --quick run takes about two minutes on two CPU cores; its output says that it is
quick. Needs a checkout of the repository: the benchmarks are not part of the wheel.

Examples:
  python tools/benchmark.py --suite reference --size 512
  python tools/benchmark.py --suite resolutions --device cuda --batch 4 --plot resolutions.png --json resolutions.json
  python tools/benchmark.py --suite reference --archs hornet-tiny-gf --forms mmfreq compiled --size 512x1024 --precisions fp32 fp16
  python tools/benchmark.py --tune --precisions fp32 bf16 --size 14 28 56

Exit status: 0 if the measurement is complete, whether targets are reached or not; 2 for a wrong command, or outputs that differ.
"""

import argparse
import json
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmpretrain: supplies mmcv._ext if mmcv is not compiled)

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 200  # columns of tables that are not printed to a terminal


def parse_args(argv=None):
    from benchmarks.harness.entries import DTYPES
    from benchmarks.harness.suites import MODES, SUITES
    from benchmarks.harness.tune import CHANNELS
    from mmfreq.analysis.latency import usable_cores

    suites = '\n'.join(f'  {name:12} {suite.question}' for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        description=__doc__.replace('{suites}', suites), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = partial(parser.add_argument, default=())
    add('--suite', choices=SUITES, default='reference', help='default: %(default)s')
    add('--archs', nargs='+', type=hyphened, metavar='ARCH', help='names of archs (default: of the suite)')
    add('--size', dest='sizes', nargs='+', type=image_size, metavar='S', help='sides of squares, or HxW (default: of the suite)')
    add('--precisions', nargs='+', choices=DTYPES, help='default: of the suite')
    add('--modes', nargs='+', choices=MODES, help='default: of the suite')
    add(
        '--forms',
        '--variants',
        nargs='+',
        metavar='FORM',
        help='mmfreq, optimized, memory_efficient, compiled, compiled_blocks, mmpretrain (default: of the suite)',
    )
    add('--plain', dest='forms', action='store_const', const=('mmfreq',), help='only the model as it is: --forms mmfreq')
    add('--batch', type=positive, default=1, help='images per call (default: %(default)s)')
    add('--repeats', type=positive, default=10, help='number of rounds (default: %(default)s)')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    add('--threads', type=positive, default=usable_cores(), help='CPU threads (default: the usable cores)')
    add('--quick', action='store_true', default=False, help='small images and few rounds: about two minutes')
    add('--json', type=Path, default=None, metavar='FILE', help='write all results to this file, with the times of every round')
    add('--out', type=Path, default=None, metavar='FILE.md', help='write the tables to this file, with command and hardware')
    add('--plot', type=Path, default=None, metavar='FILE.png', help='plot time and memory against resolution')
    add('--tune', action='store_true', default=False, help='time the spectral backends on maps of --size instead')
    add('--channels', nargs='+', type=positive, default=CHANNELS, help='channels of these maps (default: 32 64 128)')
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

    rich_table = Table(title=table.title)
    for number, column in enumerate(table.header):
        rich_table.add_column(column, justify='right' if number else 'left', no_wrap=not number)
    for row in table.rows:
        rich_table.add_row(*row)
    console.print(rich_table)


def write(path, text):
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')


def tune(args, command, console, log):
    """Time the spectral backends on maps."""
    from benchmarks.harness.page import tuning_page
    from benchmarks.harness.tune import SIDES, tune, tuning_table
    from mmfreq.analysis.latency import describe_hardware

    sides = [height for height, _ in args.sizes] or SIDES
    timings = tune(sides, args.channels, args.precisions or ('fp32',), args.device, args.batch, args.repeats, log=log)
    hardware = describe_hardware(args.device, args.threads)
    table = tuning_table(timings)
    print_table(console, table)
    write(args.json, json.dumps({'command': command, 'hardware': hardware, 'timings': [timing.as_dict() for timing in timings]}))
    write(args.out, tuning_page(table, command, hardware))


def benchmark(args, command, console, log):
    """Measure a suite, or print what would be measured."""
    from benchmarks.harness.measure import measure
    from benchmarks.harness.page import QUICK, link, notes, page
    from benchmarks.harness.plot import check_sizes, plot
    from benchmarks.harness.suites import Settings, plan, with_defaults
    from benchmarks.harness.tables import tables
    from benchmarks.harness.targets import verdicts
    from benchmarks.models import model_sources

    sources = model_sources()
    given = {field.name: getattr(args, field.name) for field in fields(Settings) if hasattr(args, field.name)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = with_defaults(Settings(**given), args.quick)
    if args.plot:
        check_sizes(settings.sizes)
    groups = plan(settings, sources)
    if args.list:
        for group in groups:
            print(f'{group.title}: {", ".join(entry.label for entry in group.entries)}')
        return
    results = measure(groups, settings, log)
    for table in tables(results):
        print_table(console, table)
    for line in (*notes(results), *verdicts(results)):
        print(line)
    if args.quick:
        print(QUICK)
    write(args.json, json.dumps({'command': command, 'quick': args.quick, **results.as_dict()}, indent=1))
    write(args.out, page(results, command, args.quick, link(args.plot, args.out) if args.plot else None))
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(results, args.plot)


def main(argv=None):
    if not (ROOT / 'benchmarks').is_dir():
        sys.exit(f'tools/benchmark.py needs a checkout of the repository: there is no folder benchmarks/ in {ROOT}.')
    sys.path.insert(0, str(ROOT))
    args = parse_args(argv)
    import torch
    from rich.console import Console

    from benchmarks.harness.page import command_words
    from mmfreq.errors import short_user_errors

    torch.set_num_threads(args.threads)
    command = command_words('tools/benchmark.py', sys.argv[1:] if argv is None else argv)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with short_user_errors():
        (tune if args.tune else benchmark)(args, command, console, partial(print, flush=True))


if __name__ == '__main__':
    main()
