"""Writes a config for fewer GPUs than it was published for, and says what it keeps.

By default the total batch is kept: gradients are accumulated, and counts of iterations multiplied. With --scale-lr the batch gets
smaller, and the learning rate with it. The config goes to the standard output, or with --out to a file; what was done goes to the
standard error, and into the first lines of the config.

Examples:
  python tools/few_gpus.py configs/upernet_hornet_ade20k.py 2 --out upernet_2xb2.py
  python tools/few_gpus.py configs/det/hornet/hornet-tiny-gf_mask-rcnn_8xb2-1x_coco.py 1 --images 4 > mask-rcnn_1xb4.py
  python tools/few_gpus.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py 3 --scale-lr linear --out retinanet_3xb2.py
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of a config, or mmseg::..., mmdet::..., mmpretrain::...')
    parser.add_argument('gpus', metavar='GPUS', type=int, help='how many there are')
    parser.add_argument('--images', type=int, metavar='N', help="images per GPU; default: the config's")
    parser.add_argument(
        '--scale-lr',
        choices=('linear', 'sqrt'),
        help="scale the learning rate by the ratio of the batches (linear: mmengine's rule) or its root, and accumulate nothing",
    )
    parser.add_argument('--batch', type=int, metavar='N', help='total batch that CONFIG is made for, where it does not say so')
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write; its _base_ is then relative to it')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.config.few_gpus import few_gpus
    from mmfreq.errors import UserError, short_user_errors

    with short_user_errors():
        if args.out and not args.out.absolute().parent.is_dir():
            raise UserError(f'there is no folder {args.out.absolute().parent}: make it, or give another name')
        if args.out and args.out.exists():
            raise UserError(f'{args.out} exists already: remove it, or give another name')
        with redirect_stdout(sys.stderr):  # the log of mmengine, and what a config's own modules print
            written = few_gpus(args.config, args.gpus, args.images, args.scale_lr, args.batch, args.out)
    if args.out:
        args.out.write_text(written.text, encoding='utf-8')
    else:
        sys.stdout.write(written.text)
    told = [*written.summary, 'Difference from the base:', *(f'  {line}' for line in written.difference)]
    told += [f'Note: {note}' for note in written.notes]
    name = args.out or 'FILE'
    command = f'python tools/train.py {name}' if args.gpus == 1 else f'tools/dist_train.sh {name} {args.gpus}'
    print('\n'.join([*told, f'Train it with: {command}']), file=sys.stderr)


if __name__ == '__main__':
    main()
