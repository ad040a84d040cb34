"""A dry run builds and prints everything, and leaves nothing behind."""

import tempfile
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from mmfreq.engine.dry_run import dry_run, schedule
from mmfreq.engine.launch import train
from mmfreq.errors import CheckpointMismatchError, DataError


@pytest.fixture
def temporary(tmp_path, tmp_path_factory, monkeypatch):
    """The folder for temporary folders; that of torch's compiler, which is made once a process, is elsewhere."""
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path_factory.mktemp('inductor')))
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')


@pytest.mark.slow
def test_summary_is_printed_and_nothing_is_written(toy_config, tmp_path, temporary, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    dry_run(toy_config)
    printed = capsys.readouterr().out
    assert sorted(tmp_path.rglob('*')) == before
    rows = [' '.join(line.replace('│', ' ').split()) for line in printed.splitlines()]
    assert 'train ToyShapesDataset 8 6 2' in rows and 'val ToyShapesDataset 2 6 1' in rows
    assert 'training 2 iterations of 2 images (1 x 2); 4 are an epoch' in rows
    assert any(row.startswith('memory at least') for row in rows) and any('free at' in row for row in rows)
    assert any(row.startswith('versions') and 'torch' in row for row in rows)
    assert str(tmp_path / 'work_dirs' / 'toy') in printed and 'nothing was trained' in rows[-1]


@pytest.mark.slow
def test_resumed_run_is_loaded_and_unchanged(toy_config, trained, snapshot, temporary, capsys):
    before = snapshot(trained)
    dry_run(toy_config, work_dir=trained, resume='latest', cfg_options={'train_cfg.max_iters': 4})
    assert snapshot(trained) == before
    printed = ' '.join(capsys.readouterr().out.split())
    assert '4 iterations, 2 done' in printed and 'resumed: fits the model' in printed


@pytest.mark.slow
def test_training_after_a_dry_run(toy_config, tmp_path, temporary):
    dry_run(toy_config, work_dir=tmp_path / 'w')
    assert not (tmp_path / 'w').exists()
    runner = train(toy_config, work_dir=tmp_path / 'w')
    assert runner.iter == 2 and (tmp_path / 'w' / 'iter_2.pth').is_file()


def test_errors_end_the_dry_run(toy_config, trained, temporary):
    with pytest.raises(DataError, match='gone'):
        dry_run(toy_config, cfg_options={'train_dataloader.dataset.data_root': '/gone'})
    with pytest.raises(CheckpointMismatchError):
        dry_run(toy_config, resume=str(trained / 'iter_2.pth'), cfg_options={'model.decode_head.channels': 8})
    with pytest.raises(ValueError, match='hornet-mikro'):
        dry_run(toy_config, cfg_options={'model.backbone.arch': 'hornet-mikro'})
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(('loop', 'sampler'), [(EpochBasedTrainLoop, DefaultSampler), (IterBasedTrainLoop, InfiniteSampler)])
def test_the_iterations_of_an_epoch_are_those_of_one_of_several_processes(loop, sampler, monkeypatch):
    """16 images, 2 processes with 2 images each."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, 2))
    loader = DataLoader(range(16), batch_size=2, sampler=sampler(range(16)))
    run = loop.__new__(loop)
    run._max_iters, run._iter = 9, 0
    model = SimpleNamespace(module=torch.nn.Linear(1, 1), parameters=lambda: [])  # wrapped, as DistributedDataParallel does
    cfg = Config(dict(train_dataloader=dict(batch_size=2)))
    facts = schedule(SimpleNamespace(train_loop=run, train_dataloader=loader, model=model, world_size=2, cfg=cfg))
    assert facts['training'] == '9 iterations of 4 images (2 x 2); 4 are an epoch' and facts['model'].startswith('Linear,')
