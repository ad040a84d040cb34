"""`mmfreq.compile_blocks`: `torch.compile` for each block, so that equal blocks are compiled once."""

from torch import nn

from mmfreq.models._base import Stage
from mmfreq.models.affnet import AFFBlock, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock
from mmfreq.models.gfnet import GFNetBlock, GFNetCNNBlock
from mmfreq.models.hornet import HorNetBlock

BLOCKS = (AFFBlock, GFNetBlock, GFNetCNNBlock, HorNetBlock, InvertedResidual, MetaFormerBlock)


def compile_blocks(model: nn.Module, **options) -> nn.Module:
    """Compile the blocks of the backbones in `model`, in place; the rest runs as it is.

    Blocks of equal sizes share their compiled code, so the first call takes a fraction of that of `torch.compile(model)`. Parameter
    names and state dicts stay as they are. `memory_efficient` of a stage becomes False: a compiler chooses by itself what is saved
    for backward.

    Args:
        model: a backbone or a classifier of mmfreq, or a module around one.
        **options: of `torch.compile`.

    Returns:
        `model`.

    Raises:
        ValueError: no block of mmfreq in it.
    """
    found = 0
    for module in model.modules():
        if isinstance(module, Stage):
            module.memory_efficient = False
        if isinstance(module, BLOCKS):
            module.compile(**options)
            found += 1
    if not found:
        raise ValueError(
            f'expected a model with blocks of mmfreq, got {type(model).__name__} without one; use torch.compile(model)'
        )
    return model
