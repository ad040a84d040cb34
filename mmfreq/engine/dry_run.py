"""`tools/train.py --dry-run`: check and build a training run, and print a summary of it."""

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmfreq.config.reading import absolute
from mmfreq.engine.launch import build_runner, prepare_train
from mmfreq.engine.resume.data_order import SeededDataset
from mmfreq.log import process_rank
from mmfreq.preflight.report import Report
from mmfreq.preflight.resources import batch_size


def dry_run(config, **options):
    """Check and build a training run as `launch.train` does, print a summary, and stop before the first iteration.

    Model, data loaders, optimizer and hooks are built, and the checkpoint is loaded. The work directory is not written to: the
    Runner's files go into a temporary folder, and remote visualization backends are left out.

    Args:
        **options: as in `launch.prepare_train`, with its errors.
    """
    report = Report()
    cfg = prepare_train(config, report=report, **options)
    work_dir = cfg.work_dir
    with _temporary_output(cfg):
        runner = build_runner(cfg)
        runner.register_hook(_StopBeforeTraining(), priority='HIGHEST')
        with suppress(_TrainingReached):
            runner.train()
        if process_rank() == 0:
            print_summary(runner, report, work_dir)


class _TrainingReached(Exception):
    """Everything is built, and the first iteration is next."""


class _StopBeforeTraining(Hook):
    def before_train(self, runner):
        raise _TrainingReached


@contextmanager
def _temporary_output(cfg):
    """Give the config a temporary work directory and a local visualizer while the run is built."""
    with tempfile.TemporaryDirectory(prefix='mmfreq-dry-run-') as folder:
        cfg.work_dir = str(Path(folder) / Path(cfg.work_dir).name)
        if cfg.get('visualizer'):
            cfg.visualizer.vis_backends = [{'type': 'LocalVisBackend'}]
        yield


def print_summary(runner, report, work_dir):
    """Print the data, schedule and facts of a built run, and the warnings of the checks."""
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
    table = Table('data', 'type', 'images', 'classes', 'read per iteration')
    for name in ('train', 'val'):
        loop = getattr(runner, f'_{name}_loop')
        if loop is None:
            continue
        dataset = loop.dataloader.dataset
        dataset = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
        counts = [images for key, images in report.data.items() if key.startswith(f'{name}_dataloader')]
        skipped = sum(images.total - images.kept for images in counts)
        count = f'{len(dataset)}' + (f' ({skipped} skipped)' if skipped else '')
        classes = len((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
        batch = runner.cfg[f'{name}_dataloader'].get('batch_size', '?')
        table.add_row(name, type(dataset).__name__, count, str(classes or '?'), str(batch))
    return table


def schedule(runner):
    """The model and the length of the training, as text."""
    loop = runner.train_loop
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    batch, processes = batch_size(runner.cfg), runner.world_size
    model = getattr(runner.model, 'module', runner.model)
    epoch = len(runner.train_dataloader)
    if not isinstance(loop, EpochBasedTrainLoop):  # its endless sampler counts the images of all processes
        epoch = -(-epoch // processes)
    accumulated = (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts') or 1
    images = f'{batch * processes} images ({processes} x {batch})' + (f' x {accumulated}' if accumulated > 1 else '')
    done = f', {loop.iter} done' if loop.iter else ''
    return {
        'model': f'{type(model).__name__}, {parameters / 1e6:.1f} M parameters',
        'training': f'{loop.max_iters} iterations{done} of {images}; {epoch} are an epoch',
    }
