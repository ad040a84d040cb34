"""All checks of a training run.

| check | file | refuses |
|---|---|---|
| `check_versions` | `run` | packages that are missing or do not fit together, judged as `python -m mmfreq.doctor` does |
| `check_data` | `data` | missing folders and files; fewer or more classes than a head predicts |
| `check_weights` | `run` | published weights that are neither here nor served by a URL |
| `check_checkpoint` | `run` | a checkpoint that cannot be read or belongs to another model |
| `check_normalization` | `pixels` | another number of means or stds than channels |
| `check_rewritten_parts` | `rewritten` | parts that `efficient_conv_bn_eval` or `activation_checkpointing` would break |
| `check_disk` | `resources` | no room for two checkpoints |
| `check_batch_norms` | `batch_norms` | norms that torch cannot train, as they get one value per channel |
| `check_memory` | `resources` | one iteration that needs more memory than the device has |
| `check_heads` | `seg_heads` | heads and losses that mmseg cannot train or scores wrongly |
| `check_pairs` | `segmentation` | images without labels; of 32 pairs, those with unreadable files or with labels of no class |
| `check_images` | `classification` | class folders, lists and labels that mmpretrain cannot read or scores wrongly |
| `check_coco` | `coco` | COCO files that mmdet misreads or pycocotools cannot score; images that are missing |

`check_versions` and `check_data` raise at once. The errors of the others are collected into one message.
"""

import logging
import time
import warnings

from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.compat.stack import DISTRIBUTIONS, fix_command, gather, judge
from mmfreq.config.meta_model import build_model_on_meta, logging_disabled
from mmfreq.errors import UserError
from mmfreq.log import log_once, process_rank
from mmfreq.preflight.batch_norms import check_batch_norms
from mmfreq.preflight.classification import check_images
from mmfreq.preflight.coco import check_coco, check_scored
from mmfreq.preflight.data import check_data
from mmfreq.preflight.pixels import check_normalization
from mmfreq.preflight.report import Report
from mmfreq.preflight.resources import check_disk, check_memory
from mmfreq.preflight.rewritten import check_rewritten_parts
from mmfreq.preflight.seg_heads import check_heads
from mmfreq.preflight.segmentation import check_pairs
from mmfreq.weights.in_configs import named_sources
from mmfreq.weights.load import load_checked, load_weights, pretrained_options
from mmfreq.weights.store import MissingWeightsError, here, unavailable

