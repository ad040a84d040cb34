"""Write a trained checkpoint as a folder that is ready to upload: weights as safetensors, configs, and a model card.

Examples:
  python tools/publish.py work_dirs/my_config/iter_160000.pth published --metric mIoU=49.2 --license apache-2.0
  python tools/publish.py hornet_tiny_gf.pth published --arch hornet-tiny-gf

The folder is OUT/NAME-HASH8. It loads by load_weights, by init_cfg, by tools/infer.py and by timm.create_model('local-dir:FOLDER').
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def metric(text):
    name, _, value = text.partition('=')
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER, such as mIoU=49.2, got '{text}'") from error


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'checkpoint', metavar='CHECKPOINT', help='a checkpoint of tools/train.py, or any file that load_weights reads'
    )
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to write into')
    parser.add_argument('--config', help='config file (default: the config that is noted in the checkpoint)')
    parser.add_argument('--name', help='name of the folder, without the hash (default: that of the config, or the arch)')
    parser.add_argument('--arch', help='arch of the backbone (default: that of the config, or the one that fits)')
    parser.add_argument('--ema', action='store_true', help='publish the averaged weights that are stored beside the raw ones')
    parser.add_argument(
        '--metric',
        nargs='+',
        action='extend',
        default=[],
        type=metric,
        metavar='NAME=VALUE',
        help='scores for the card, beside those of the validation at this checkpoint in the logs of its run',
    )
    parser.add_argument('--license', default='other', help="identifier of the license (default: '%(default)s')")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.errors import short_user_errors
    from mmfreq.zoo.publish import publish

    with short_user_errors():
        folder = publish(args.checkpoint, args.out, args.config, args.name, args.arch, args.ema, dict(args.metric), args.license)
    print(f'wrote {folder}')


if __name__ == '__main__':
    main()
