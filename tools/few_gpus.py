"""Write a config for fewer GPUs than it was published for.

By default the total batch is kept: gradients are accumulated, and counts of iterations are multiplied. With --scale-lr the batch
becomes smaller, and the learning rate is scaled. The config is written to standard output, or to a file with --out. A summary is
printed to standard error and written into the first lines of the config.

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

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if mmcv is not compiled)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='path of a config, or mmseg::..., mmdet::..., mmpretrain::...')
    parser.add_argument('gpus', metavar='GPUS', type=int, help='number of GPUs')
    parser.add_argument('--images', type=int, metavar='N', help="images per GPU; default: the config's")
    parser.add_argument(
        '--scale-lr',
        choices=('linear', 'sqrt'),
        help="scale the learning rate by the ratio of the batches (linear: mmengine's rule) or its root; do not accumulate",
    )
    parser.add_argument('--batch', type=int, metavar='N', help='total batch that CONFIG is made for, if it does not state it')
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write; its _base_ is relative to it')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.config.few_gpus import few_gpus
    from mmfreq.config.meta_model import build_model_on_meta
    from mmfreq.config.reading import check_new_file
    from mmfreq.errors import short_user_errors
    from mmfreq.preflight.batch_norms import check_batch_norms

    with short_user_errors(), redirect_stdout(sys.stderr):  # only the config goes to standard output
        if args.out:
            check_new_file(args.out)
        written = few_gpus(args.config, args.gpus, args.images, args.scale_lr, args.batch, args.out)
        model = build_model_on_meta(written.config)
        if model is not None:
            check_batch_norms(written.config, None, model, processes=args.gpus)
    written.write(args.out)
    name = args.out or 'FILE'
    command = f'python tools/train.py {name}' if args.gpus == 1 else f'tools/dist_train.sh {name} {args.gpus}'
    print(f'{written}\nTrain it with: {command}', file=sys.stderr)


if __name__ == '__main__':
    main()
