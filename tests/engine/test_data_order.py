"""The order of the samples and their random numbers depend on the seed and the position only."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmfreq.engine.resume import data_order
from mmfreq.engine.resume.data_order import (
    SampleIndex,
    SeededDataset,
    endless_batches,
    seed_everything,
    seeded,
    set_data_order,
)


class Draws(torch.utils.data.Dataset):
    """A sample is its index and one number from each generator that augmentations use."""

    metainfo = {'classes': ('one',)}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def loader(sampler, workers=0, batch_size=4, rank=0, world_size=1, **options):
    sampler.rank, sampler.world_size = rank, world_size
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()
    built = DataLoader(
        Draws(), batch_size, sampler=sampler, num_workers=workers, collate_fn=list, persistent_workers=workers > 0, **options
    )
    assert set_data_order(built, seed=3, rank=rank, world_size=world_size)
    return built


def infinite():
    return InfiniteSampler(Draws(), shuffle=True, seed=3)


def finite():
    return DefaultSampler(Draws(), shuffle=True, seed=3)


def first(batches, count):
    return [batch for _, batch in zip(range(count), batches)]


@pytest.mark.parametrize('sampler', [infinite, finite])
@pytest.mark.parametrize(('done', 'workers'), [*((done, 0) for done in (0, 1, 2, 3, 4, 8, 9)), (4, 2)])
def test_restart_continues_the_order(sampler, done, workers):
    whole = first(endless_batches(loader(sampler())), 12)
    assert first(endless_batches(loader(sampler(), workers), skip=done), 12 - done) == whole[done:]
    assert len({sample[1] for batch in whole for sample in batch}) == sum(map(len, whole))  # all numbers differ


class Gambler(Sampler):
    """Draws every index from the global generators, as mmdet's GroupMultiSourceSampler draws its groups."""

    def __iter__(self):
        while True:
            yield int(10 * random.random()) ^ int(10 * np.random.rand()) & int(10 * torch.rand(())) % 10

    def __len__(self):
        return 10


@pytest.mark.parametrize('done', [0, 1, 2, 5, 11])
@pytest.mark.parametrize('workers', [0, 2])
def test_samplers_that_draw_from_the_global_generators_are_seeded(done, workers):
    def indices(skip, workers):
        seen = []
        for batch in first(endless_batches(loader(Gambler(), workers), skip), 12 - skip):
            seen.append([sample[0] for sample in batch])
            seed_everything(len(seen))  # as the loop does in every iteration
        return seen

    whole = indices(0, 0)
    assert indices(done, workers) == whole[done:] and len({tuple(batch) for batch in whole}) > 6
    random.seed(7)
    before = random.getstate()
    built = loader(Gambler())
    first(iter(built.batch_sampler), 3)
    assert random.getstate() == before  # other users of the generators are not disturbed


def test_skipped_samples_are_not_read(monkeypatch):
    built = loader(infinite())
    read = []
    monkeypatch.setattr(Draws, '__getitem__', lambda self, index: read.append(index) or index)
    next(endless_batches(built, skip=1000))
    assert len(read) == 4


def test_several_processes_see_the_samples_of_one():
    """Batch k of all processes together has the samples and random numbers of batch k of one process."""
    single = first(endless_batches(loader(infinite(), batch_size=4)), 6)
    for world_size in (2, 4):
        ranks = [first(endless_batches(loader(infinite(), 0, 4 // world_size, r, world_size)), 6) for r in range(world_size)]
        together = [sorted(sample for batch in batches for sample in batch) for batches in zip(*ranks)]
        assert together == [sorted(batch) for batch in single]


def test_seeded_restores_the_generators():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    with seeded(1, 2, 3):
        drawn = (torch.rand(1), np.random.rand(), random.random())
    assert (torch.rand(1), np.random.rand(), random.random()) == expected and drawn[1:] != expected[1:]


def test_batch_sampler_keeps_access_to_the_dataset():
    """mmdet groups images by their shape: its batch sampler has `sampler.dataset` and `sampler.set_epoch`."""
    batches = BatchSampler(finite(), 4, drop_last=True)
    built = DataLoader(Draws(), batch_sampler=batches, collate_fn=list)
    assert set_data_order(built, seed=0)
    assert built.batch_sampler.sampler is batches.sampler and built.batch_sampler.drop_last is True
    assert len(built) == 2
    built.batch_sampler.begin(epoch=7)
    assert batches.sampler.epoch == 7


def test_wrapper_forwards_attributes_to_the_dataset():
    inner = Draws()
    outer = SeededDataset(inner, 0)
    outer.pipeline = 'set by a hook'
    assert inner.pipeline == outer.pipeline == 'set by a hook' and outer.metainfo is inner.metainfo and len(outer) == 10
    assert not hasattr(outer, 'data_list')
    again = pickle.loads(pickle.dumps(outer))  # as for spawned workers
    assert (
        again.pipeline == 'set by a hook'
        and again[SampleIndex(1, 0, 5)] == outer[SampleIndex(1, 0, 5)] != outer[SampleIndex(1, 1, 5)]
    )


def test_sample_index_is_an_int():
    where = pickle.loads(pickle.dumps(SampleIndex(7, epoch=2, position=30)))
    assert where == 7 and [10, 11][where - 6] == 11 and (where.epoch, where.position) == (2, 30)


def test_loader_without_batches_is_an_error():
    class Empty(Draws):
        def __len__(self):
            return 2

    built = DataLoader(Empty(), 4, drop_last=True)
    set_data_order(built, 0)
    with pytest.raises(ValueError, match=r'\b2 samples.*\b4\b'):
        next(endless_batches(built))


def test_loader_without_batch_sampler_is_unchanged():
    built = DataLoader(Draws(), batch_size=None)
    assert not set_data_order(built, 0) and isinstance(built.dataset, Draws)


def test_seed_everything_is_repeatable():
    draws = []
    for key in ((1, 2), (1, 2), (2, 1)):
        data_order.seed_everything(*key)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1] and all(a != b for a, b in zip(draws[0], draws[2]))
