"""Train a segmentation, detection or classification config."""

import argparse

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def parse_args(argv=None):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<name of the config>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CKPT',
        help='go on from this checkpoint, or without a path from the latest whole one in the work directory; '
        "'auto': the latest if there is one, else from the start",
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision; needs an accelerator')
    parser.add_argument('--seed', type=int, help='seed of every random generator; default: drawn, and logged')
    parser.add_argument(
        '--dry-run', action='store_true', help='check and build everything, print a summary, train and write nothing'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='values to override')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by old launchers; not used')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.engine.dry_run import dry_run
    from mmfreq.engine.launch import train
    from mmfreq.errors import short_user_errors

    options = ('work_dir', 'resume', 'amp', 'launcher', 'seed', 'cfg_options')
    with short_user_errors():
        (dry_run if args.dry_run else train)(args.config, **{name: getattr(args, name) for name in options})


if __name__ == '__main__':
    main()
