"""Generate toy data in the layout of ADE20K or COCO: colored, textured shapes that a small model learns in minutes on a CPU.

Example: python tools/make_toy_dataset.py ade20k --out data/toy
"""

import argparse
import sys
from pathlib import Path

import _path  # noqa: F401
from rich.progress import Progress

from mmfreq.datasets.toy import write_toy_ade20k, write_toy_coco

WRITERS = {'ade20k': write_toy_ade20k, 'coco': write_toy_coco}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('layout', choices=[*WRITERS, 'both'])
    parser.add_argument('--out', type=Path, required=True, help='output folder; `both` creates ade20k/ and coco/ in it')
    parser.add_argument('--train', type=int, default=160, help='training images (default: %(default)s)')
    parser.add_argument('--val', type=int, default=32, help='validation images (default: %(default)s)')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='default: 128 128 (ade20k), 160 192 (coco)')
    parser.add_argument('--seed', type=int, default=0, help='the same seed gives the same files (default: %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace a toy dataset with other parameters')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    jobs = {name: args.out / name for name in WRITERS} if args.layout == 'both' else {args.layout: args.out}
    options = {'train': args.train, 'val': args.val, 'seed': args.seed, 'overwrite': args.overwrite}
    if args.size:
        options['size'] = tuple(args.size)
    for layout, root in jobs.items():
        with Progress(transient=True) as bar:
            task = bar.add_task(f'toy {layout}', total=args.train + args.val)
            try:
                report = WRITERS[layout](root, **options, on_sample=lambda bar=bar, task=task: bar.advance(task))
            except (FileExistsError, ValueError) as error:
                print(f'error: {error}', file=sys.stderr)
                sys.exit(2)
        print(report)


if __name__ == '__main__':
    main()
