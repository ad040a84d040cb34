"""Writes a config that puts one of our backbones into any segmentation or detection config, and prints what it changes.

The config goes to the standard output, or with --out to a file; what differs from the base goes to the standard error.

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

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def key_and_value(text):
    """An option as it is; argparse refuses it where it has no '='."""
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} has no value; expected KEY=VALUE')
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
        help='further values; they win over the tool. Those of model.backbone are arguments of the new backbone',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='file to write; its _base_ is then relative to it')
    return parser.parse_args(argv)


def check_free(out):
    """Refuse, before any work, a file that exists or has no folder."""
    from mmfreq.errors import UserError

    if not out.absolute().parent.is_dir():
        raise UserError(f'there is no folder {out.absolute().parent}: make it, or give another name')
    if out.exists():
        raise UserError(f'{out} exists already: remove it, or give another name')


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.config.mix import mix
    from mmfreq.errors import short_user_errors

    folder = args.out and args.out.absolute().parent
    with short_user_errors(), redirect_stdout(sys.stderr):  # the standard output is the config's alone
        if args.out:
            check_free(args.out)
        mixed = mix(args.base, args.arch, args.img_size, args.set, folder)
    if args.out:
        args.out.write_text(mixed.text, encoding='utf-8')
    else:
        sys.stdout.write(mixed.text)
    told = ['Difference from the base:', *(f'  {line}' for line in mixed.difference), *(f'Note: {note}' for note in mixed.notes)]
    told += [f'Written to {args.out}; train it with: python tools/train.py {args.out}'] if args.out else []
    print('\n'.join(told), file=sys.stderr)


if __name__ == '__main__':
    main()
