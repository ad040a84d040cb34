"""mmengine's train loops, made to resume exactly and at once.

mmengine's iteration-based loop runs the whole data pipeline over everything that was trained before (hours for a late
checkpoint), its epoch-based loop begins the epoch anew, and neither restores the random generators. Here nothing needs to be
restored: data and model draw their numbers by the place in the run (`data_order.py`).
"""

import logging
from contextlib import closing
from functools import partial
from pathlib import Path

from mmengine.dist import broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.runner import loops as stock

from mmfreq.engine.resume.atomic_files import write_atomically
from mmfreq.engine.resume.data_order import batches_of_epoch, endless_batches, iterate_batches, seed_everything, set_data_order
from mmfreq.engine.resume.stop_signal import spare_first_signal, stop_if_requested
from mmfreq.log import log_once
from mmfreq.registry import LOOPS

VALIDATED = 'last_validation'  # in the work directory: the iteration whose validation was finished last


class _ResumableLoop:
    """What both loops share: placed data, seeded iterations, validation that an interruption cannot lose."""

    def __init__(self, runner, dataloader, *args, **kwargs):
        self.seed = _of_first_process(runner.seed)
        if isinstance(dataloader, dict):  # with the same seed in all processes, also where randomness.diff_rank_seed is set
            dataloader = runner.build_dataloader(dataloader, seed=self.seed)
        self.placed = set_data_order(dataloader, self.seed, get_rank(), get_world_size())
        dataloader.worker_init_fn = partial(spare_first_signal, dataloader.worker_init_fn)
        if not self.placed:
            log_once(
                'The training data come from a loader without a batch sampler: a resumed run will see others.', logging.WARNING
            )
        super().__init__(runner, _Unopened(dataloader), *args, **kwargs)
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
        """Validate, where a run was resumed that had stopped between a checkpoint and the end of its validation."""
        if self._iter and self.validation_is_due() and not _of_first_process(self._was_validated()):
            self.runner.logger.info(f'Iteration {self._iter} was due for validation, which was not finished: validating now.')
            self.validate()

    def _was_validated(self):
        try:
            return int((Path(self.runner.work_dir) / VALIDATED).read_text()) >= self._iter
        except (OSError, ValueError):
            return False


@LOOPS.register_module()
class IterBasedTrainLoop(_ResumableLoop, stock.IterBasedTrainLoop):
    """Arguments as in mmengine's. A resumed run goes on with the next batch, without reading the earlier ones.

    Workers start with the first iteration, where mmengine starts them with the loop, before the hooks have seen the data.
    """

    def run(self):
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        self.finish_validation()
        batches = endless_batches(self.dataloader, self._iter) if self.placed else self._after_skipping()
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
        """Whether the iterations that are done end in a validation."""
        regular = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        return self.runner.val_loop is not None and self._iter >= self.val_begin and regular

    def _after_skipping(self):
        batches = stock._InfiniteDataloaderIterator(self.dataloader)
        for _ in range(self._iter):
            next(batches)
        yield from batches


@LOOPS.register_module()
class EpochBasedTrainLoop(_ResumableLoop, stock.EpochBasedTrainLoop):
    """Arguments as in mmengine's. A run that stopped within an epoch goes on within it."""

    def run(self):
        self.runner.call_hook('before_train')
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
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._done_in_epoch() if self.placed else 0
        batches = batches_of_epoch(self.dataloader, self._epoch, done) if self.placed else iterate_batches(self.dataloader)
        with closing(batches):
            for index, batch in enumerate(batches, done):
                self.run_iter(index, batch)
                if index + 1 < len(self.dataloader):  # after the last one the regular checkpoint is made
                    stop_if_requested(self.runner)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        stop_if_requested(self.runner)

    def validation_is_due(self):
        """Whether the epochs that are done end in a validation."""
        regular = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        return self.runner.val_loop is not None and self._epoch >= self.val_begin and regular

    def _done_in_epoch(self):
        """Batches of the current epoch that are done; 0 where the epochs had another length when the checkpoint was made."""
        done = self._iter - self._epoch * len(self.dataloader)
        if 0 <= done < len(self.dataloader):
            return done
        log_once(
            f'{self._iter} iterations are done and {self._epoch} epochs of {len(self.dataloader)}: the epochs had another length '
            'before (batch size, processes or data). The current epoch begins anew.',
            logging.WARNING,
        )
        return 0


class _Unopened:
    """What mmengine's loops are shown as their loader: they iterate it at once, which starts workers and uses up indices."""

    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(())


def _of_first_process(value):
    """What the first process says, for all."""
    values = [value]
    broadcast_object_list(values)
    return values[0]
