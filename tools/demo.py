"""Serve a local page that shows predictions of trained models on an image, and the filters they learned.

Examples:
  python tools/demo.py                                  checkpoints in work_dirs, where tools/train.py writes them
  python tools/demo.py CONFIG CHECKPOINT
  python tools/demo.py --models runs/one runs/two --port 0
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if mmcv is not compiled)


def parse_args(argv=None):
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', type=Path, help='a segmentation (mmseg) or detection (mmdet) config')
    parser.add_argument('checkpoint', nargs='?', type=Path, help='the checkpoint trained with it')
    parser.add_argument(
        '--models',
        nargs='+',
        type=Path,
        metavar='FOLDER',
        help='folders to search for checkpoints with their config beside them; configs are Python code, so give only folders '
        'that you trust (default: work_dirs, if no config is given)',
    )
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: %(default)s, this computer only)')
    parser.add_argument('--port', type=int, default=8000, help='port; 0 selects a free one (default: %(default)s)')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--max-side', type=int, default=1024, help='larger images are scaled down to it (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='do not use mmfreq.optimize')
    args = parser.parse_args(argv)
    if (args.config is None) != (args.checkpoint is None):
        parser.error('A config needs its checkpoint. Give both, or neither.')
    if args.max_side < 32:
        parser.error(f'--max-side must be at least 32, got {args.max_side}.')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.demo.server import serve
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        serve(
            config=args.config,
            checkpoint=args.checkpoint,
            folders=args.models,
            device=args.device,
            host=args.host,
            port=args.port,
            max_side=args.max_side,
            plain=args.plain,
        )


if __name__ == '__main__':
    main()
