"""Predict for images with a trained model, and draw the result: masks, overlays and panels, or boxes and JSON.

Examples:
  python tools/infer.py CONFIG CHECKPOINT photo.jpg folder/ 'more/*.png' --out results
  python tools/infer.py CONFIG CHECKPOINT data/images/validation --truth data/annotations/validation
"""

import argparse
import sys
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if there is no compiled mmcv)


def parse_args(argv=None):
    import torch
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a segmentation (mmseg) or detection (mmdet) config')
    parser.add_argument('checkpoint', help='a checkpoint with every weight of the model')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, folder of images, or quoted glob')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/infer'), help='output folder (default: %(default)s)')
    parser.add_argument('--truth', type=Path, help='folder of label maps named as the images; draws comparisons with them')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--opacity', type=float, default=0.5, help='opacity of the colors, 0 to 1 (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score that is drawn (default: %(default)s)')
    parser.add_argument('--plain', action='store_true', help='run the model itself, not its copy by mmfreq.optimize')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='config values to override')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from rich.progress import track

    from mmfreq.analysis.images import find_images
    from mmfreq.analysis.predictions import write_predictions
    from mmfreq.apis import load_predictor
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        images = find_images(args.inputs)
        predictor = load_predictor(args.config, args.checkpoint, args.device, args.cfg_options, args.plain)
        results = write_predictions(predictor, images, args.out, args.truth, args.opacity, args.score_thr)
        results = list(track(results, description='infer', total=len(images)))
    problems = [result.problem for result in results if result.problem]
    drawn = [file for result in results for file in result.files[::-1] if file.suffix == '.png']
    print(f'{sum(bool(result.files) for result in results)} of {len(images)} images done, results in {args.out}')
    if drawn:
        print(f'for example {drawn[0]}')
    if problems:
        sys.exit('\n'.join([f'error: {len(problems)} of {len(images)} images have a problem:', *problems]))


if __name__ == '__main__':
    main()
