"""All checks of a training run, in order, with their times."""

import logging
import time

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.engine.errors import UserError
from mmfreq.engine.meta_model import meta_model
from mmfreq.engine.notes import process_rank, say
from mmfreq.engine.preflight.checkpoint import check_checkpoint
from mmfreq.engine.preflight.coco import check_coco
from mmfreq.engine.preflight.disk import check_disk
from mmfreq.engine.preflight.memory import check_memory
from mmfreq.engine.preflight.pairs import check_pairs
from mmfreq.engine.preflight.paths import check_data
from mmfreq.engine.preflight.report import Report
from mmfreq.engine.preflight.versions import check_versions

LOADERS = ('train_dataloader', 'val_dataloader')
FIRST = (check_versions,)
OF_MODEL = (check_checkpoint, check_disk, check_memory)  # (cfg, report, model on the meta device)
OF_DATA = {'mmseg': (check_pairs,), 'mmdet': (check_coco,)}  # (cfg, report, loaders)


class PreflightError(UserError):
    """Several things stand in the way of a run; the message has them all."""


def check_run(cfg, report=None):
    """Look at everything that a prepared training config needs, before anything slow is built.

    In a distributed run the first process looks at everything, and the others only for the paths, so that a shared file system
    is not read once a process. Warnings go to the log and into the report; times to the log at level DEBUG, their sum at INFO.

    Args:
        report: a `Report` to fill.

    Raises:
        UserError, CheckpointError: what one check found; a `PreflightError` where several did.
    """
    if process_rank() != 0:
        check_data(cfg, LOADERS)
        return
    report = Report() if report is None else report
    times = {}
    for check in FIRST:  # what is wrong here is the cause of what would be found below
        _timed(times, check, cfg, report)
    _timed(times, check_data, cfg, LOADERS)
    model = _timed(times, meta_model, cfg)
    calls = [(check, model) for check in OF_MODEL if model is not None]
    calls += [(check, LOADERS) for check in OF_DATA.get(cfg.get('default_scope'), ())]
    errors = []
    for check, subject in calls:
        try:
            _timed(times, check, cfg, report, subject)
        except (UserError, CheckpointError) as error:
            errors.append(error)
    for level, messages in ((logging.INFO, report.notes), (logging.WARNING, report.warnings)):
        for message in messages:
            say(message, level=level)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        parts = (f'{number}. {error}' for number, error in enumerate(errors, 1))
        raise PreflightError('\n\n'.join([f'{len(errors)} things stand in the way of this run.', *parts]))
    noted = f'{len(report.warnings)} warnings' if report.warnings else 'nothing found'
    say(f'Preflight: {len(times)} checks in {sum(times.values()):.1f} s, {noted}.')


def _timed(times, function, *arguments):
    start = time.perf_counter()
    try:
        return function(*arguments)
    finally:
        name = function.__name__
        times[name] = time.perf_counter() - start
        say(f'Preflight: {name} took {times[name]:.2f} s.', level=logging.DEBUG)
