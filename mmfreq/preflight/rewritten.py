"""The parts of a model whose forward methods a config lets mmengine rewrite; both rewrites can be silently wrong.

`efficient_conv_bn_eval` replaces a forward method by a graph of torch.fx, in which a batch norm in eval mode scales the weight of
the convolution before it. mmengine traces in training mode, and what a module of another package than torch decides by
`self.training` is fixed from then on: stochastic depth would stay on in validation, and the scores would be random.

`activation_checkpointing` computes activations again in the backward pass, with torch's reentrant implementation. A part whose
inputs need no gradient gets none itself: a backbone, which reads images, would not be trained.
"""

from operator import attrgetter

import torch
from torch import nn

from mmfreq.config.few_gpus import BATCH_NORMS
from mmfreq.errors import UserError

DROPS = {'StochasticDepth': 'p', 'DropPath': 'drop_prob'}  # class, of torchvision and of mmcv or timm -> its rate


def check_rewritten_parts(cfg, report, model):
    """Check every part that `efficient_conv_bn_eval` and `activation_checkpointing` list.

    Args:
        model: in training mode, on the meta device; it is not changed.

    Raises:
        UserError: there is no such part, torch.fx cannot trace it, its graph would differ from it in validation, or it would not
            be trained.
    """
    for name, part in _parts(cfg, 'efficient_conv_bn_eval', model):
        _check_mode(name, part)
        _trace(name, part)
        if not any(isinstance(module, BATCH_NORMS) for module in part.modules()):
            report.notes.append(f'efficient_conv_bn_eval has no effect on {name!r}: {type(part).__name__} has no batch norm.')
    for name, part in _parts(cfg, 'activation_checkpointing', model):
        _check_gradients(name, part, model)


def _parts(cfg, key, model):
    names = cfg.get(key) or ()
    for name in [names] if isinstance(names, str) else names:
        try:
            yield name, attrgetter(name)(model)
        except AttributeError:
            parts = ', '.join(child for child, _ in model.named_children())
            raise UserError(f'{key} lists {name!r}, which {type(model).__name__} does not have; its parts are {parts}.') from None


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


def _check_gradients(name, part, model):
    backbone = getattr(model, 'backbone', None) or model
    stem = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    if stem is not None and any(module is stem for module in part.modules()):
        raise UserError(
            f'activation_checkpointing lists {name!r}, which reads images: they need no gradient, and with the checkpointing of '
            f'mmengine {type(part).__name__} would get none and not be trained. Set model.backbone.with_cp=True instead.'
        )
