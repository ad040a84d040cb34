"""Which samples a run sees, and with which random numbers: a function of the seed and the place in the order, of nothing else.

mmengine seeds the workers once, so that a sample's augmentation depends on all that its worker did before: on the number of
workers, of processes and of restarts. Here every sample is seeded by its place in the order of all processes together, so that
a resumed run goes on exactly where the first one stopped without reading anything twice, and one process with a batch of 16 sees
what 8 processes with a batch of 2 see.
"""

import random
from contextlib import contextmanager

import numpy as np
import torch


class SampleIndex(int):
    """The index of a sample, with its place in the order: `epoch`, and `position` among the samples of all processes."""

    def __new__(cls, index, epoch, position):
        set_data_order = super().__new__(cls, index)
        set_data_order.epoch, set_data_order.position = epoch, position
        return set_data_order

    def __getnewargs__(self):
        return int(self), self.epoch, self.position


def seed_everything(*key):
    """Seed Python, NumPy and torch (all devices) by a tuple of non-negative integers."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


@contextmanager
def seeded(*key):
    """Python, NumPy and torch's CPU generator seeded by a tuple of integers inside, and as they were before afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.random.default_generator.manual_seed(int(seeds[2]))  # torch.manual_seed would seed GPUs too, which workers must not touch
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)


class SeededDataset(torch.utils.data.Dataset):
    """A dataset whose samples are seeded by their `Place`; everything else is asked of, and set on, the dataset inside."""

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
        if name in ('dataset', 'seed') or name.startswith('__'):  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name, value):
        setattr(self.dataset, name, value)


class SeededBatchSampler:
    """A batch sampler whose indices are `Place`s, and that can be begun in the middle.

    Args:
        batches: a batch sampler; of this process, where there are several.
        rank, world_size: mmengine's samplers give process `rank` every `world_size`-th index.
    """

    def __init__(self, batches, rank, world_size):
        self.batches, self.rank, self.world_size = batches, rank, world_size
        self.epoch = 0
        self._begun = None

    def __len__(self):
        return len(self.batches)

    def __getattr__(self, name):
        if name.startswith('_') or name == 'batches':
            raise AttributeError(name)
        return getattr(self.batches, name)  # `sampler`, `batch_size`, `drop_last`

    def begin(self, epoch, skip=0):
        """Set the epoch, and go past its first batches without reading their samples.

        Returns:
            How many were passed: fewer than `skip` where the epoch ended before.
        """
        self.epoch = epoch
        set_epoch = getattr(getattr(self.batches, 'sampler', None), 'set_epoch', None)
        if set_epoch:
            set_epoch(epoch)
        self._begun = self._placed()
        return sum(1 for _, _ in zip(range(skip), self._begun))

    def __iter__(self):
        # a generator, so that what was begun goes to the first iterator that is used: torch makes two and drops one
        begun, self._begun = self._begun, None
        yield from begun if begun is not None else self._placed()

    def _placed(self):
        before = 0
        for batch in self.batches:
            yield [SampleIndex(index, self.epoch, (before + i) * self.world_size + self.rank) for i, index in enumerate(batch)]
            before += len(batch)


def set_data_order(loader, seed, rank=0, world_size=1):
    """Put `PlacedBatches` and a `SeededDataset` into a DataLoader that has not been iterated yet.

    Returns:
        Whether it could be done: not for a loader without a batch sampler (batch_size=None, iterable datasets).
    """
    if loader.batch_sampler is None:
        return False
    # torch forbids to set these on a finished loader; a new one in its place would lose `batch_size`, `sampler` and its class
    vars(loader).update(
        dataset=SeededDataset(loader.dataset, seed), batch_sampler=SeededBatchSampler(loader.batch_sampler, rank, world_size)
    )
    return True


def batches_of_epoch(loader, epoch, skip=0):
    """Yield the batches of one epoch of a placed loader, without its first `skip` ones."""
    loader.batch_sampler.begin(epoch, skip)
    yield from iterate_batches(loader)


def iterate_batches(loader):
    """Yield the batches of a loader; its workers end at once where this is closed early or a worker fails.

    Left to Python's collector of garbage, which may close their queues first, ending takes torch 5 to 10 s for each worker.
    """
    batches = iter(loader)
    try:
        yield from batches
    except BaseException:
        getattr(batches, '_shutdown_workers', lambda: None)()
        raise


def endless_batches(loader, skip=0):
    """Yield the batches of a placed loader for ever, epoch after epoch, without the first `skip` ones of all.

    Raises:
        ValueError: the loader has no batches.
    """
    epoch = 0
    while True:
        passed = loader.batch_sampler.begin(epoch, skip)
        if passed == skip:
            count = 0
            for count, batch in enumerate(iterate_batches(loader), 1):  # noqa: B007  (its last value is asked for)
                yield batch
            passed += count
        if not passed:
            raise ValueError(f'the training data have no batches: {len(loader.dataset)} samples in batches of {loader.batch_size}')
        skip = max(skip - passed, 0)
        epoch += 1
