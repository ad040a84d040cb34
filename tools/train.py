"""Train a segmentation, detection or classification config."""

import argparse

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext if there is no compiled mmcv)


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
        help='resume from this checkpoint; without a path, from the latest complete one in the work directory; '
        "'auto': from the latest one, or from scratch if there is none",
    )
    parser.add_argument(
        '--from-scratch', action='store_true', help='start from random values, whatever pretrained weights the config names'
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision; needs an accelerator')
    parser.add_argument('--seed', type=int, help='seed of all random generators; default: a random one, which is logged')
    parser.add_argument(
        '--dry-run', action='store_true', help='check and build everything and print a summary; do not train or write anything'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='config values to override')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by old launchers; ignored')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.engine.dry_run import dry_run
    from mmfreq.engine.launch import train
    from mmfreq.engine.processes import group_closed_at_exit
    from mmfreq.errors import short_user_errors

    options = ('work_dir', 'resume', 'from_scratch', 'amp', 'launcher', 'seed', 'cfg_options')
    with group_closed_at_exit(), short_user_errors():
        (dry_run if args.dry_run else train)(args.config, **{name: getattr(args, name) for name in options})


if __name__ == '__main__':
    main()
