"""mmengine's CheckpointHook, made safe against a process that dies on the way: write whole files, and remove old ones last."""

import logging
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook

from mmfreq.config.reading import absolute, is_remote
from mmfreq.engine.resume.atomic_files import ATOMIC, remove_parts, write_atomically
from mmfreq.log import log_once
from mmfreq.registry import HOOKS

INTERRUPTED = 'interrupted_iter_{}.pth'
OUTDATED = 'outdated_ckpts'  # what a checkpoint that is being written makes superfluous; kept in the checkpoint itself
NOTE = 'last_checkpoint'  # mmengine's name of the file that names the latest checkpoint


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """Arguments as in mmengine's. What differs, on a local file system:

    - a checkpoint is written to a temporary name and renamed, so that a file of its name is whole;
    - outdated checkpoints, and the best one before a better one, are removed after the new one is there, where mmengine removes
      them before: for a moment there is one more than `max_keep_ckpts`.
    """

    def before_train(self, runner):
        folder = self.out_dir or runner.work_dir
        self.local = not is_remote(folder) and self.file_client_args is None
        if self.local and self.backend_args is None:
            self.backend_args = {'backend': ATOMIC}
        super().before_train(runner)
        if self.local and is_main_process() and absolute(self.out_dir).is_dir():
            for name in remove_parts(self.out_dir):
                log_once(
                    f'{name} in {self.out_dir}, half of a checkpoint that was being written, was removed.', level=logging.WARNING
                )
            self._remove_outdated(runner)
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not self.by_epoch and self.interval % counts:
            log_once(
                f'Checkpoints are made every {self.interval} iterations and gradients applied every {counts}: a run resumed from '
                f'between loses the gradients of up to {counts - 1} iterations. Make the interval a multiple of {counts}.',
                level=logging.WARNING,
            )

    def save_interrupted(self, runner, meta):
        """Save a run that is about to stop, beside the regular checkpoints; the next regular one makes it superfluous.

        Args:
            meta: `iter` and `epoch` that are done.

        Returns:
            The path.
        """
        path = self.file_backend.join_path(self.out_dir, INTERRUPTED.format(meta['iter']))
        runner.save_checkpoint(
            self.out_dir, INTERRUPTED.format(meta['iter']), meta=dict(meta), by_epoch=False, backend_args=self.backend_args
        )
        if is_main_process():
            write_atomically(absolute(runner.work_dir) / NOTE, path.encode())
        return path

    def _save_checkpoint_with_step(self, runner, step, meta):
        with self._removals_last(runner):
            super()._save_checkpoint_with_step(runner, step, meta)
        if self.local and is_main_process():
            for path in absolute(self.out_dir).glob(INTERRUPTED.format('*')):
                path.unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner, metrics):
        with self._removals_last(runner):
            super()._save_best_checkpoint(runner, metrics)

    def _remove_outdated(self, runner):
        """What a run was killed before it could remove."""
        needed = {Path(path).name for path in (runner._load_from, *self._best_paths()) if path}
        for name in {Path(path).name for path in runner.message_hub.runtime_info.get(OUTDATED, [])} - needed:
            (absolute(self.out_dir) / name).unlink(missing_ok=True)

    def _best_paths(self):
        return [*getattr(self, 'best_ckpt_path_dict', {}).values(), getattr(self, 'best_ckpt_path', None)]

    @contextmanager
    def _removals_last(self, runner):
        """Let mmengine's code run, and remove what it wanted removed after it has saved; nothing where saving failed."""
        backend, self.file_backend = self.file_backend, _Deferred(self.file_backend, runner.message_hub)
        deferred = self.file_backend
        try:
            yield
        finally:
            self.file_backend = backend
        for remove, path in deferred.removals:
            if path not in (self.last_ckpt, *self._best_paths()):  # written again under the same name
                remove(path)


class _Deferred:
    """A file backend that keeps what is to be removed in a list, and writes it down for a run that is resumed."""

    def __init__(self, backend, message_hub):
        self._backend, self._message_hub = backend, message_hub
        self.removals = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def remove(self, path):
        self._defer(self._backend.remove, path)

    def rmtree(self, path):
        self._defer(self._backend.rmtree, path)

    def _defer(self, remove, path):
        self.removals.append((remove, path))
        outer = getattr(self._backend, 'removals', [])  # the best checkpoint's, within which the latest is saved again
        self._message_hub.update_info(OUTDATED, [str(path) for _, path in (*outer, *self.removals)])