CORE = ('pkg_resources', 'numpy', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops')
# default_scope -> (modules to import, rows of the doctor's table) in addition to the core
LIBRARIES = {
    'mmseg': (('mmseg.models', 'ftfy', 'regex'), ('mmsegmentation', 'ftfy', 'regex')),
    'mmdet': (('mmdet.models',), ('mmdet',)),
    'mmpretrain': (('mmpretrain.models',), ('mmpretrain',)),
}
ROWS = ('python', 'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'setuptools', 'mmengine x torch', 'mmcv x mmdet', 'OneDL')


class StackError(UserError):
    """The installed packages cannot run the config."""


class PreflightError(UserError):
    """Several checks failed; the message holds all of their errors."""


def check_versions(cfg, report, gather=gather):
    """Judge the packages that the config's library needs.

    Args:
        gather: `mmfreq.compat.stack.gather` or a replacement for tests.

    Raises:
        StackError: a package is missing, or two do not fit together. The message has the command that fixes it.
    """
    modules, rows = LIBRARIES.get(cfg.get('default_scope'), ((), ()))
    facts = gather(DISTRIBUTIONS, modules=(*CORE, *modules))
    findings = [finding for finding in judge(facts) if finding.name in (*ROWS, *rows)]
    report.facts['versions'] = ', '.join(_name_and_version(finding) for finding in findings if finding.version)
    failed = [finding for finding in findings if finding.verdict == 'fail']
    if failed:
        command = fix_command(failed)
        lines = ['The installed packages cannot run this config:']
        for finding in failed:
            remedy = f' -> {finding.remedy}' if finding.remedy else ''
            lines.append(f'  {_name_and_version(finding)}: {finding.what}{remedy}')
        lines.append(f'Fix: {command}' if command else 'For details run `python -m mmfreq.doctor`.')
        raise StackError('\n'.join(lines))
    for finding in findings:
        if finding.verdict == 'warn':
            remedy = f' ({finding.remedy})' if finding.remedy else ''
            report.warnings.append(f'{_name_and_version(finding)}: {finding.what}{remedy}')


def _name_and_version(finding):
    return finding.version if ' ' in finding.version else f'{finding.name} {finding.version}'.strip()


def check_weights(cfg, report):
    """Look for the weights that a run starts from, here and, where they are not here, at their URLs; at most 7 s in all.

    Raises:
        MissingWeightsError: none of the URLs of a file answers with a file. The message says how to get it by hand.
    """
    sources = named_sources(cfg)
    try:
        missing = unavailable(sources)
    except MissingWeightsError:
        raise
    except CheckpointError as error:
        missing = str(error)
    if missing:
        raise MissingWeightsError(f'{missing}\nTo start from random values instead, add --from-scratch.')
    if not cfg.get('load_from'):
        report.facts['starts from'] = ', '.join(sources) or 'random values'


def check_checkpoint(cfg, report, model):
    """Compare the checkpoint in `load_from`, and the `init_cfg` files of mmfreq's backbones, with the model.

    Args:
        model: on the meta device; no values are copied into it.

    Raises:
        CheckpointError: the file cannot be read.
        CheckpointMismatchError: it belongs to another model.
    """
    # The warnings of loading are hidden here, as they are repeated when the run loads the file.
    with warnings.catch_warnings(), logging_disabled(logging.WARNING):
        warnings.filterwarnings('ignore', message='.*copying from a non-meta parameter')
        source = cfg.get('load_from')
        if source and (path := here(source)):
            load_checked(model, read_checkpoint(path), source, strict=bool(cfg.get('resume')), training=True)
            report.facts['starts from'] = f'{source}{", resumed" if cfg.get("resume") else ""}: fits the model'
        for module in model.modules():
            options = pretrained_options(module.init_cfg) if _is_own_backbone(module) else None
            if options and (path := here(options['source'])):
                load_weights(module, **{**options, 'source': path})
                report.facts['starts from'] = f'{options["source"]}: fits {type(module).__name__}'


def _is_own_backbone(module):
    """Whether this is a backbone of mmfreq, whose `init_weights` calls `load_weights`."""
    return type(module).__module__.startswith('mmfreq.') and hasattr(module, 'frozen_parts')


LOADERS = ('train_dataloader', 'val_dataloader')
# (cfg, report, model on the meta device); the last two replace synchronized batch norms
OF_MODEL = (check_checkpoint, check_normalization, check_rewritten_parts, check_disk, check_batch_norms, check_memory)
OF_DATA = {
    'mmseg': (check_heads, check_pairs),
    'mmdet': (check_coco,),
    'mmpretrain': (check_images,),
}  # default_scope -> (cfg, report, loaders)


def check_run(cfg, report=None):
    """Run all checks on a prepared training config, before anything slow is built.

    In a distributed run the first process runs all checks. The others only check the paths, so that not every process reads all
    files of a shared file system. Warnings go to the log and into the report.

    Args:
        report: a `Report` to fill.

    Raises:
        UserError, CheckpointError: the error of the one check that failed.
        PreflightError: several checks failed.
    """
    if process_rank() != 0:
        check_data(cfg, LOADERS)
        return
    report = Report() if report is None else report
    seconds, errors = {}, []
    # An error in one of these is often the cause of the errors that the other checks would find.
    _timed(seconds, check_versions, cfg, report)
    _timed(seconds, check_data, cfg, LOADERS)
    calls = [(check_weights,)]
    model = _timed(seconds, build_model_on_meta, cfg)
    calls += [(check, model) for check in OF_MODEL if model is not None]
    calls += [(check, LOADERS) for check in OF_DATA.get(cfg.get('default_scope'), ())]
    for check, *argument in calls:
        try:
            _timed(seconds, check, cfg, report, *argument)
        except (UserError, CheckpointError) as error:
            if not any(str(error) in str(earlier) for earlier in errors):  # two checks may find the same fault
                errors.append(error)
    for level, messages in ((logging.INFO, report.notes), (logging.WARNING, report.warnings)):
        for message in messages:
            log_once(message, level=level)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        parts = (f'{number}. {error}' for number, error in enumerate(errors, 1))
        raise PreflightError('\n\n'.join([f'{len(errors)} checks before the run failed:', *parts]))
    result = f'{len(report.warnings)} warnings' if report.warnings else 'no problems found'
    log_once(f'Preflight: {len(seconds)} checks in {sum(seconds.values()):.1f} s, {result}.')


def check_test(cfg):
    """Check the data of a prepared test config: its paths and classes and, in the first process, what its metrics cannot score.

    Raises:
        UserError: the error of the check that failed.
    """
    check_data(cfg, ('test_dataloader',))
    if process_rank() == 0 and cfg.get('default_scope') == 'mmdet':
        report = Report()
        check_scored(cfg, report, ('test_dataloader',))
        for message in report.warnings:
            log_once(message, level=logging.WARNING)


def _timed(seconds, function, *arguments):
    start = time.perf_counter()
    try:
        return function(*arguments)
    finally:
        name = function.__name__
        seconds[name] = time.perf_counter() - start
        log_once(f'Preflight: {name} took {seconds[name]:.2f} s.', level=logging.DEBUG)
