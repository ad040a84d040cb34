"""Count parameters and FLOPs of every config into its metafile, and write the pages of the zoo from the metafiles.

Pages: `model_zoo.md`, `model-index.yml`, and the paragraph of `README.md` with the results of training runs.

Examples:
  python tools/build_zoo.py                        # count for new configs, write the pages
  python tools/build_zoo.py --measure 'gfnet*'     # count for these configs again
  python tools/build_zoo.py --check                # write nothing, report what is out of date
"""

import argparse
import fnmatch
import sys

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--measure', metavar='PATTERN', help="count again for configs whose name matches, such as '*upernet*'")
    parser.add_argument('--check', action='store_true', help='write nothing; exit with status 1 if something is out of date')
    return parser.parse_args(argv)


def is_measured(entry, fields):
    return all(field in entry['Metadata'] for field in fields)


def main(argv=None):
    args = parse_args(argv)
    from rich.progress import track

    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.zoo.page import FIELDS, measure, pages
    from mmfreq.zoo.rows import default_root, load_rows, metafiles, update_models, write_text

    root = default_root()
    with short_user_errors():
        rows = load_rows(root)
        if args.measure and not fnmatch.filter([row.name for row in rows], args.measure):
            raise UserError(f'No config has a name that matches {args.measure!r}. Give a shell pattern, such as "*upernet*".')
        due = [row for row in rows if not is_measured(row.entry, FIELDS) or fnmatch.fnmatch(row.name, args.measure or '')]
        if due and not args.check:
            found = {row.name: measure(row) for row in track(due, description='counting')}

            def with_measured(entry):
                return {**entry, 'Metadata': {**entry['Metadata'], **found.get(entry['Name'], {})}}

            for path in metafiles(root):
                update_models(path, with_measured)
            due, rows = [], load_rows(root)
        stale = [f'{row.name} is not measured' for row in due]
        for name, text in ({} if due else pages(root, rows)).items():
            path = root / name
            if path.is_file() and path.read_text(encoding='utf-8') == text:
                continue
            stale.append(f'{name} is out of date')
            if not args.check:
                write_text(path, text)
                print(f'wrote {path.name}')
    if args.check and stale:
        sys.exit('\n'.join([*stale, 'run: python tools/build_zoo.py']))
    print(f'{len(rows)} configs, all measured')


if __name__ == '__main__':
    main()
