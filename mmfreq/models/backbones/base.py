"""What every backbone shares: its arguments, freezing, loading of published files, and what it states about itself.

A family gives a table `ARCHS` of frozen records and implements `build`, `forward_stages`, `forward`, `stage_sides`, `drop_stages`,
`frozen_parts` and `block_position`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmfreq.checkpoint.fit import fit_backbone
from mmfreq.checkpoint.load import load_weights
from mmfreq.layers.stored_filter import choose
from mmfreq.ops import RESIZE_POLICIES, SPECTRAL_BACKENDS

MIN_SIDE = 32  # pixels; the last stage of every family then has a map of at least 1x1
LAYER_GROUPS = 12  # of layer-wise learning-rate decay, between the stem's and the head's


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs in the published ImageNet evaluation.

    Attributes:
        size: side of the square input, in pixels.
        mean, std: of RGB in 0..1, taken off and divided by.
        resize: the shorter side before a centre crop of `size`; None warps the image to the square.
        interpolation: of that resize.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: int | None = 256
    interpolation: str = 'bicubic'


class FrequencyBackbone(BaseModule):
    """Base of the backbones.

    Args:
        arch: name in `ARCHS` (hyphens or underscores) or a dict with the fields of its records; default `default_arch`.
        in_channels: channels of the image.
        out_indices: stages to return, in this order; negative ones count from the last. Stages after the last one returned are not
            built, so that every parameter has a gradient, as DDP wants it. None of them returned (a classifier) builds all.
        drop_path_rate: of the last block; rates rise linearly from 0.
        img_size: square image size, in pixels, at whose grids filters and position embeddings are stored; default the published
            one. Maps of other sizes resize them in forward.
        filter_resize: policy of `mmfreq.ops.resize` from the stored grid to the map's; None is the published one.
        spectral: backend of `mmfreq.ops.fft`.
        frozen_stages: -1 freezes nothing; k freezes the stem, stages 0..k and their output norms (no gradient, eval mode).
        with_cp: recompute each block in the backward pass instead of keeping its activations; changes no number.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE)` takes a published file as it is, strictly; a field `fresh` does what it
            does in `load_weights`.

    Raises:
        ValueError: unknown arch (with the nearest names), policy or backend, an index out of range; in forward an image of other
            channels or smaller than 32x32.
    """

    family: ClassVar[str]
    default_arch: ClassVar[str]
    published_resize: ClassVar[str]  # the policy of `ops/resize.py` that the published weights were trained with
    num_stages: ClassVar[int] = 4
    ARCHS: ClassVar[Mapping[str, Any]]
    preprocessing: ClassVar[Preprocessing] = Preprocessing()
    channels: tuple[int, ...]  # of each stage
    strides: tuple[int, ...]  # of each stage, in pixels
    arch_depths: tuple[int, ...]  # blocks of each stage, built or not
    built_stages: int  # stages that exist

    def __init__(
        self,
        arch: str | dict | None = None,
        in_channels: int = 3,
        out_indices: Iterable[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        img_size: int | None = None,
        filter_resize: str | None = None,
        spectral: str = 'auto',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **options,
    ):
        super().__init__(init_cfg)
        self.arch_name, self.arch = find_arch(self.default_arch if arch is None else arch, self.ARCHS)
        self.in_channels = in_channels
        self.out_indices = tuple(stage_index(i, self.num_stages) for i in out_indices)
        self.built_stages = max(self.out_indices, default=self.num_stages - 1) + 1
        if not -1 <= frozen_stages < self.num_stages:
            raise ValueError(f'frozen_stages must be -1 (none) to {self.num_stages - 1} (all stages), got {frozen_stages}')
        self.img_size = self.published_img_size() if img_size is None else img_size
        if not isinstance(self.img_size, int) or self.img_size < MIN_SIDE:
            raise ValueError(f'img_size is the side of a square image, an integer of at least {MIN_SIDE}, got {img_size!r}')
        self.filter_resize = choose('filter_resize', filter_resize or self.published_resize, RESIZE_POLICIES)
        self.spectral = choose('spectral', spectral, SPECTRAL_BACKENDS)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.build(drop_path_rate, **options)
        self.freeze()

    def build(self, drop_path_rate: float) -> None:
        """Make the modules and set `channels`, `strides` and `arch_depths`; the arguments above are attributes by now.

        A family's own arguments are keywords of its `build`.
        """
        raise NotImplementedError

    def published_img_size(self) -> int:
        """Side of the images at whose grids the published weights of this arch are stored."""
        return self.preprocessing.size

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the returned maps."""
        return tuple(self.channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Strides of the returned maps, in pixels."""
        return tuple(self.strides[i] for i in self.out_indices)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        """(pattern, reason) of published names that `out_indices` leaves out of this model."""
        return ()

    @classmethod
    def published_preprocessing(cls, arch: str) -> Preprocessing:
        """That of arch `arch`; the family's, unless the class says otherwise."""
        find_arch(arch, cls.ARCHS)
        return cls.preprocessing

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Raw outputs `(N, C, h, w)` of the built stages, before any output norm."""
        raise NotImplementedError

    def stage_sides(self, side: int) -> tuple[int, ...]:
        """Height (or width) of each stage's map for an image of height (or width) `side`, as the convolutions round it."""
        raise NotImplementedError

    def drop_stages(self, keep: int) -> None:
        """Delete all stages but the first `keep`, for a user of earlier maps alone; norms and heads stay."""
        raise NotImplementedError

    def frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        """Modules and parameters that `frozen_stages` freezes."""
        raise NotImplementedError

    def block_position(self, name: str) -> tuple[int, int] | None:
        """(stage, block) of parameter `name`, relative to the backbone: (-1, 0) for the stem, None for norms and heads."""
        raise NotImplementedError

    def layer_decay_group(self, name: str, decay_type: str) -> int | None:
        """Layer group of parameter `name` (relative to the backbone) for layer-wise learning-rate decay.

        Published for HorNet alone. For other families this is our choice: stage-wise the stem is 0 and stage i is i + 1;
        layer-wise the blocks are spread evenly over 12 groups, the last block in the last.

        Args:
            decay_type: 'stage_wise' or 'layer_wise'.

        Returns:
            The group id, counted from the stem at 0; None for what trains at the full rate, as heads do.
        """
        position = self.block_position(name)
        if position is None:
            return None
        stage, block = position
        if decay_type == 'stage_wise' or stage < 0:
            return stage + 1
        after = sum(self.arch_depths[stage:]) - block - 1
        return LAYER_GROUPS - after * LAYER_GROUPS // sum(self.arch_depths)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """mmpretrain's protocol for its own layer-decay constructor: (layer-wise group, number of groups)."""
        group = self.layer_decay_group(param_name.removeprefix(prefix), 'layer_wise')
        return (LAYER_GROUPS + 1 if group is None else group), LAYER_GROUPS + 2

    def check_input(self, x: Tensor) -> None:
        """Refuse what is not a batch of images of the right channels and at least 32x32."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} takes (N, {self.in_channels}, H, W), got {tuple(x.shape)}; convert the images '
                f'or build the backbone with in_channels set to what they have'
            )
        if min(x.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f'{type(self).__name__} needs images of at least {MIN_SIDE}x{MIN_SIDE}, got {x.shape[-2]}x{x.shape[-1]}; '
                f'pad or enlarge them'
            )

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block, recomputed in the backward pass if `with_cp` asks for it."""
        if self.with_cp and x.requires_grad:
            if torch.compiler.is_compiling():  # takes no context, and counts a batch once by itself
                return checkpoint(block, x, use_reentrant=False)
            return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block)))
        return block(x)

    def freeze(self) -> None:
        """Apply `frozen_stages`; called at the end of the constructor and by every `.train()`."""
        for part in self.frozen_parts():
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()

    def train(self, mode: bool = True) -> 'FrequencyBackbone':
        super().train(mode)
        self.freeze()
        return self

    def init_weights(self) -> None:
        """Nothing but `init_cfg=dict(type='Pretrained', ...)`: the constructor has initialised as published."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            report = load_weights(self, self.init_cfg['checkpoint'], fresh=self.init_cfg.get('fresh', ()))
            print_log(f'{type(self).__name__}: {report}', logger='current')
            self._is_init = True
        else:
            super().init_weights()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        own = {name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
        if own:
            own = fit_backbone(own, self).state
        state_dict.update({prefix + name: value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode leave their running statistics alone: the forward pass has counted this batch already."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def find_arch(arch: str | dict, archs: Mapping[str, Any]) -> tuple[str | None, Any]:
    """(name, record) of an arch given by name, or (None, record) of one given as a dict of fields."""
    if isinstance(arch, str):
        name = arch.replace('_', '-')
        if name in archs:
            return name, archs[name]
        near = get_close_matches(name, archs, n=3, cutoff=0.3) or list(archs)
        raise ValueError(f"arch '{arch}' is unknown; nearest: {', '.join(near)} (all: mmfreq.list_archs())")
    record = type(next(iter(archs.values())))
    known = [f.name for f in fields(record)]
    if wrong := sorted(set(arch) - set(known)):
        raise ValueError(f'arch has unknown fields {wrong}; {record.__name__} has {", ".join(known)}')
    return None, record(**arch)


def stage_index(index: int, num_stages: int) -> int:
    """A stage index counted from 0; negative ones count from the last."""
    if not -num_stages <= index < num_stages:
        raise ValueError(f'out_indices must lie in {-num_stages}..{num_stages - 1}, got {index}')
    return index % num_stages


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """One rate per block, linear from 0 at the first to `rate` at the last; Python floats, grouped by stage."""
    last = max(sum(depths) - 1, 1)
    flat = iter([rate * k / last for k in range(sum(depths))])
    return [[next(flat) for _ in range(depth)] for depth in depths]
