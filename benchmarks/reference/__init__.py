"""Reference implementations of the backbones: plain PyTorch as in the authors' code, the baseline of the benchmarks.

They are written from the facts of the papers' code (`NOTICE.md` names it) and share no layer with `mmfreq`, so that they also
verify its numbers. They keep what costs time: norms as separate steps, filters that are resized in every forward pass (dynamic ones
always, others if the grid differs), filters mixed as complex numbers, spectral networks as four real products, no folded batch
norms, no cache, no choice of transform. Names and shapes of parameters are the published ones, as in mmfreq. Drop path, frozen
stages and checkpointing are not implemented.

    from benchmarks import reference

    model = reference.build('hornet-tiny-gf')  # with PyTorch's initial weights
    model = reference.twin(mmfreq.build_backbone('hornet-tiny-gf'))  # with the weights of a model of mmfreq

Not guaranteed: agreement with mmfreq on CUDA, where `torch.fft.irfft2` may interpret non-Hermitian spectra differently
(`mmfreq/ops/spectral.py`).
"""

from torch import nn

from mmfreq.models._base import FrequencyBackbone, find_arch
from mmfreq.models._factory import backbone_class

from .affnet import AFFNet
from .dfformer import DFFormer
from .gfnet import GFNet, GFNetPyramid
from .hornet import HorNet

__all__ = ['build', 'twin']

REFERENCES = {cls.__name__: cls for cls in (HorNet, DFFormer, GFNet, GFNetPyramid, AFFNet)}  # by the name of mmfreq's class


def build(arch: str, img_size: int | None = None) -> nn.Module:
    """The reference implementation of the dense backbone of `arch`, in training mode as every new module.

    Args:
        arch: name in `mmfreq.list_archs()`, with hyphens or underscores.
        img_size: square image size whose grids filters and position embeddings are stored at; default: of the released weights.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of four `(N, C, h, w)`, as `mmfreq.build_backbone(arch)` does.

    Raises:
        ValueError: unknown arch (the message has the nearest names), or one without a reference implementation.
    """
    cls = backbone_class(arch)
    reference = reference_class(cls, arch)
    size = cls.published_preprocessing(arch).size if img_size is None else img_size
    return reference(find_arch(arch, cls.ARCHS)[1], size)


def twin(model: FrequencyBackbone) -> nn.Module:
    """The reference implementation of a backbone of mmfreq, with a copy of its weights, on its device and in its mode.

    In training mode the two agree if `model` has no drop path.

    Raises:
        ValueError: the model has no reference implementation, or has options that the reference does not support.
    """
    reference = reference_class(type(model), model.arch_name)
    unsupported = []
    if model.out_indices != (0, 1, 2, 3):
        unsupported.append(f'out_indices={model.out_indices}')
    if model.filter_resize != model.published_resize:
        unsupported.append(f"filter_resize='{model.filter_resize}'")
    if getattr(model, 'output_stride', 32) != 32:
        unsupported.append(f'output_stride={model.output_stride}')
    if unsupported:
        raise ValueError(
            f'The reference implementation does not support {", ".join(unsupported)}. Build the {type(model).__name__} without it.'
        )
    twin = reference(model.arch, model.img_size, model.in_channels)
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin.to(next(model.parameters()).device).train(model.training)


def reference_class(cls: type, arch: str | None) -> type[nn.Module]:
    """The reference implementation of class `cls` of mmfreq."""
    if cls.__name__ not in REFERENCES:
        raise ValueError(
            f"There is no reference implementation of {cls.__name__} (arch '{arch}'): its code was never released. "
            f'Choose an arch of {", ".join(REFERENCES)}.'
        )
    return REFERENCES[cls.__name__]
