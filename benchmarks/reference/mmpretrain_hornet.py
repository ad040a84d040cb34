"""mmpretrain's own HorNet with the weights of mmfreq's: the code that OpenMMLab users have without this package.

It computes the same function: with the final norm not pooled (`gap_before_final_norm=False`, not its default) and all four
`out_indices`, it has the four output norms and the published resizing of filters in forward. On a CPU its outputs equal those of
the reference implementation bit for bit, and those of mmfreq up to rounding. Differences:

- names: `projs` for `pws`, and `gamma1.weight`, `gamma2.weight` for `gamma1`, `gamma2`; each output is made contiguous;
- its archs `base-gf384` and `large-gf384` store filters of 24x12 and 13x7 (published: 24x13 and 12x7), so widths, depths and grids
  are passed here as a dict; archs that mmpretrain does not have work, too;
- filters of another grid are not resized when they are loaded; the filters of the given model are used as they are;
- its `train()` and `eval()` return None, so they cannot be chained; it cannot be built on the meta device.
"""

import mmfreq  # noqa: F401  (before mmpretrain: supplies mmcv._ext)

# isort: split
import re

from mmpretrain.models.backbones import HorNet
from torch import nn

from mmfreq.models.hornet import HorNet as MmfreqHorNet

# pattern of a parameter name -> mmpretrain's
RENAMED = ((r'\.pws\.', '.projs.'), (r'\.(gamma[12])$', r'.\1.weight'))


def twin(model: MmfreqHorNet) -> nn.Module:
    """mmpretrain's HorNet with a copy of the weights of `model`, on its device and in its mode.

    In training mode the two agree if `model` has no drop path.

    Shape:
        The model takes `(N, C, H, W)` and returns a tuple of four `(N, C, h, w)`.

    Raises:
        ValueError: not a HorNet of mmfreq, or one with other options than the published ones.
    """
    if not isinstance(model, MmfreqHorNet):
        raise ValueError(f'mmpretrain has only HorNet, got {type(model).__name__}.')
    if model.out_indices != (0, 1, 2, 3) or model.filter_resize != model.published_resize:
        raise ValueError(
            f'Build the HorNet with out_indices=(0, 1, 2, 3) and filter_resize={model.published_resize!r}; '
            f'got {model.out_indices} and {model.filter_resize!r}.'
        )
    arch = dict(
        base_dim=model.arch.base_dim,
        depths=list(model.arch.depths),
        orders=list(model.arch.orders),
        dw_cfg=[spatial_operator(model, stage) for stage in range(4)],
    )
    twin = HorNet(arch, in_channels=model.in_channels, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
    twin.load_state_dict({renamed(name): value for name, value in model.state_dict().items()}, strict=True)
    twin.to(next(model.parameters()).device)
    twin.train(model.training)
    return twin


def spatial_operator(model: MmfreqHorNet, stage: int) -> dict:
    """mmpretrain's config of the operator in the gnConvs of a stage."""
    if not model.arch.global_filter[stage]:
        return dict(type='DW', kernel_size=7)
    grid = model.img_size // model.strides[stage]
    return dict(type='GF', h=grid, w=grid // 2 + 1)


def renamed(name: str) -> str:
    """mmpretrain's name of a parameter."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
