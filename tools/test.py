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
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation by tta_model and tta_pipeline of the config; for a detector of boxes without them, flips',
    )
    parser.add_argument('--out', metavar='DIR', help='write predictions here: label PNGs, or predictions.pkl and COCO JSON')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions on the images and save them here')
    parser.add_argument('--classwise', action='store_true', help='print the IoU or AP of each class')
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        '--plot-classes',
        action='store_true',
        help='--classwise, and save a chart of them as class_scores.png in the folder of --out or in the work directory',
    )
    classes.add_argument(
        '--baseline', action='store_true', help='segmentation: print class IoUs beside those of the best constant prediction'
    )
    parser.add_argument('--plain', action='store_true', help='test the model itself, not its copy by mmfreq.optimize')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='config values to override')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by old launchers; ignored')
    args = parser.parse_args(argv)
    if args.baseline and args.classwise:
        parser.error('argument --baseline: not allowed with argument --classwise')
    return args


def print_table(title, columns, rows, digits):
    """Print percentages: rows of (name, *values), NaN as '-'."""
    from rich.console import Console
    from rich.table import Table

    table = Table('class', title=title)
    for column in columns:
        table.add_column(column, justify='right')
    for name, *values in rows:
        table.add_row(name, *('-' if value != value else f'{value:.{digits}f}' for value in values))
    Console().print(table)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.engine.baseline import evaluate_with_baseline
    from mmfreq.engine.class_scores import evaluate_by_class
    from mmfreq.engine.launch import evaluate
    from mmfreq.engine.processes import group_closed_at_exit
    from mmfreq.errors import short_user_errors

    options = {name: getattr(args, name) for name in ('work_dir', 'tta', 'out', 'show_dir', 'launcher', 'cfg_options', 'plain')}
    with group_closed_at_exit(), short_user_errors():
        if args.baseline:
            _, comparison = evaluate_with_baseline(args.config, args.checkpoint, **options)
            if comparison:
                print_table('IoU by class, %', ('IoU', 'constant predictor'), comparison.rows(), digits=2)
                print(comparison.summary())
        elif args.classwise or args.plot_classes:
            _, scores = evaluate_by_class(args.config, args.checkpoint, plot=args.plot_classes, **options)
            if scores:
                rows = [*zip(scores[0].classes, *(score.values for score in scores)), ('mean', *(score.mean for score in scores))]
                print_table('Scores by class, %', [score.name for score in scores], rows, digits=1)
        else:
            evaluate(args.config, args.checkpoint, **options)


if __name__ == '__main__':
    main()
