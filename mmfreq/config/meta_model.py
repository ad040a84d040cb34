"""The model of a config without weights and without memory, on torch's meta device."""

import copy
import logging
from contextlib import contextmanager

import torch
from mmengine.registry import MODELS, DefaultScope
from torch.overrides import TorchFunctionMode

from mmfreq.log import log_once
from mmfreq.registry import without_pretraining


class LinspaceOnCpu(TorchFunctionMode):
    """`torch.linspace` always gives numbers: many backbones read their drop-path rates from it, which the meta device has not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}) | ({'device': 'cpu'} if func is torch.linspace else {}))


def build_model_on_meta(cfg):
    """The model of a whole config in training mode; None where a constructor needs real numbers, or fails at all.

    What it fails with is not told here, as the Runner will fail with it too, and show where.
    """
    model = without_pretraining(copy.deepcopy(cfg.model))  # detectors of mmdet write into what they are built from
    model = model.get('module') or model
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), logging_disabled():
        try:
            with torch.device('meta'), LinspaceOnCpu():
                return MODELS.build(model).train()
        except Exception as error:
            told = f'{type(error).__name__}: {error}'.splitlines()[0]
    log_once(
        f'The model cannot be built on the meta device, so its checkpoint and memory are not foreseen: {told}', level=logging.DEBUG
    )
    return None


@contextmanager
def logging_disabled(level=logging.INFO):
    """Without what is logged at a level or below, such as what constructors say of a model that nobody will train."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
