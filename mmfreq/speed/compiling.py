"""`mmfreq.compile_blocks`: `torch.compile` for each block, so that equal blocks are compiled once."""

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mmfreq.models._base import Stage
from mmfreq.models.affnet import AFFBlock, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock
from mmfreq.models.gfnet import GFNetBlock, GFNetCNNBlock
from mmfreq.models.hornet import HorNetBlock

BLOCKS = (AFFBlock, GFNetBlock, GFNetCNNBlock, HorNetBlock, InvertedResidual, MetaFormerBlock)


def compile_blocks(model: nn.Module, **options) -> nn.Module:
    """Compile the blocks of the backbones in `model`, in place; the rest runs uncompiled.

    Blocks of equal size share compiled code, so compilation takes a fraction of the time of `torch.compile(model)`. Parameter names
    and state dicts do not change. `memory_efficient` of the stages becomes False, because the compiler chooses what is saved for
    backward. Stochastic depth becomes `SharedStochasticDepth`, which draws other random numbers.

    Args:
        model: a backbone or classifier of mmfreq, or a module that contains one.
        **options: of `torch.compile`. `dynamic` is False by default; otherwise `torch.compile` would compile for dynamic sizes,
            because stages differ in size. Blocks are compiled for each image size; after eight combinations of stage and size
            torch runs new ones uncompiled, with a warning.

    Returns:
        `model`.

    Raises:
        ValueError: `model` has no block of mmfreq.
    """
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    if not blocks:
        raise ValueError(
            f'expected a model with blocks of mmfreq, got {type(model).__name__} without any; use torch.compile(model)'
        )
    for module in model.modules():
        if isinstance(module, Stage):
            module.memory_efficient = False
    options.setdefault('dynamic', False)
    for block in blocks:
        for name, part in block.named_children():
            hooked = part._forward_hooks or part._forward_pre_hooks
            if type(part) is StochasticDepth and part.mode == 'row' and part.p > 0 and not hooked:
                setattr(block, name, SharedStochasticDepth(part.p).train(part.training))
        block.compile(**options)
    return model


class SharedStochasticDepth(StochasticDepth):
    """Stochastic depth with its rate in a tensor: a float is a constant for a compiler, which would compile each block again.

    Args:
        p: probability of dropping a sample; can be changed later.

    Shape:
        Any shape with the samples first, to the same.
    """

    def __init__(self, p: float):
        nn.Module.__init__(self)
        self.mode = 'row'
        self.keep = torch.tensor(1 - p, device='cpu')  # not a buffer: `.to(dtype)` and state dicts must not change it

    @property
    def p(self) -> float:
        return 1 - self.keep.item()

    @p.setter
    def p(self, value: float) -> None:
        self.keep.fill_(1 - value)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < self.keep
        return x * (kept / self.keep.clamp_min(1e-6)).to(x.dtype)
