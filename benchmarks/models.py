"""The models that `tools/benchmark.py` compares: the forms of mmfreq's models, the reference implementations, and timm's models.

A model has the same weights in every call. Those of mmfreq depend on names and shapes only (`mmfreq.testing.golden`): the published
initialization scales some residual branches by 1e-6, so that errors in them would not be visible in the outputs.
"""

from functools import partial

import torch
from torch import nn

import mmfreq
from benchmarks.harness.entries import ModelSources
from mmfreq.models._base import Stage
from mmfreq.testing.golden import golden_state

# MetaFormer (arXiv 2210.13452): separable convolutions; the same with attention in the last two stages. ConvNeXt (arXiv 2201.03545)
PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')


def model_sources() -> ModelSources:
    """All models that can be compared."""
    from benchmarks import reference

    forms = {
        'mmfreq': unchanged,
        'reference': reference.twin,
        'optimized': mmfreq.optimize,
        'memory_efficient': memory_efficient,
        'compiled': torch.compile,
        'compiled_blocks': mmfreq.compile_blocks,
        'mmpretrain': mmpretrain,
    }
    return ModelSources(backbone, backbone_for_counting, forms, {name: partial(peer, name) for name in PEERS})


def unchanged(model: nn.Module) -> nn.Module:
    """The model as it is built."""
    return model


def memory_efficient(model: nn.Module) -> nn.Module:
    """The model as built with `memory_efficient=True`."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.memory_efficient = True
    return model


def backbone(arch: str) -> nn.Module:
    """The backbone of mmfreq in eval mode."""
    model = mmfreq.build_backbone(arch)
    model.load_state_dict(golden_state({name: tuple(value.shape) for name, value in model.state_dict().items()}))
    return model.eval()


def backbone_for_counting(arch: str) -> nn.Module:
    """The backbone of mmfreq without weights, with FFTs, which the counter recognizes."""
    with torch.device('meta'):
        return mmfreq.build_backbone(arch, spectral='fft')


def mmpretrain(model: nn.Module) -> nn.Module:
    """mmpretrain's HorNet with the weights of mmfreq's."""
    from benchmarks.reference.mmpretrain_hornet import twin

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


class SegmentorMaps(nn.Module):
    """The logits of all heads of a segmentor of mmseg, as a model for `Call`.

    Shape:
        `(N, 3, H, W)` to a list of `(N, classes, h, w)`, decode head first.
    """

    def __init__(self, segmentor: nn.Module):
        super().__init__()
        self.segmentor = segmentor

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.segmentor.extract_feat(images)
        heads = [self.segmentor.decode_head]
        if self.segmentor.with_auxiliary_head:
            heads.append(self.segmentor.auxiliary_head)
        return [head(maps) for head in heads]


def segmentor(config: str) -> nn.Module:
    """The segmentor of a config with random weights, the same in every call."""
    from mmfreq.apis.loading import load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SegmentorMaps(load_model(config, None).model)
