"""List, download and check the published weights.

Examples:
  python tools/weights.py list hornet-tiny-gf
  python tools/weights.py list --task ade20k
  python tools/weights.py get hornet-tiny-gf              # the file that the dense configs of the arch start from
  python tools/weights.py get hornet-tiny-gf/ade20k --out weights
  python tools/weights.py verify weights

MMFREQ_WEIGHTS=FOLDER names a folder in which every command of mmfreq looks first; MMFREQ_OFFLINE=1 forbids downloads.
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq

WIDTH = 1000  # at most, of tables that are not printed to a terminal


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    listing = commands.add_parser('list', help='the published files, and whether they are on this machine')
    listing.add_argument('arch', nargs='?', help='only the files of this arch or family')
    listing.add_argument('--task', help='only files of this task or tag, such as ade20k or in1k')
    get = commands.add_parser('get', help='download a file unless it is here, and print its path')
    get.add_argument('name', metavar='ARCH[/TAG]', help='without a tag: the file that the dense configs of the arch start from')
    get.add_argument('--out', type=Path, metavar='FOLDER', help='copy it into this folder, under the name that mmfreq expects')
    verify = commands.add_parser('verify', help='check that the files in a folder are complete and fit their archs')
    verify.add_argument('folder', type=Path, metavar='FOLDER')
    return parser.parse_args(argv)


def main(argv=None):
    """Exit status: 0; 1 if `verify` found a fault; 2 for an invalid command, or a file that cannot be had."""
    args = parse_args(argv)
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        return {'list': print_list, 'get': get_file, 'verify': verify_folder}[args.command](args)


def print_list(args):
    from rich.table import Column, Table

    from mmfreq.weights.files import list_weights
    from mmfreq.zoo.published import describe_place, describe_size, metrics_text

    table = Table(Column('name', no_wrap=True), 'model', 'metrics', 'size', 'license', Column('where', overflow='fold'))
    files = [each for arch in archs_of(args.arch) for each in list_weights(arch, args.task)]
    for each in files:
        place = describe_place(each)
        table.add_row(f'{each.arch}/{each.tag}', each.model, metrics_text(each), describe_size(each), each.licence, place)
    console().print(table)
    print(f'{len(files)} published files. Notes and all fields: mmfreq.list_weights().')


def archs_of(name):
    """[None] for all archs; the archs of a family; or one arch."""
    if name is None:
        return [None]
    from difflib import get_close_matches

    from mmfreq.errors import UserError
    from mmfreq.models._factory import FAMILIES

    archs, name = mmfreq.list_archs(), name.lower().replace('_', '-')
    if name in archs:
        return [name]
    if name in FAMILIES:
        return mmfreq.list_archs(name)
    near = ', '.join(get_close_matches(name, archs)) or 'none'
    raise UserError(f"Expected an arch or one of the families {', '.join(FAMILIES)}, found '{name}'; nearest: {near}.")


def get_file(args):
    import shutil

    from mmfreq.weights.store import SCHEME, local_file, wanted

    source = f'{SCHEME}{args.name.removeprefix(SCHEME)}'
    path = local_file(source)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        target = args.out / (wanted(source).filename if path.suffix == '.pth' else path.name)
        if not (target.exists() and target.samefile(path)):
            shutil.copyfile(path, target)
        path = target
    print(path)


def verify_folder(args):
    from rich.table import Table

    from mmfreq.zoo.published import verify

    table, faults = Table('file', 'named as', 'result'), 0
    results = verify(args.folder)
    for each in results:
        faults += not each.good
        table.add_row(each.file, each.name, each.result)
    console().print(table)
    print(f'files: {len(results)}, of them with a fault: {faults}')
    return 1 if faults else 0


def console():
    from rich.console import Console

    out = Console()
    return out if out.is_terminal else Console(width=WIDTH)


if __name__ == '__main__':
    raise SystemExit(main())
