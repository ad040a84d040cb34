"""`mmfreq.optimize`: a copy of a model for inference, with all that can be folded folded."""

import copy
from functools import cache
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.models._base import FrequencyBackbone
from mmfreq.models.affnet import AFFStage, ConvNormAct, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock
from mmfreq.models.gfnet import GFNetBlock, PatchEmbed
from mmfreq.models.hornet import Downsampling, HorNetBlock, Stem
from mmfreq.speed.fixed_size import at_fixed_size
from mmfreq.speed.folded import (
    REFUSED,
    Folded,
    FoldedAdaptiveFilter,
    FoldedAFFStage,
    FoldedConv,
    FoldedGFNetBlock,
    FoldedHorNetBlock,
    FoldedInvertedResidual,
    FoldedMetaFormerBlock,
    FoldedPatches,
    ForInference,
    untouched,
)

FOLDED = {
    AdaptiveFrequencyFilter: FoldedAdaptiveFilter,
    AFFStage: FoldedAFFStage,
    ConvNormAct: FoldedConv,
    GFNetBlock: FoldedGFNetBlock,
    HorNetBlock: FoldedHorNetBlock,
    InvertedResidual: FoldedInvertedResidual,
    MetaFormerBlock: FoldedMetaFormerBlock,
}
PATCHES = (Downsampling, PatchEmbed, Stem)  # modules with a convolution whose stride is its kernel


def optimize(model: nn.Module, image_size: int | tuple[int, int] | None = None) -> nn.Module:
    """A copy of `model` for inference: the same outputs (float32: within 1e-5 of the largest), sooner.

    Batch norms, the affine part of layer norms, layer scales and StarReLU's affine map become part of the next weights. On a CPU,
    blocks work on pieces of their maps that stay in the cache. `print` shows what was folded; a part that is not what its block
    builds, or that has a hook, is left as it is, with its block. The copy is in eval mode and has no parameter to train: `.train()`
    and `load_state_dict` are refused. It can be copied, pickled, exported and moved.

    Args:
        model: a backbone or a classifier of mmfreq, or a module around one, such as a segmentor or a detector.
        image_size: H and W of the images, or the side of square ones: filters and position embeddings are resized once, and images
            of other sizes are refused. None resizes them in every forward, as the model does.

    Raises:
        ValueError: a model that is optimised already, has no backbone of mmfreq, or cannot be copied.
    """
    if any(isinstance(module, (Folded, Optimized)) for module in model.modules()):
        raise ValueError('expected a model as it was built, got one that is optimised already; optimise the one it was made from')
    if not holds_backbone(model):
        raise ValueError(f'expected a backbone of mmfreq or a model around one, got {type(model).__name__} without one')
    model = copied(model)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        channels = next(module.in_channels for module in model.modules() if isinstance(module, FrequencyBackbone))
        model = at_fixed_size(model, next(model.parameters()).new_zeros(1, channels, *size), backend=None, only=True)
    model = fold(model.eval().requires_grad_(False), {}).eval()
    model.__class__ = optimized_class(type(model))
    return model


def copied(model: nn.Module) -> nn.Module:
    """A deep copy."""
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f'expected a model that can be copied, got one that torch cannot copy ({str(error).splitlines()[0]}); after '
            'torch.nn.utils.prune call prune.remove, or the model once under torch.no_grad()'
        ) from error


def holds_backbone(model: nn.Module) -> bool:
    """Whether `optimize` has something to do."""
    return any(isinstance(module, FrequencyBackbone) for module in model.modules())


@torch.no_grad()
def fold(module: nn.Module, done: dict[int, tuple[nn.Module, nn.Module]]) -> nn.Module:
    """The module, or what replaces it, with its parts folded; `done` has those that occurred before."""
    if id(module) in done:
        return done[id(module)][1]
    given, folded = module, FOLDED.get(type(module))
    if folded is not None and untouched(module) and folded.fits(module):
        module = folded(module)
    done[id(given)] = given, module
    if isinstance(module, PATCHES):
        for name, conv in module.named_children():
            if type(conv) is nn.Conv2d and FoldedPatches.fits(conv) and untouched(conv) and conv.weight.device.type == 'cpu':
                setattr(module, name, FoldedPatches(conv))
    if type(module).__name__ == 'ConvModule' and type(module).__module__.startswith('mmcv.'):
        fold_conv_module(module)
    for name, child in module._modules.items():
        if child is not None:
            setattr(module, name, fold(child, done))
    return module


def fold_conv_module(module: nn.Module) -> None:
    """Put the batch norm of mmcv's `ConvModule` into its convolution."""
    norm = getattr(module, module.norm_name) if module.with_norm else None
    folds = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and norm.affine and norm.running_mean is not None
    plain = folds and type(module.conv) is nn.Conv2d and untouched(module.conv) and untouched(norm)
    if plain and module.order == ('conv', 'norm', 'act'):
        module.conv = fuse_conv_bn_eval(module.conv, norm)
        setattr(module, module.norm_name, nn.Identity())


class Optimized(ForInference):
    """Mixed into the class of the model that `optimize` returns."""

    plain: ClassVar[type]  # the class without this one

    def load_state_dict(self, *args, **kwargs):
        raise RuntimeError(REFUSED.format('loads no state dict'))

    def __reduce_ex__(self, protocol):
        _, _, *state = super().__reduce_ex__(2)
        return new_optimized, (self.plain,), *state


@cache
def optimized_class(plain: type) -> type:
    """The class of optimised models of class `plain`."""
    return type(f'Optimized{plain.__name__}', (Optimized, plain), {'plain': plain, '__module__': plain.__module__})


def new_optimized(plain: type) -> nn.Module:
    """An empty model, for pickle and copy."""
    return object.__new__(optimized_class(plain))
