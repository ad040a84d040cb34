"""mmengine's train loops, made to resume exactly and immediately.

mmengine's iteration-based loop runs the data pipeline over everything before the checkpoint (hours for a late one), its epoch-based
loop restarts the epoch, and neither restores the random generators. Here nothing has to be restored: the random numbers of data and
model depend on the position in the run only (`data_order.py`).
"""

import logging
from contextlib import closing
from functools import partial
from pathlib import Path

from mmengine.dist import broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.runner import loops as mmengine_loops

from mmfreq.config.reading import type_name
from mmfreq.engine.resume.atomic_files import write_atomically
from mmfreq.engine.resume.data_order import (
    batches_of_epoch,
    endless_batches,
    iterate_batches,
    seed_everything,
    set_data_order,
)
from mmfreq.engine.resume.stop_signal import ignore_first_sigterm, stop_if_requested
from mmfreq.log import log_once
from mmfreq.preflight.samples import dataset_tree, guards_kept
from mmfreq.registry import LOOPS

LOOP_NAMES = ('IterBasedTrainLoop', 'EpochBasedTrainLoop')
VALIDATED = 'last_validation'  # file in the work directory: the iteration whose validation was completed last


def make_resumable(cfg):
    """Replace mmengine's train loop and checkpoint hook in a Config by mmfreq's, which take the same arguments.

    Loops and hooks of other libraries stay; exact resuming (`docs/reliability.md`) is not guaranteed with them.
    """
    loop = cfg.get('train_cfg')
    if loop:
        if 'by_epoch' in loop:  # mmengine's shorthand for the type of the loop
            loop.type = LOOP_NAMES[bool(loop.pop('by_epoch'))]
        if _is_mmengine_type(loop.get('type'), LOOP_NAMES):
            loop.type = f'mmfreq.{type_name(loop.type)}'
    hooks = cfg.setdefault('default_hooks', {})
    checkpoint = hooks.setdefault('checkpoint', {'type': 'CheckpointHook', 'interval': 1})  # mmengine's default
    if checkpoint and _is_mmengine_type(checkpoint.get('type'), ('CheckpointHook',)):
        checkpoint['type'] = 'mmfreq.CheckpointHook'


def _is_mmengine_type(value, names):
    """Whether a `type=` is one of mmengine's classes: the bare name, the name with the scope, or the class."""
    if isinstance(value, str):
        return value in names or value in [f'mmengine.{name}' for name in names]
    return type_name(value) in names and value.__module__.startswith('mmengine.')


class _ResumableLoop:
    """Common to both loops: ordered data, seeded iterations, and a validation that an interruption does not lose."""

    def __init__(self, runner, dataloader, *args, **kwargs):
        self.seed = _from_first_process(runner.seed)
        if isinstance(dataloader, dict):  # with the same seed in all processes, also if randomness.diff_rank_seed is set
            dataloader = runner.build_dataloader(dataloader, seed=self.seed)
        self.ordered = set_data_order(dataloader, self.seed, get_rank(), get_world_size())
        dataloader.worker_init_fn = partial(ignore_first_sigterm, dataloader.worker_init_fn)
        if not self.ordered:
            log_once(
                'The training data come from a loader without a batch sampler: a resumed run will see other samples.',
                logging.WARNING,
            )
        if cached := caching_transforms(dataloader.dataset):
            log_once(
                f'{" and ".join(cached)} keep images of earlier samples: a resumed run, or one with another number of workers, '
                'combines other images. For exact resuming use the transform without a cache in MultiImageMixDataset.',
                logging.WARNING,
            )
        super().__init__(runner, _UnopenedLoader(dataloader), *args, **kwargs)
        self.dataloader = dataloader
        self.dataloader_iterator = None

    def run_iter(self, *args):
        seed_everything(self.seed, get_rank(), self._iter)
        super().run_iter(*args)

    def validate(self):
        self.runner.val_loop.run()
        if is_main_process():
            write_atomically(Path(self.runner.work_dir) / VALIDATED, str(self._iter).encode())

    def finish_validation(self):
        """Validate if the resumed run had stopped between a checkpoint and the end of its validation."""
        if self._iter and self.validation_is_due() and not _from_first_process(self._was_validated()):
            self.runner.logger.info(f'The validation of iteration {self._iter} was interrupted: validating now.')
            self.validate()

    def _was_validated(self):
        try:
            return int((Path(self.runner.work_dir) / VALIDATED).read_text()) >= self._iter
        except (OSError, ValueError):
            return False


