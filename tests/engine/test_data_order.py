"""The order of the samples and their random numbers depend on the seed and the place alone."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader

from mmfreq.engine.resume import data_order
from mmfreq.engine.resume.data_order import SampleIndex, SeededDataset, endless_batches, seeded, set_data_order


class Draws(torch.utils.data.Dataset):
    """A sample is its index and one number of each generator that augmentations use."""

    metainfo = {'classes': ('one',)}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def loader(sampler, workers=0, batch_size=4, rank=0, world_size=1, **options):
    sampler.rank, sampler.world_size = rank, world_size
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()
    made = DataLoader(
        Draws(), batch_size, sampler=sampler, num_workers=workers, collate_fn=list, persistent_workers=workers > 0, **options
    )
    assert set_data_order(made, seed=3, rank=rank, world_size=world_size)
    return made


def infinite():
    return InfiniteSampler(Draws(), shuffle=True, seed=3)


def finite():
    return DefaultSampler(Draws(), shuffle=True, seed=3)


def first(batches, count):
    return [batch for _, batch in zip(range(count), batches)]


@pytest.mark.parametrize('sampler', [infinite, finite])
@pytest.mark.parametrize(('done', 'workers'), [*((done, 0) for done in (0, 1, 2, 3, 4, 8, 9)), (4, 2)])
def test_what_comes_after_a_restart_is_what_would_have_come(sampler, done, workers):
    whole = first(endless_batches(loader(sampler())), 12)
    assert first(endless_batches(loader(sampler(), workers), skip=done), 12 - done) == whole[done:]
    assert len({sample[1] for batch in whole for sample in batch}) == sum(map(len, whole))  # no number is drawn twice


def test_nothing_is_read_to_get_past_what_is_done(monkeypatch):
    made = loader(infinite())
    read = []
    monkeypatch.setattr(Draws, '__getitem__', lambda self, index: read.append(index) or index)
    next(endless_batches(made, skip=1000))
    assert len(read) == 4


def test_processes_see_what_one_process_sees():
    """Batch k of all processes together: the samples, and what they draw, of batch k of one process."""
    alone = first(endless_batches(loader(infinite(), batch_size=4)), 6)
    for world_size in (2, 4):
        ranks = [first(endless_batches(loader(infinite(), 0, 4 // world_size, r, world_size)), 6) for r in range(world_size)]
        together = [sorted(sample for batch in batches for sample in batch) for batches in zip(*ranks)]
        assert together == [sorted(batch) for batch in alone]


def test_the_models_generators_are_left_alone():
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


def test_a_batch_sampler_that_looks_into_the_data_set_still_can():
    """mmdet groups pictures by their shape: its batch sampler has `sampler.dataset` and `sampler.set_epoch`."""
    batches = BatchSampler(finite(), 4, drop_last=True)
    made = DataLoader(Draws(), batch_sampler=batches, collate_fn=list)
    assert set_data_order(made, seed=0)
    assert made.batch_sampler.sampler is batches.sampler and made.batch_sampler.drop_last is True
    assert len(made) == 2
    made.batch_sampler.begin(epoch=7)
    assert batches.sampler.epoch == 7


def test_the_data_set_is_seen_through_its_wrapper():
    inner = Draws()
    outer = SeededDataset(inner, 0)
    outer.pipeline = 'set by a hook'
    assert inner.pipeline == outer.pipeline == 'set by a hook' and outer.metainfo is inner.metainfo and len(outer) == 10
    assert not hasattr(outer, 'data_list')
    again = pickle.loads(pickle.dumps(outer))  # as workers that are spawned get it
    assert (
        again.pipeline == 'set by a hook'
        and again[SampleIndex(1, 0, 5)] == outer[SampleIndex(1, 0, 5)] != outer[SampleIndex(1, 1, 5)]
    )


def test_a_place_is_its_index():
    where = pickle.loads(pickle.dumps(SampleIndex(7, epoch=2, position=30)))
    assert where == 7 and [10, 11][where - 6] == 11 and (where.epoch, where.position) == (2, 30)


def test_a_loader_without_batches_is_refused():
    class Empty(Draws):
        def __len__(self):
            return 2

    made = DataLoader(Empty(), 4, drop_last=True)
    set_data_order(made, 0)
    with pytest.raises(ValueError, match=r'\b2 samples.*\b4\b'):
        next(endless_batches(made))


def test_what_has_no_batch_sampler_is_left_alone():
    made = DataLoader(Draws(), batch_size=None)
    assert not set_data_order(made, 0) and isinstance(made.dataset, Draws)


def test_seeding_everything_is_repeatable():
    draws = []
    for key in ((1, 2), (1, 2), (2, 1)):
        data_order.seed_everything(*key)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1] and all(a != b for a, b in zip(draws[0], draws[2]))
