"""The models that `tools/benchmark.py` compares: ours in its forms, the published formulation, and what a user would pick instead.

Every model is made with weights that are the same every time. Ours depend on names and shapes alone (`mmfreq.testing`): in the
published initialisation some residual branches are scaled by 1e-6, so that an error in them would not show in the outputs.
"""

from functools import partial

import torch
from torch import nn

import mmfreq
from benchmarks.harness.entries import Makers
from mmfreq.models._base import Stage
from mmfreq.testing.golden import golden_state

# MetaFormer (arXiv 2210.13452): separable convolutions; the same with attention in the last two stages. ConvNeXt (arXiv 2201.03545)
PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')


def makers() -> Makers:
    """All of them."""
    from benchmarks import published

    forms = {
        'ours': eager,
        'published': published.twin,
        'optimized': mmfreq.optimize,
        'memory_efficient': memory_efficient,
        'compiled': torch.compile,
        'compiled_blocks': mmfreq.compile_blocks,
        'mmpretrain': mmpretrain,
    }
    return Makers(ours, counted, forms, {name: partial(peer, name) for name in PEERS})


def eager(model: nn.Module) -> nn.Module:
    """The model as it is."""
    return model


def memory_efficient(model: nn.Module) -> nn.Module:
    """The model as if built with `memory_efficient=True`."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.memory_efficient = True
    return model


def ours(arch: str) -> nn.Module:
    """Our backbone in eval mode."""
    model = mmfreq.build_backbone(arch)
    model.load_state_dict(golden_state({name: tuple(value.shape) for name, value in model.state_dict().items()}))
    return model.eval()


def counted(arch: str) -> nn.Module:
    """Our backbone without weights, with transforms that the counter knows as such."""
    with torch.device('meta'):
        return mmfreq.build_backbone(arch, spectral='fft')


def mmpretrain(model: nn.Module) -> nn.Module:
    """mmpretrain's class with the weights of a HorNet of ours."""
    from benchmarks.published.mmpretrain_hornet import twin

    return twin(model)


def peer(name: str) -> nn.Module:
    """A timm backbone in eval mode.

    Shape:
        The model takes `(N, 3, H, W)` and returns a list of four `(N, C, h, w)` at strides 4, 8, 16, 32.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, features_only=True, pretrained=False).eval()
