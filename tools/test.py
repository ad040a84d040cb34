"""Evaluate a checkpoint of a segmentation, detection or classification config."""

import argparse

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if there is no compiled mmcv)


def parse_args(argv=None):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--work-dir', help='folder for logs; default: work_dirs/<name of the config>/test')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation by tta_model and tta_pipeline of the config')
    parser.add_argument('--out', metavar='DIR', help='write predictions here: label PNGs, or predictions.pkl and COCO JSON')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions on the images and save them here')
    parser.add_argument(
        '--baseline', action='store_true', help='segmentation: print class IoUs beside those of the best constant prediction'
    )
    parser.add_argument('--plain', action='store_true', help='test the model itself, not its copy by mmfreq.optimize')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='config values to override')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by old launchers; ignored')
    return parser.parse_args(argv)


def print_comparison(comparison):
    from rich.console import Console
    from rich.table import Table

    table = Table('class', title='IoU by class, %')
    for column in ('IoU', 'constant predictor'):
        table.add_column(column, justify='right')
    for name, *values in comparison.rows():
        table.add_row(name, *('-' if value != value else f'{value:.2f}' for value in values))
    Console().print(table)
    print(comparison.summary())


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.engine.baseline import evaluate_with_baseline
    from mmfreq.engine.launch import evaluate
    from mmfreq.errors import short_user_errors

    options = {name: getattr(args, name) for name in ('work_dir', 'tta', 'out', 'show_dir', 'launcher', 'cfg_options', 'plain')}
    with short_user_errors():
        if not args.baseline:
            evaluate(args.config, args.checkpoint, **options)
            return
        _, comparison = evaluate_with_baseline(args.config, args.checkpoint, **options)
    if comparison:
        print_comparison(comparison)


if __name__ == '__main__':
    main()
