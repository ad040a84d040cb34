"""`mmfreq.optimize`: a copy of a model for inference, with folded weights."""

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
from mmfreq.speed.folded import REFUSAL, Folded, FoldedPatches, InferenceOnly, is_unmodified
from mmfreq.speed.folded_affnet import FoldedAdaptiveFilter, FoldedAFFStage, FoldedConv, FoldedInvertedResidual
from mmfreq.speed.folded_blocks import FoldedGFNetBlock, FoldedHorNetBlock, FoldedMetaFormerBlock

FOLDED: dict[type, type[Folded]] = {
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
    """A faster copy of `model` for inference with the same outputs (float32: within 1e-5 of the largest value).

    Batch norms, the affine part of layer norms, layer scales and StarReLU's affine map are folded into the next weights. On a CPU,
    blocks process their maps in chunks that fit into the cache. `print` shows what was folded. Blocks with replaced parts or hooks
    are not folded. The copy is in eval mode: `.train()` and `load_state_dict` raise a RuntimeError. It can be copied, pickled,
    exported and moved to a device.

    Args:
        model: a backbone or classifier of mmfreq, or a module that contains one, such as a segmentor or a detector.
        image_size: (H, W) of the images, or the side of square ones: filters and position embeddings are resized once, and other
            sizes raise an error. None resizes them in every forward, as `model` does.

    Raises:
        ValueError: `model` is already optimized, has no backbone of mmfreq, or cannot be copied.
    """
    if any(isinstance(module, (Folded, Optimized)) for module in model.modules()):
        raise ValueError('expected a model that is not optimized, got an already optimized one; optimize the original model')
    if not has_backbone(model):
        raise ValueError(f'expected a model with a backbone of mmfreq, got {type(model).__name__} without one')
    model = deepcopy_model(model)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        channels = next(module.in_channels for module in model.modules() if isinstance(module, FrequencyBackbone))
        model = at_fixed_size(model, next(model.parameters()).new_zeros(1, channels, *size), backend=None, only=True)
    model = fold(model.eval().requires_grad_(False), {}).eval()
    model.__class__ = optimized_class(type(model))
    return model


def deepcopy_model(model: nn.Module) -> nn.Module:
    """A deep copy of `model`, or a ValueError that explains how to make it possible."""
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f'Expected a model that can be copied, but torch cannot copy this one ({str(error).splitlines()[0]}). After '
            'torch.nn.utils.prune call prune.remove, or run the model once under torch.no_grad().'
        ) from error


def has_backbone(model: nn.Module) -> bool:
    """Whether `model` has a backbone that `optimize` can fold."""
    return any(isinstance(module, FrequencyBackbone) for module in model.modules())


@torch.no_grad()
def fold(module: nn.Module, done: dict[int, tuple[nn.Module, nn.Module]]) -> nn.Module:
    """The module or its folded replacement, with folded children.

    Args:
        done: {id of a module: (the module, its replacement)}, for modules that occur several times.
    """
    if id(module) in done:
        return done[id(module)][1]
    given, folded = module, FOLDED.get(type(module))
    if folded is not None and is_unmodified(module) and folded.fits(module):
        module = folded(module)
    done[id(given)] = given, module
    if isinstance(module, PATCHES):
        for name, conv in module.named_children():
            if type(conv) is nn.Conv2d and FoldedPatches.fits(conv) and is_unmodified(conv) and conv.weight.device.type == 'cpu':
                setattr(module, name, FoldedPatches(conv))
    if type(module).__name__ == 'ConvModule' and type(module).__module__.startswith('mmcv.'):
        fold_conv_module(module)
    for name, child in module._modules.items():
        if child is not None:
            setattr(module, name, fold(child, done))
    return module


def fold_conv_module(module: nn.Module) -> None:
    """Fold the batch norm of mmcv's `ConvModule` into its convolution."""
    norm = getattr(module, module.norm_name) if module.with_norm else None
    folds = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and norm.affine and norm.running_mean is not None
    plain = folds and type(module.conv) is nn.Conv2d and is_unmodified(module.conv) and is_unmodified(norm)
    if plain and module.order == ('conv', 'norm', 'act'):
        module.conv = fuse_conv_bn_eval(module.conv, norm)
        setattr(module, module.norm_name, nn.Identity())


class Optimized(InferenceOnly):
    """Mixin of the class of models that `optimize` returns."""

    original: ClassVar[type]  # the class without this mixin

    def load_state_dict(self, *args, **kwargs):
        raise RuntimeError(REFUSAL.format('cannot load a state dict'))

    def __reduce_ex__(self, protocol):
        _, _, *state = super().__reduce_ex__(2)
        return new_optimized, (self.original,), *state


@cache
def optimized_class(original: type) -> type:
    """The class of optimized models of class `original`."""
    return type(f'Optimized{original.__name__}', (Optimized, original), {'original': original, '__module__': original.__module__})


def new_optimized(original: type) -> nn.Module:
    """An uninitialized instance, for pickle and copy."""
    return object.__new__(optimized_class(original))
