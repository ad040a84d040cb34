"""Everything of a training run but the training: `tools/train.py --dry-run`."""

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.hooks import Hook
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmfreq.config.reading import absolute
from mmfreq.engine.launch import build_runner, prepare_train
from mmfreq.engine.resume.data_order import SeededDataset
from mmfreq.log import process_rank
from mmfreq.preflight.report import Report
from mmfreq.preflight.resources import batch_size


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


# What a run would do, as a table.


def print_summary(runner, report, work_dir):
    """Print what the checks saw of a built run, and what they warn of."""
    console = Console()
    console.print(_data_table(runner, report))
    facts = Table(show_header=False)
    for name, fact in {**schedule(runner), 'work directory': f'{absolute(work_dir)}', **report.facts}.items():
        facts.add_row(name, Text(fact))
    console.print(facts)
    for message in report.warnings:
        console.print(f'warning: {message}', markup=False)
    console.print('Dry run: everything was built, nothing was trained, and nothing was written.')


def _data_table(runner, report):
    table = Table('data', 'type', 'pictures', 'classes', 'read per iteration')
    for name in ('train', 'val'):
        loop = getattr(runner, f'_{name}_loop')
        if loop is None:
            continue
        dataset = loop.dataloader.dataset
        dataset = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
        seen = [pictures for key, pictures in report.data.items() if key.startswith(f'{name}_dataloader')]
        left_out = sum(pictures.total - pictures.kept for pictures in seen)
        count = f'{len(dataset)}' + (f' ({left_out} left out)' if left_out else '')
        classes = len((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
        table.add_row(
            name, type(dataset).__name__, count, str(classes or '?'), str(runner.cfg[f'{name}_dataloader'].get('batch_size', '?'))
        )
    return table


def schedule(runner):
    """The model and the length of the training, as words."""
    loop = runner.train_loop
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    batch = batch_size(runner.cfg)
    accumulated = (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts') or 1
    steps = f'{batch * runner.world_size} pictures ({runner.world_size} x {batch})' + (
        f' x {accumulated}' if accumulated > 1 else ''
    )
    done = f', {loop.iter} done' if loop.iter else ''
    return {
        'model': f'{type(runner.model).__name__}, {parameters / 1e6:.1f} M parameters',
        'training': f'{loop.max_iters} iterations{done} of {steps}; {len(runner.train_dataloader)} are an epoch',
    }
