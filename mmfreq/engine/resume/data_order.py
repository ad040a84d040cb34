"""Which samples a run sees, and with which random numbers: a function of the seed and the position in the order only.

mmengine seeds the workers once, so that a sample's augmentation depends on what its worker did before: on the number of workers,
processes and restarts. Here every sample is seeded by its position in the order of all processes together. So a resumed run
continues where the first one stopped, without reading earlier samples, and one process with a batch of 16 sees the samples that 8
processes with a batch of 2 see. Samplers that draw from the global generators, such as mmdet's GroupMultiSourceSampler, get a
stream of their own. Not covered are transforms that keep images of earlier samples (`caching_transforms` in `loops.py`).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch


def set_data_order(loader, seed, rank=0, world_size=1):
    """Put a `SeededBatchSampler` and a `SeededDataset` into a DataLoader that has not been iterated yet.

    Returns:
        Whether it was possible: not for a loader without a batch sampler (batch_size=None, iterable datasets).
    """
    if loader.batch_sampler is None:
        return False
    # torch forbids setting these on a DataLoader; a new one would lose `batch_size`, `sampler` and its class
    vars(loader).update(
        dataset=SeededDataset(loader.dataset, seed), batch_sampler=SeededBatchSampler(loader.batch_sampler, seed, rank, world_size)
    )
    return True


def batches_of_epoch(loader, epoch, skip=0):
    """Yield the batches of one epoch of an ordered loader (`set_data_order`), without its first `skip` ones."""
    loader.batch_sampler.begin(epoch, skip)
    yield from iterate_batches(loader)


def endless_batches(loader, skip=0):
    """Yield the batches of an ordered loader, epoch after epoch without end, and without the first `skip` batches of all.

    Raises:
        ValueError: the loader has no batches.
    """
    epoch = 0
    while True:
        passed = loader.batch_sampler.begin(epoch, skip)
        if passed == skip:
            for batch in iterate_batches(loader):
                passed += 1
                yield batch
        if not passed:
            raise ValueError(f'the training data have no batches: {len(loader.dataset)} samples in batches of {loader.batch_size}')
        skip = max(skip - passed, 0)
        epoch += 1


def iterate_batches(loader):
    """Yield the batches of a loader; shut its workers down at once if the generator is closed early or a worker fails.

    Python's garbage collector may close the workers' queues first; the shutdown then takes torch 5 to 10 s for each worker.
    """
    batches = iter(loader)
    try:
        yield from batches
    except BaseException:
        getattr(batches, '_shutdown_workers', lambda: None)()
        raise


class SampleIndex(int):
    """The index of a sample, with its place in the order: `epoch`, and `position` among the samples of all processes."""

    def __new__(cls, index, epoch, position):
        self = super().__new__(cls, index)
        self.epoch, self.position = epoch, position
        return self

    def __getnewargs__(self):
        return int(self), self.epoch, self.position


class SeededDataset(torch.utils.data.Dataset):
    """A dataset that seeds the random generators for each `SampleIndex`; other attributes are those of the wrapped dataset."""

    def __init__(self, dataset, seed):
        self.__dict__.update(dataset=dataset, seed=seed)

    def __getitem__(self, index):
        if not isinstance(index, SampleIndex):
            return self.dataset[index]
        with seeded(self.seed, index.epoch, index.position):
            return self.dataset[int(index)]

    def __len__(self):
        return len(self.dataset)

    def __getattr__(self, name):
        if name in ('dataset', 'seed') or name.startswith('__'):  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name, value):
        setattr(self.dataset, name, value)


class SeededBatchSampler:
    """A batch sampler whose indices are `SampleIndex`es, and that can start in the middle of an epoch.

    Args:
        batches: the batch sampler of this process.
        seed: of the samplers that draw from the global generators, which get the same numbers in all processes.
        rank, world_size: mmengine's samplers give process `rank` every `world_size`-th index.
    """

    def __init__(self, batches, seed, rank, world_size):
        self.batches, self.seed, self.rank, self.world_size = batches, seed, rank, world_size
        self.epoch = 0
        self._begun = None

    def __len__(self):
        return len(self.batches)

    def __getattr__(self, name):
        if name.startswith('_') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)  # `sampler`, `batch_size`, `drop_last`

    def begin(self, epoch, skip=0):
        """Set the epoch, and skip its first batches without reading their samples.

        Returns:
            The number of skipped batches: fewer than `skip` if the epoch is shorter.
        """
        self.epoch = epoch
        set_epoch = getattr(getattr(self.batches, 'sampler', None), 'set_epoch', None)
        if set_epoch:
            set_epoch(epoch)
        self._begun = SeededDraws(self.batches, self.seed, epoch)
        return self._begun.skip(skip)

    def __iter__(self):
        # a generator, so that the first iterator that is used continues what `begin` started: torch makes two and drops one
        draws, self._begun = self._begun or SeededDraws(self.batches, self.seed, self.epoch), None
        before = draws.skipped_samples
        for batch in draws:
            yield [SampleIndex(index, self.epoch, (before + i) * self.world_size + self.rank) for i, index in enumerate(batch)]
            before += len(batch)


class SeededDraws(Iterator):
    """The batches of one epoch of a batch sampler, drawn with their own state of the global random generators."""

    def __init__(self, batches, seed, epoch):
        self.batches = iter(batches)
        self.skipped_samples = 0
        with seeded(seed, epoch, 0, 1):  # not the key of a sample
            self.state = _random_state()

    def __next__(self):
        with self._own_state():
            return next(self.batches)

    def skip(self, count):
        """Draw some batches and drop them; returns how many there were."""
        with self._own_state():
            lengths = [len(batch) for batch in islice(self.batches, count)]
        self.skipped_samples += sum(lengths)
        return len(lengths)

    @contextmanager
    def _own_state(self):
        others = _random_state()
        _set_random_state(self.state)
        try:
            yield
        finally:
            self.state = _random_state()
            _set_random_state(others)


def seed_everything(*key):
    """Seed Python, NumPy and torch (all devices) with a tuple of non-negative integers."""
    _seed(key, torch.manual_seed)


@contextmanager
def seeded(*key):
    """Seed Python, NumPy and torch's CPU generator with a tuple of integers inside the context, and restore them after it."""
    state = _random_state()
    _seed(key, torch.random.default_generator.manual_seed)  # torch.manual_seed would seed GPUs too, which workers must not touch
    try:
        yield
    finally:
        _set_random_state(state)


def _random_state():
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state()


def _set_random_state(state):
    python, numpy, cpu = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.random.set_rng_state(cpu)


def _seed(key, seed_torch):
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    seed_torch(int(seeds[2]))
