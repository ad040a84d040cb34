"""Draws what a trained model sees: pictures in; masks, overlays, panels beside the truth, or boxes and JSON out.

Examples:
  python tools/infer.py CONFIG CHECKPOINT photo.jpg folder/ 'more/*.png' --out results
  python tools/infer.py CONFIG CHECKPOINT data/images/validation --truth data/annotations/validation
"""

import argparse
import sys
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def parse_args(argv=None):
    import torch
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a segmentation (mmseg) or detection (mmdet) config')
    parser.add_argument('checkpoint', help='the checkpoint trained with it; it must hold every weight of the model')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='picture, folder of pictures, or quoted glob')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/infer'), help='output folder (default: %(default)s)')
    parser.add_argument('--truth', type=Path, help='folder of label maps with the stems of the pictures; makes panels')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--opacity', type=float, default=0.5, help='of the colours, 0 to 1 (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score drawn (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='run the model as it is, without mmfreq.optimize')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='changes to the config')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from rich.progress import track

    from mmfreq.analysis.images import find_images
    from mmfreq.analysis.predictions import write_predictions
    from mmfreq.apis.inference import load_predictor
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        pictures = find_images(args.inputs)
        predictor = load_predictor(args.config, args.checkpoint, args.device, args.cfg_options, args.plain)
        results = write_predictions(predictor, pictures, args.out, args.truth, args.opacity, args.score_thr)
        results = list(track(results, description='infer', total=len(pictures)))
    problems = [result.problem for result in results if result.problem]
    drawn = [file for result in results for file in result.files[::-1] if file.suffix == '.png']
    print(f'{sum(bool(result.files) for result in results)} of {len(pictures)} pictures done, results in {args.out}')
    if drawn:
        print(f'look at {drawn[0]}')
    if problems:
        sys.exit('\n'.join([f'error: {len(problems)} of {len(pictures)} pictures have a problem:', *problems]))


if __name__ == '__main__':
    main()
