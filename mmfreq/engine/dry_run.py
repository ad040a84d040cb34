"""Everything of a training run but the training: `tools/train.py --dry-run`."""

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.hooks import Hook

from mmfreq.engine.launch import build_runner, prepare_train
from mmfreq.engine.notes import process_rank
from mmfreq.engine.preflight.report import Report
from mmfreq.engine.preflight.summary import print_summary


class TrainingWouldBegin(Exception):
    """Everything is built, and the first iteration is next."""


class StopHook(Hook):
    """Ends a run where the training loop begins."""

    def before_train(self, runner):
        raise TrainingWouldBegin


def dry_run(config, **options):
    """Check and build a training run as `launch.train` does, print a summary, and stop before the first iteration.

    Model, data loaders, optimizer and hooks are built, and the checkpoint is loaded. The work directory is neither made nor
    written to; what a Runner writes goes into a folder that is then removed, and trackers on other machines are not told.

    Args:
        **options: as in `launch.prepare_train`, with its errors.
    """
    report = Report()
    cfg = prepare_train(config, report=report, **options)
    work_dir = cfg.work_dir
    with _written_nowhere(cfg):
        runner = build_runner(cfg)
        runner.register_hook(StopHook(), priority='HIGHEST')
        with suppress(TrainingWouldBegin):
            runner.train()
        if process_rank() == 0:
            print_summary(runner, report, work_dir)


@contextmanager
def _written_nowhere(cfg):
    """The config with another work directory and a local visualizer, while the run is built."""
    with tempfile.TemporaryDirectory(prefix='mmfreq-dry-run-') as folder:
        cfg.work_dir = str(Path(folder) / Path(cfg.work_dir).name)
        if cfg.get('visualizer'):
            cfg.visualizer.vis_backends = [{'type': 'LocalVisBackend'}]
        yield
