"""Does the installed stack run this config? The judgement of `python -m mmfreq.doctor`, on what the config's library needs."""

import logging
import time
import warnings

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.compat.stack import DISTRIBUTIONS, fix_command, gather, judge
from mmfreq.config.meta_model import build_model_on_meta, logging_disabled
from mmfreq.config.reading import is_remote
from mmfreq.errors import UserError
from mmfreq.log import log_once, process_rank
from mmfreq.preflight.coco import check_coco
from mmfreq.preflight.paths import check_data
from mmfreq.preflight.report import Report
from mmfreq.preflight.resources import check_disk, check_memory
from mmfreq.preflight.segmentation import check_pairs
from mmfreq.weights.load import load_checked, load_weights

CORE = ('pkg_resources', 'numpy', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops')
# default_scope -> (modules to import, rows of the doctor) beside the core
LIBRARIES = {
    'mmseg': (('mmseg.models', 'ftfy', 'regex'), ('mmsegmentation', 'ftfy', 'regex')),
    'mmdet': (('mmdet.models',), ('mmdet',)),
    'mmpretrain': (('mmpretrain.models',), ('mmpretrain',)),
}
ROWS = ('python', 'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'setuptools', 'mmengine x torch', 'mmcv x mmdet', 'OneDL')


class StackError(UserError):
    """What is installed cannot run the config."""


def check_versions(cfg, report, gather=gather):
    """Judge the packages that a config's library needs.

    Args:
        gather: of `mmfreq.compat.stack`; a test gives its own.

    Raises:
        StackError: some are missing or do not fit together; with the command that mends it.
    """
    modules, rows = LIBRARIES.get(cfg.get('default_scope'), ((), ()))
    facts = gather(DISTRIBUTIONS, modules=(*CORE, *modules))
    findings = [finding for finding in judge(facts) if finding.name in (*ROWS, *rows)]
    report.facts['versions'] = ', '.join(_named(finding) for finding in findings if finding.version)
    failed = [finding for finding in findings if finding.verdict == 'fail']
    if failed:
        told = [f'  {_named(finding)}: {finding.what}' + (f' -> {finding.remedy}' if finding.remedy else '') for finding in failed]
        command = fix_command(failed)
        told.append(f'To mend: {command}' if command else '`python -m mmfreq.doctor` says more.')
        raise StackError('\n'.join(['what is installed cannot run this config:', *told]))
    report.warnings += [
        f'{_named(finding)}: {finding.what}' + (f' ({finding.remedy})' if finding.remedy else '')
        for finding in findings
        if finding.verdict == 'warn'
    ]


def _named(finding):
    return finding.version if ' ' in finding.version else f'{finding.name} {finding.version}'.strip()


# Does the checkpoint that a run starts from fit its model? The comparison of `CheckpointGuardHook`, before anything is built.


def check_checkpoint(cfg, report, model):
    """Compare `load_from`, and the pretrained files of our backbones, with the model.

    Args:
        model: on the meta device, into which nothing is copied.

    Raises:
        CheckpointError, CheckpointMismatchError: the file cannot be read, or is of another model.
    """
    with (
        warnings.catch_warnings(),
        logging_disabled(logging.WARNING),
    ):  # what is said here will be said again when the file is loaded
        warnings.filterwarnings('ignore', message='.*copying from a non-meta parameter')
        source = cfg.get('load_from')
        if source and not is_remote(source):
            load_checked(model, read_checkpoint(source), source, strict=bool(cfg.get('resume')), training=True)
            report.facts['starts from'] = f'{source}{", resumed" if cfg.get("resume") else ""}: fits the model'
        for module in model.modules():
            init = getattr(module, 'init_cfg', None)
            pretrained = isinstance(init, dict) and init.get('type') == 'Pretrained'
            if pretrained and _reads_published_files(module) and not is_remote(init['checkpoint']):
                load_weights(module, init['checkpoint'], fresh=init.get('fresh', ()))
                report.facts.setdefault('starts from', f'{init["checkpoint"]}: fits {type(module).__name__}')


def _reads_published_files(module):
    """Whether this is one of our backbones, whose `init_weights` is `load_weights`."""
    return type(module).__module__.startswith('mmfreq.') and hasattr(module, 'frozen_parts')


# All checks of a training run, in order, with their times.


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
    model = _timed(times, build_model_on_meta, cfg)
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
            log_once(message, level=level)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        parts = (f'{number}. {error}' for number, error in enumerate(errors, 1))
        raise PreflightError('\n\n'.join([f'{len(errors)} things stand in the way of this run.', *parts]))
    noted = f'{len(report.warnings)} warnings' if report.warnings else 'nothing found'
    log_once(f'Preflight: {len(times)} checks in {sum(times.values()):.1f} s, {noted}.')


def _timed(times, function, *arguments):
    start = time.perf_counter()
    try:
        return function(*arguments)
    finally:
        name = function.__name__
        times[name] = time.perf_counter() - start
        log_once(f'Preflight: {name} took {times[name]:.2f} s.', level=logging.DEBUG)
