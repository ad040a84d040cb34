"""What a run would do, as a table."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmfreq.engine.data_order import SeededDataset
from mmfreq.engine.paths import absolute
from mmfreq.engine.preflight.memory import batch_size


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
