"""Write a config with one of mmfreq's backbones in place of the backbone of any segmentation or detection config.

The config is written to standard output, or to a file with --out. The differences from the base are printed to standard error.

Examples:
  python tools/mix.py mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py dfformer-s18 > new.py
  python tools/mix.py mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py hornet-tiny-gf --out configs/new.py
  python tools/mix.py mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py affnet-t --set model.backbone.output_stride=8
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if mmcv is not compiled)


def key_and_value(text):
    """The option itself; raises if it has no '='."""
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, got {text!r}')
    return text


def parse_args(argv=None):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('base', metavar='BASE_CONFIG', help='path of a config, or mmseg::..., mmdet::...')
    parser.add_argument('arch', metavar='ARCH', help='one of mmfreq.list_archs(), for example dfformer-s18')
    parser.add_argument('--img-size', type=int, metavar='N', help='image size of the stored filters; default: the published one')
    parser.add_argument(
        '--set',
        nargs='+',
        type=key_and_value,
        action=DictAction,
        metavar='KEY=VALUE',
        help='more values, with priority over those of the tool; model.backbone.KEY is an argument of the new backbone',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write; its _base_ is relative to it')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.config.mix import mix
    from mmfreq.config.reading import check_new_file
    from mmfreq.errors import short_user_errors

    folder = args.out and args.out.absolute().parent
    with short_user_errors(), redirect_stdout(sys.stderr):  # only the config goes to standard output
        if args.out:
            check_new_file(args.out)
        mixed = mix(args.base, args.arch, args.img_size, args.set, folder)
    mixed.write(args.out)
    print(mixed, file=sys.stderr)
    if args.out:
        print(f'Written to {args.out}; train it with: python tools/train.py {args.out}', file=sys.stderr)


if __name__ == '__main__':
    main()