@LOOPS.register_module()
class IterBasedTrainLoop(_ResumableLoop, mmengine_loops.IterBasedTrainLoop):
    """Train for a number of iterations; arguments as in mmengine's loop. A resumed run continues with the next batch.

    Workers start with the first iteration, after the hooks have seen the dataset; mmengine starts them with the loop.
    """

    def run(self):
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        self.finish_validation()
        batches = endless_batches(self.dataloader, self._iter) if self.ordered else self._skip_batches()
        with closing(batches):
            while self._iter < self._max_iters and not self.stop_training:
                runner.model.train()
                self.run_iter(next(batches))
                self._decide_current_val_interval()
                if self.validation_is_due():
                    self.validate()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def run_iter(self, data_batch):
        super().run_iter(data_batch)
        stop_if_requested(self.runner)

    def validation_is_due(self):
        """Whether a validation follows the iterations that are done."""
        regular = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        return self.runner.val_loop is not None and self._iter >= self.val_begin and regular

    def _skip_batches(self):
        batches = mmengine_loops._InfiniteDataloaderIterator(self.dataloader)
        for _ in range(self._iter):
            next(batches)
        yield from batches


@LOOPS.register_module()
class EpochBasedTrainLoop(_ResumableLoop, mmengine_loops.EpochBasedTrainLoop):
    """Train for a number of epochs; arguments as in mmengine's loop. A run that stopped within an epoch continues within it."""

    def run(self):
        self._call_hook('before_train')
        if self._done_in_epoch() == 0:
            self.finish_validation()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self.validation_is_due():
                self.validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self):
        self._call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._done_in_epoch() if self.ordered else 0
        batches = batches_of_epoch(self.dataloader, self._epoch, done) if self.ordered else iterate_batches(self.dataloader)
        with closing(batches):
            for index, batch in enumerate(batches, done):
                self.run_iter(index, batch)
                if index + 1 < len(self.dataloader):  # the regular checkpoint is saved after the last one
                    stop_if_requested(self.runner)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        stop_if_requested(self.runner)

    def validation_is_due(self):
        """Whether a validation follows the epochs that are done."""
        regular = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        return self.runner.val_loop is not None and self._epoch >= self.val_begin and regular

    def _call_hook(self, name):
        """Call a hook that may replace pipelines: mmdet's PipelineSwitchHook and mmpretrain's SwitchRecipeHook do so."""
        with guards_kept(self.dataloader.dataset):
            self.runner.call_hook(name)

    def _done_in_epoch(self):
        """Batches of the current epoch that are done; 0 if the epochs had another length when the checkpoint was saved."""
        done = self._iter - self._epoch * len(self.dataloader)
        if 0 <= done < len(self.dataloader):
            return done
        log_once(
            f'The checkpoint is from iteration {self._iter}, which does not match {self._epoch} epochs of {len(self.dataloader)} '
            'iterations: batch size, number of processes or data have changed. The current epoch restarts.',
            logging.WARNING,
        )
        return 0


def caching_transforms(dataset):
    """Names of the transforms in a dataset, and in the datasets inside of it, that keep images of earlier samples.

    They are mmdet's CachedMosaic and CachedMixUp: what they add to a sample is not a function of its position.
    """
    pipelines = [getattr(each, 'pipeline', None) for each in dataset_tree(dataset)]
    steps = [step for pipeline in pipelines for step in getattr(pipeline, 'transforms', pipeline) or ()]
    return list(dict.fromkeys(type(step).__name__ for step in steps if hasattr(step, 'results_cache')))


class _UnopenedLoader:
    """The loader that mmengine's constructors get: they iterate it at once, which would start workers and use up indices."""

    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(())


def _from_first_process(value):
    """The value of the first process, in all processes."""
    values = [value]
    broadcast_object_list(values)
    return values[0]
