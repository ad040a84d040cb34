"""mmengine's CheckpointHook, safe against a process that is killed: complete files only, and old ones are removed last."""

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
OUTDATED = 'outdated_ckpts'  # key in a checkpoint's runtime info: the checkpoints that it replaces
NOTE = 'last_checkpoint'  # mmengine's file with the path of the latest checkpoint


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """Save checkpoints; arguments as in mmengine's hook. The differences, on a local file system:

    - a checkpoint is written to a temporary name and then renamed, so that it is complete under its own name;
    - outdated checkpoints, and the best one before a better one, are removed after the new one is saved, not before: for a moment
      there is one more than `max_keep_ckpts`.
    """

    def before_train(self, runner):
        folder = self.out_dir or runner.work_dir
        self.local = not is_remote(folder) and self.file_client_args is None
        if self.local and self.backend_args is None:
            self.backend_args = {'backend': ATOMIC}
        super().before_train(runner)
        if self.local and is_main_process() and absolute(self.out_dir).is_dir():
            for name in remove_parts(self.out_dir):
                log_once(f'Removed {name}, an incomplete checkpoint, from {self.out_dir}.', level=logging.WARNING)
            self._remove_outdated(runner)
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if not self.by_epoch and self.interval % counts:
            log_once(
                f'Checkpoints are saved every {self.interval} iterations, and gradients are applied every {counts}: a run that '
                f'resumes in between loses the gradients of up to {counts - 1} iterations. Use a multiple of {counts}.',
                level=logging.WARNING,
            )

    def save_interrupted(self, runner, meta):
        """Save a run that is about to stop, beside the regular checkpoints; the next regular checkpoint replaces it.

        Args:
            meta: `iter` and `epoch` that are done.

        Returns:
            The path.
        """
        name = INTERRUPTED.format(meta['iter'])
        path = self.file_backend.join_path(self.out_dir, name)
        runner.save_checkpoint(self.out_dir, name, meta=dict(meta), by_epoch=False, backend_args=self.backend_args)
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
        """Remove the checkpoints that a killed run could not remove."""
        needed = {Path(path).name for path in (runner._load_from, *self._best_paths()) if path}
        for name in {Path(path).name for path in runner.message_hub.runtime_info.get(OUTDATED, [])} - needed:
            (absolute(self.out_dir) / name).unlink(missing_ok=True)

    def _best_paths(self):
        return [*getattr(self, 'best_ckpt_path_dict', {}).values(), getattr(self, 'best_ckpt_path', None)]

    @contextmanager
    def _removals_last(self, runner):
        """Run mmengine's code, and remove after it what it wanted to remove; nothing if saving failed."""
        backend, self.file_backend = self.file_backend, _DeferredRemovals(self.file_backend, runner.message_hub)
        deferred = self.file_backend
        try:
            yield
        finally:
            self.file_backend = backend
        for remove, path in deferred.removals:
            if path not in (self.last_ckpt, *self._best_paths()):  # written again under the same name
                remove(path)


class _DeferredRemovals:
    """A file backend that collects removals in a list, and records them in the checkpoint for a run that resumes."""

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
