"""Evaluate checkpoints and compare with the published numbers of the model zoo.

Checkpoints, published or trained here, are matched with rows by name (NAME.pth, NAME-<hash>.pth, or the folder NAME/ of a training
run, with a NAME from --list), by sha256, or by their tensors. Finished evaluations are not repeated: after an interruption, run the
same command again. See docs/reproduction.md.

Examples:
  python tools/reproduce.py --list --filter upernet
  python tools/reproduce.py --checkpoints downloads --data ade20k=/data/ade coco=/data/coco
  python tools/reproduce.py --download --filter gfnet-h
  python tools/reproduce.py --audit                    # configs against the recorded recipes; needs neither data nor weights

Exit status: 0 if every evaluated number is reproduced or has no published counterpart; 1 if one differs, failed or had no data, or
nothing was evaluated; 2 for an invalid command.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

DEFAULT_FOLDERS = ('checkpoints', 'work_dirs')
WIDTH = 160  # of tables that are not printed to a terminal


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--filter', metavar='PATTERN', help="only rows whose name contains or matches this: gfnet, '*upernet*ade20k*'"
    )
    parser.add_argument(
        '--checkpoints',
        nargs='+',
        action='extend',
        type=Path,
        metavar='DIR',
        help=f'folders with checkpoints at any depth, or files (default: {" and ".join(DEFAULT_FOLDERS)}, if they exist)',
    )
    parser.add_argument(
        '--data',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME=FOLDER',
        help='folders of datasets: ade20k, coco, voc, imagenet, ... (default: those of the configs, below data/)',
    )
    parser.add_argument('--out', type=Path, default=Path('work_dirs/reproduce'), metavar='DIR', help='default: %(default)s')
    parser.add_argument(
        '--download', action='store_true', help='also evaluate the published files of the rows, downloaded if necessary'
    )
    parser.add_argument('--single-scale', action='store_true', help='skip tests with multiple scales and flips')
    parser.add_argument('--plain', action='store_true', help='evaluate without mmfreq.optimize')
    parser.add_argument('--update-zoo', action='store_true', help='write the measured numbers into the metafiles and model_zoo.md')
    parser.add_argument(
        '--root', type=Path, metavar='DIR', help='folder that contains configs/ with the metafiles (default: of mmfreq)'
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument('--audit', action='store_true', help='only compare the configs with the recorded recipes')
    only.add_argument('--list', action='store_true', help='only print the rows and their checkpoints')
    return parser.parse_args(argv)


def audit(rows, console):
    """Print the comparison of configs and recipes; returns the exit status."""
    from rich.progress import track

    from mmfreq.zoo.reproduction import audit_or_difference, audit_table, difference_lines

    audits = [audit_or_difference(row) for row in track(rows, description='reading configs', console=console, transient=True)]
    console.print(audit_table(audits))
    differing = [each for each in audits if not each.agrees]
    for each in differing:
        print('\n'.join(difference_lines(each)))
    print(f'{len(audits)} configs, {len(differing)} of them differ from the recorded recipe')
    return 1 if differing else 0


def print_files(matches, unmatched):
    """Print which checkpoint belongs to which row, and which to none."""
    if matches:
        print(f'{len(matches)} checkpoint(s) found:')
    for match in matches:
        print(f'  {match.file}: {match.row.name}, matched {match.how}')
    if unmatched:
        print(f'{len(unmatched)} file(s) without a row:')
    for each in unmatched:
        print(f'  {each.file}: {each.why}')


def print_results(results, rows, out, console):
    """Print the table; returns the exit status."""
    from mmfreq.zoo.reproduction import lines_of, results_table, tally

    lines = lines_of(results, rows)
    console.print(results_table(lines))
    print(f'{tally(lines)}; also in {out / "results.md"}')
    return 0 if all(line.is_success for line in lines) else 1


def main(argv=None):
    args = parse_args(argv)
    from rich.console import Console

    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.zoo.checkpoints import assign, download
    from mmfreq.zoo.data_roots import parse_folders
    from mmfreq.zoo.page import check_writable, update_zoo
    from mmfreq.zoo.reproduction import Settings, list_table, reproduce, select
    from mmfreq.zoo.rows import default_root, load_rows

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with short_user_errors():
        root = args.root or default_root()
        if not (root / 'configs').is_dir():
            raise UserError(f'Expected a folder with configs/ for --root, but {root.absolute() / "configs"} does not exist.')
        rows = load_rows(root)
        wanted = select(rows, args.filter)
        if args.audit:
            return audit(wanted, console)
        if args.update_zoo:
            check_writable(root)
        settings = Settings(args.out, parse_folders(args.data, rows), args.single_scale, args.plain)
        folders = args.checkpoints or [Path(folder) for folder in DEFAULT_FOLDERS if Path(folder).is_dir()]
        if not (folders or args.list or args.download):
            raise UserError(
                f'There is no folder {" or ".join(DEFAULT_FOLDERS)} in {Path.cwd()}. Give --checkpoints DIR, or --download.'
            )
        if folders:
            print(f'searching for checkpoints in {", ".join(map(str, folders))}')
        matches, unmatched = assign(folders, rows)
        matches = [match for match in matches if match.row in wanted]
        if args.download:
            found = {match.row.name for match in matches}
            downloaded, faults = download(row for row in wanted if row.name not in found)
            matches += downloaded
            print(''.join(f'not downloaded: {fault}\n' for fault in faults), end='')
        print_files(matches, unmatched)
        if args.list:
            console.print(list_table(wanted, matches))
            return 0
        if not matches:
            print(f'nothing to evaluate: none of the {len(wanted)} rows has a checkpoint in {", ".join(map(str, folders))}')
            return 1
        results = reproduce(matches, rows, settings, log=partial(print, flush=True))
        status = print_results(results, rows, args.out, console)
        if args.update_zoo:
            changed = update_zoo(root, results)
            print(f'{len(changed)} row(s) of the zoo changed; model_zoo.md is written')
    return status


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('stopped; run the same command again to continue')
        sys.exit(130)
