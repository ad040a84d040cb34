"""The parts of a model that a config lists in mmengine's `efficient_conv_bn_eval`.

mmengine replaces their forward method by a graph of torch.fx, in which a batch norm in eval mode scales the weight of the
convolution before it. It traces them in training mode: what a module of another package than torch decides by `self.training` is
fixed from then on. Stochastic depth would stay on in validation, and the scores would be random.
"""

from operator import attrgetter

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmfreq.errors import UserError

DROPS = {'StochasticDepth': 'p', 'DropPath': 'drop_prob'}  # class, of torchvision and of mmcv or timm -> its rate


def check_traced_parts(cfg, report, model):
    """Trace every part that `efficient_conv_bn_eval` lists, as mmengine will.

    Args:
        model: in training mode, on the meta device; it is not changed.

    Raises:
        UserError: there is no such part, torch.fx cannot trace it, or its graph would differ from it in validation.
    """
    names = cfg.get('efficient_conv_bn_eval') or ()
    for name in [names] if isinstance(names, str) else names:
        part = _find(name, model)
        _check_mode(name, part)
        _trace(name, part)
        if not any(isinstance(module, _BatchNorm) for module in part.modules()):
            report.notes.append(f'efficient_conv_bn_eval has no effect on {name!r}: {type(part).__name__} has no batch norm.')


def _find(name, model):
    try:
        return attrgetter(name)(model)
    except AttributeError:
        parts = ', '.join(child for child, _ in model.named_children())
        raise UserError(
            f'efficient_conv_bn_eval lists {name!r}, which {type(model).__name__} does not have; its parts are {parts}.'
        ) from None


def _check_mode(name, part):
    rates = [getattr(module, DROPS[type(module).__name__], 0) for module in part.modules() if type(module).__name__ in DROPS]
    if any(rates):
        raise UserError(
            f'efficient_conv_bn_eval lists {name!r}, but {type(part).__name__} has stochastic depth (rates up to {max(rates):g}), '
            'which mmengine would leave on in validation, as it traces the part in training mode. Set drop_path_rate=0, or remove '
            'it from the list.'
        )


def _trace(name, part):
    try:
        torch.fx.symbolic_trace(part)
    except Exception as error:  # any code of the part runs on proxies
        reason = str(error).splitlines()[0]
        remedy = (
            'Set its with_cp=False, or remove it from the list' if getattr(part, 'with_cp', False) else 'Remove it from the list'
        )
        raise UserError(
            f'efficient_conv_bn_eval lists {name!r}, but torch.fx cannot trace {type(part).__name__} ({reason}). {remedy}.'
        ) from error
