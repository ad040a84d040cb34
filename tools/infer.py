"""Predict for images and videos with a trained model: overlays, label maps and panels, or boxes and JSON.

Examples:
  python tools/infer.py CONFIG CHECKPOINT photo.jpg folder/ 'more/*.png' clip.mp4 --out results
  python tools/infer.py CONFIG CHECKPOINT data/images/validation --truth data/annotations/validation
  python tools/infer.py CONFIG CHECKPOINT aerial.tif --slide --save mask json
"""

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if there is no compiled mmcv)


def parse_args(argv=None):
    import torch
    from mmengine.config import DictAction

    from mmfreq.analysis.drawing import DRAWN_SCORE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a segmentation (mmseg) or detection (mmdet) config')
    parser.add_argument('checkpoint', help='a checkpoint with every weight of the model')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, video, folder (with its sub-folders), or quoted glob')
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/infer'),
        help='output folder; sub-folders as in the input (default: %(default)s)',
    )
    where.add_argument('--beside', action='store_true', help='write results next to each input, as NAME_pred*')
    parser.add_argument(
        '--save',
        nargs='+',
        choices=('overlay', 'mask', 'json', 'panel'),
        help='what to write: overlays; label maps (PNG), JSON, and panels of image, label map and prediction. Default: overlay '
        'and mask, with --truth panel; for detection overlay and json; for videos of segmentation overlay',
    )
    parser.add_argument('--truth', type=Path, help='folder of label maps named as the images; draws comparisons with them')
    parser.add_argument('--batch-size', type=int, default=1, help='images or frames of one size in a forward pass (default: 1)')
    parser.add_argument(
        '--slide',
        nargs='*',
        type=int,
        metavar='N',
        help='for large images (segmentation): windows at the resolution of the image. --slide CROP [STRIDE] in pixels; without '
        'numbers those of test_cfg, or else the training crop and 2/3 of it. Place it after the inputs',
    )
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--opacity', type=float, default=0.5, help='opacity of the colors, 0 to 1 (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=DRAWN_SCORE, help='lowest score that is drawn (default: %(default)s)')
    parser.add_argument(
        '--codec', default='mp4v', help='of written videos, four characters: mp4v, MJPG, ... (default: %(default)s)'
    )
    parser.add_argument('--plain', action='store_true', help='run the model itself, not its copy by mmfreq.optimize')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='config values to override')
    return parser.parse_args(argv)


@contextmanager
def progress_bars(total):
    """Bars of the files and of the frames of the current video: a function that tracks results, and one to report frames to."""
    from rich.progress import Progress

    with Progress() as bars:
        frames = bars.add_task('', visible=False)

        def report(path, done, count):
            bars.update(frames, description=path.name, completed=done, total=count or None, visible=True)

        yield lambda results: bars.track(results, total=total, description='infer'), report


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.analysis.inputs import find_inputs
    from mmfreq.analysis.predictions import write_predictions
    from mmfreq.analysis.run_report import report_run
    from mmfreq.apis import load_predictor
    from mmfreq.errors import short_user_errors

    out = None if args.beside else args.out
    with short_user_errors():
        found = find_inputs(args.inputs, out)
        predictor = load_predictor(args.config, args.checkpoint, args.device, args.cfg_options, args.plain, args.slide)
        options = {'save': args.save, 'opacity': args.opacity, 'score_thr': args.score_thr}
        options |= {'truth': args.truth, 'batch_size': args.batch_size, 'codec': args.codec}
        with progress_bars(len(found.inputs)) as (track, report):
            results = write_predictions(predictor, found.inputs, out, progress=report, **options)
            started = time.perf_counter()
            results = list(track(results))
    text, problems = report_run(results, found, time.perf_counter() - started, 'next to the inputs' if out is None else f'in {out}')
    print(text)
    if problems:
        sys.exit(problems)


if __name__ == '__main__':
    main()
