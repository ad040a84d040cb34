"""The backbones in their published formulation: plain PyTorch, step by step, as a baseline for ours.

Each file is written from the facts of the papers' code alone (`NOTICE.md` names it) and shares no layer with `mmfreq`, so that it
is a second opinion on the numbers too. The formulation is kept where it costs: norms as separate steps, filters resized in every
forward (dynamic ones always, others where the grid differs), filters mixed as complex numbers, spectral networks as four real
products, batch norms never folded, no cache, no choice of transform. Names and shapes of parameters are the published ones, which
are ours. Left out: drop path, frozen stages, checkpointing.

    from benchmarks import published

    plain = published.build('hornet-tiny-gf')  # weights as PyTorch begins them
    plain = published.twin(mmfreq.build_backbone('hornet-tiny-gf'))  # with those of a model of ours

Not guaranteed: agreement with ours on CUDA, where `torch.fft.irfft2` may give non-Hermitian spectra another meaning
(`mmfreq/ops/spectral.py`).
"""

from torch import nn

from mmfreq.models import affnet as our_affnet
from mmfreq.models import dfformer as our_dfformer
from mmfreq.models import gfnet as our_gfnet
from mmfreq.models import hornet as our_hornet
from mmfreq.models._base import FrequencyBackbone, find_arch
from mmfreq.models._factory import backbone_class

from .affnet import AFFNet
from .dfformer import DFFormer
from .gfnet import GFNet, GFNetPyramid
from .hornet import HorNet

__all__ = ['build', 'twin']

FORMS = {
    our_hornet.HorNet: HorNet,
    our_dfformer.DFFormer: DFFormer,
    our_gfnet.GFNet: GFNet,
    our_gfnet.GFNetPyramid: GFNetPyramid,
    our_affnet.AFFNet: AFFNet,
}


def build(arch: str, img_size: int | None = None) -> nn.Module:
    """The published form of the dense backbone of `arch`, in training mode as every new module.

    Args:
        arch: name in `mmfreq.list_archs()`, hyphens or underscores.
        img_size: square image size at whose grids filters and position embeddings are stored; default that of the released weights.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of four `(N, C, h, w)`, as `mmfreq.build_backbone(arch)` does.

    Raises:
        ValueError: unknown arch (with the nearest names), or one that has no published form.
    """
    cls = backbone_class(arch)
    form = published_form(cls, arch)
    size = cls.published_preprocessing(arch).size if img_size is None else img_size
    return form(find_arch(arch, cls.ARCHS)[1], size)


def twin(model: FrequencyBackbone) -> nn.Module:
    """The published form of a backbone of ours, with a copy of its weights, on its device and in its mode.

    In training mode the two agree if `model` has no drop path.

    Raises:
        ValueError: a model without a published form, or with options that the published form does not have.
    """
    form = published_form(type(model), model.arch_name)
    wrong = []
    if model.out_indices != (0, 1, 2, 3):
        wrong.append(f'out_indices={model.out_indices}')
    if model.filter_resize != model.published_resize:
        wrong.append(f"filter_resize='{model.filter_resize}'")
    if getattr(model, 'output_stride', 32) != 32:
        wrong.append(f'output_stride={model.output_stride}')
    if wrong:
        raise ValueError(f'the published form has no {", ".join(wrong)}; build the {type(model).__name__} without')
    plain = form(model.arch, model.img_size, model.in_channels)
    plain.load_state_dict(model.state_dict(), strict=True)
    return plain.to(next(model.parameters()).device).train(model.training)


def published_form(cls: type, arch: str | None) -> type[nn.Module]:
    """The class here that stands for class `cls` of ours."""
    if cls not in FORMS:
        known = ', '.join(each.__name__ for each in FORMS)
        raise ValueError(
            f"there is no published form of {cls.__name__} (arch '{arch}'): its code was never released; known: {known}"
        )
    return FORMS[cls]
