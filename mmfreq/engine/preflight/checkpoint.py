"""Does the checkpoint that a run starts from fit its model? The comparison of `CheckpointGuardHook`, before anything is built."""

import logging
import warnings

from mmfreq.checkpoint.load import load_weights
from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.engine.checkpoint_guard import load_checked
from mmfreq.engine.meta_model import quiet
from mmfreq.engine.paths import is_remote


def check_checkpoint(cfg, report, model):
    """Compare `load_from`, and the pretrained files of our backbones, with the model.

    Args:
        model: on the meta device, into which nothing is copied.

    Raises:
        CheckpointError, CheckpointMismatchError: the file cannot be read, or is of another model.
    """
    with warnings.catch_warnings(), quiet(logging.WARNING):  # what is said here will be said again when the file is loaded
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
