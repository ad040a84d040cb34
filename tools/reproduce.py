"""Evaluates checkpoints against the published numbers of the model zoo, and says which are reproduced.

Checkpoints, ours or the authors', are told by name (NAME.pth, NAME-<hash>.pth, or the folder NAME/ of a training run, NAME as
--list prints it), by sha256, or by their tensors. What is measured already is not measured again: after an interruption give the
same command. docs/reproduction.md tells more.

Examples:
  python tools/reproduce.py --list --filter upernet
  python tools/reproduce.py --checkpoints downloads --data ade20k=/data/ade coco=/data/coco
  python tools/reproduce.py --audit                    # configs against the recorded recipes; needs neither data nor weights

Exit status: 0 if all that was evaluated is reproduced, or nothing is published of it; 1 if something differs, failed or had no
data, or nothing was evaluated; 2 for a wrong command.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

PLACES = ('checkpoints', 'work_dirs')
WIDTH = 160  # of tables that go into a file


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--filter', metavar='PATTERN', help="only rows whose name holds this, or matches it: gfnet, '*upernet*ade20k*'"
    )
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        action='extend',
        type=Path,
        metavar='DIR',
        help=f'where checkpoints are, in folders of any depth (default: {" and ".join(PLACES)}, if there)',
    )
    parser.add_argument(
        '--data',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=FOLDER',
        help="folders of data sets: ade20k, coco, voc, imagenet, ... (default: the configs' own, below data/)",
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/reproduce'), metavar='DIR', help='default: %(default)s')
    parser.add_argument('--single-scale', action='store_true', help='leave out tests with several scales and flips')
    parser.add_argument('--plain', action='store_true', help='evaluate models as they are, without mmfreq.optimize')
    parser.add_argument('--update-zoo', action='store_true', help='write the measured numbers into the metafiles and model_zoo.md')
    parser.add_argument(
        '--root', type=Path, metavar='DIR', help='folder that holds configs/ with the metafiles (default: of mmfreq)'
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument('--audit', action='store_true', help='only compare configs with the recorded recipes')
    only.add_argument('--list', action='store_true', help='only print the rows, and which checkpoint each has')
    return parser.parse_args(argv)


def audit(rows, console):
    """Prints how configs and recipes compare; returns the exit status."""
    from rich.progress import track

    from mmfreq.zoo.reproduction import audit_table, audited, difference_words

    audits = [audited(row) for row in track(rows, description='reading configs', console=console, transient=True)]
    console.print(audit_table(audits))
    differing = [each for each in audits if not each.agrees]
    for each in differing:
        print('\n'.join(difference_words(each)))
    print(f'{len(audits)} configs, {len(differing)} of them differ from the recorded recipe')
    return 1 if differing else 0


def print_files(matches, strays):
    """Prints which checkpoint belongs to which row, and which to none."""
    if matches:
        print(f'{len(matches)} checkpoint(s) found:')
    for match in matches:
        print(f'  {match.file}: {match.row.name}, told {match.how}')
    if strays:
        print(f'{len(strays)} file(s) left out:')
    for stray in strays:
        print(f'  {stray.file}: {stray.why}')


def print_results(results, rows, out, console):
    """Prints the table; returns the exit status."""
    from mmfreq.zoo.reproduction import lines_of, table, tally

    lines = lines_of(results, rows)
    console.print(table(lines))
    print(f'{tally(lines)}; also in {out / "results.md"}')
    return 0 if all(line.is_good for line in lines) else 1


def main(argv=None):
    args = parse_args(argv)
    from rich.console import Console

    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.zoo.checkpoints import assign
    from mmfreq.zoo.data_roots import parse_folders
    from mmfreq.zoo.page import check_writable, update_zoo
    from mmfreq.zoo.reproduction import Settings, list_table, reproduce, select
    from mmfreq.zoo.rows import default_root, load_rows

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with short_user_errors():
        root = args.root or default_root()
        if not (root / 'configs').is_dir():
            raise UserError(f'there is no folder {root.absolute() / "configs"}: --root takes the folder that holds configs/')
        rows = load_rows(root)
        wanted = select(rows, args.filter)
        if args.audit:
            return audit(wanted, console)
        if args.update_zoo:
            check_writable(root)
        settings = Settings(args.out, parse_folders(args.data, rows), args.single_scale, args.plain)
        places = args.checkpoints or [Path(place) for place in PLACES if Path(place).is_dir()]
        if not places and not args.list:
            raise UserError(f'there is no folder {" or ".join(PLACES)} in {Path.cwd()}: give --checkpoints DIR')
        if places:
            print(f'looking for checkpoints in {", ".join(map(str, places))}')
        matches, strays = assign(places, rows)
        matches = [match for match in matches if match.row in wanted]
        print_files(matches, strays)
        if args.list:
            console.print(list_table(wanted, matches))
            return 0
        if not matches:
            print(f'nothing to evaluate: of {len(wanted)} rows none has a checkpoint in {", ".join(map(str, places))}')
            return 1
        results = reproduce(matches, rows, settings, say=partial(print, flush=True))
        status = print_results(results, rows, args.out, console)
        if args.update_zoo:
            changed = update_zoo(root, results)
            print(f'{len(changed)} row(s) of the zoo changed; model_zoo.md is written')
    return status


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('stopped: give the same command again to go on')
        sys.exit(130)
