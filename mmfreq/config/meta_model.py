"""Models of configs on torch's meta device: no weights, no memory."""

import copy
import logging
from contextlib import contextmanager

import torch
from mmengine.registry import MODELS, DefaultScope
from torch.overrides import TorchFunctionMode

from mmfreq.log import log_once
from mmfreq.registry import without_pretraining


class LinspaceOnCpu(TorchFunctionMode):
    """`torch.linspace` stays on the CPU: many backbones read drop-path rates from it, and meta tensors have no values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}) | ({'device': 'cpu'} if func is torch.linspace else {}))


def build_model(cfg, device='meta'):
    """The model of a whole config, without pretrained weights and in training mode.

    Raises:
        Exception: whatever the constructors raise; on the meta device those that read values fail.
    """
    model = without_pretraining(copy.deepcopy(cfg.model))  # detectors of mmdet modify the config that they are built from
    model = model.get('module') or model
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))
    with scope, logging_disabled(), torch.device(device), LinspaceOnCpu():
        return MODELS.build(model).train()


def build_model_on_meta(cfg):
    """`build_model`, or None where it fails: the Runner fails with the same error and shows where."""
    try:
        return build_model(cfg)
    except Exception as error:
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        log_once(
            f'The checkpoint and the memory are not checked, as the model cannot be built on the meta device: {reason}',
            level=logging.DEBUG,
        )
        return None


@contextmanager
def logging_disabled(level=logging.INFO):
    """Without log messages up to a level, such as those of constructors of a model that is not trained."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)
