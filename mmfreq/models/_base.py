"""What every backbone and classifier shares: arguments, stages, freezing, loading of published files, ImageNet heads.

A family gives a table `ARCHS` of frozen records and implements `build`, `forward_stages`, `forward`, `stage_sides`, `drop_stages`,
`frozen_parts` and `block_position`; `StagedBackbone` does most of it for ConvNeXt's layout of names.

Legend: N batch, C channels, H W grid. Maps between blocks are NCHW, in channels-last memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from mmfreq.layers.basic import channels_last
from mmfreq.layers.filters import check_choice
from mmfreq.ops import RESIZE_POLICIES, SPECTRAL_BACKENDS
from mmfreq.speed.memory_efficient import saving_less
from mmfreq.weights.fit import fit_checkpoint
from mmfreq.weights.load import load_weights

MIN_SIDE = 32  # pixels; the last stage of every family then has a map of at least 1x1
LAYER_GROUPS = 12  # of layer-wise learning-rate decay, between the stem's and the head's
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
STRIDES = (4, 8, 16, 32)  # of the stages of a `StagedBackbone`


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


class Stage(nn.Sequential):
    """Blocks that are called one after the other.

    Args:
        *blocks: maps of `(N, C, H, W)` to the same.
        with_cp: recompute each block in the backward pass.
        memory_efficient: recompute cheap functions in the backward pass, see `mmfreq.speed.memory_efficient`.

    Shape:
        `(N, C, H, W)` to what the last block returns.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False, memory_efficient: bool = False):
        super().__init__(*blocks)
        self.with_cp = with_cp
        self.memory_efficient = memory_efficient

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.run(block, x)
        return x

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block, in the way that the arguments ask for."""
        if self.with_cp:
            return checkpointed(block, x)
        if self.memory_efficient:
            with saving_less():
                return block(x)
        return block(x)

    def extra_repr(self) -> str:
        return ', '.join(f'{name}=True' for name in ('with_cp', 'memory_efficient') if getattr(self, name))


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
        spectral: backend of `mmfreq.ops.spectral`.
        memory_efficient: recompute norms, activations and products in the backward pass instead of saving them.
        frozen_stages: -1 freezes nothing; k freezes the stem, stages 0..k and their output norms (no gradient, eval mode).
        with_cp: recompute whole blocks in the backward pass; saves less and takes longer than `memory_efficient`, and excludes it.
        init_cfg: `dict(type='Pretrained', checkpoint=FILE)` takes a published file as it is, strictly; a field `fresh` does what it
            does in `load_weights`.

    Raises:
        ValueError: unknown arch (with the nearest names), policy or backend, an index out of range, both `with_cp` and
            `memory_efficient`; in forward an image of other channels or smaller than 32x32.
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
        memory_efficient: bool = False,
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
        self.filter_resize = check_choice('filter_resize', filter_resize or self.published_resize, RESIZE_POLICIES)
        self.spectral = check_choice('spectral', spectral, SPECTRAL_BACKENDS)
        if with_cp and memory_efficient:
            raise ValueError('with_cp recomputes all that memory_efficient would, and more; got both, leave one of them out')
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.memory_efficient = memory_efficient
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

    def stage(self, blocks: Iterable[nn.Module]) -> Stage:
        """A stage of these blocks, with the arguments of this backbone."""
        return Stage(*blocks, with_cp=self.with_cp, memory_efficient=self.memory_efficient)

    def check_input(self, x: Tensor) -> Tensor:
        """`x`, if it is a batch of images of the right channels and at least 32x32."""
        return check_images(x, self.in_channels, type(self).__name__)

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
            own = fit_checkpoint(own, self).state
        state_dict.update({prefix + name: value for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


class StagedBackbone(FrequencyBackbone):
    """Base of the backbones of four stages in ConvNeXt's names: `downsample_layers.i`, `stages.i.j` and output norms `norm{i}`."""

    downsample_layers: nn.ModuleList
    stages: nn.ModuleList

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.check_input(x)
        outs = []
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x))
            outs.append(x)
        return outs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outs = self.forward_stages(x)
        return tuple(getattr(self, f'norm{i}')(outs[i]) for i in self.out_indices)

    def stage_sides(self, side: int) -> tuple[int, ...]:
        return tuple(side // stride for stride in STRIDES)

    def drop_stages(self, keep: int) -> None:
        del self.downsample_layers[keep:], self.stages[keep:]
        self.built_stages = min(self.built_stages, keep)

    def unbuilt_parts(self) -> tuple[tuple[str, str], ...]:
        parts = (rf'(downsample_layers|stages)\.{i}\.' for i in range(self.built_stages, self.num_stages))
        return tuple((part, 'a stage after the last one that this model returns') for part in parts)

    def frozen_parts(self) -> list[nn.Module]:
        frozen = range(min(self.frozen_stages + 1, self.built_stages))
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i in frozen]
        return [m for i in frozen for m in (self.downsample_layers[i], self.stages[i])] + norms

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part == 'downsample_layers':
            return (int(index[0]), 0) if int(index[0]) else (-1, 0)
        return (int(index[0]), int(index[1])) if part == 'stages' else None


def check_images(x: Tensor, in_channels: int, name: str) -> Tensor:
    """`x`, if it is a batch of images with `in_channels` channels and at least 32x32; `name` is that of the model."""
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'{name} takes (N, {in_channels}, H, W), got {tuple(x.shape)}; convert the images '
            f'or build the backbone with in_channels set to what they have'
        )
    if min(x.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f'{name} needs images of at least {MIN_SIDE}x{MIN_SIDE}, got {x.shape[-2]}x{x.shape[-1]}; pad or enlarge them'
        )
    return x


def channels_last_on_cpu(x: Tensor) -> Tensor:
    """`x` in channels-last memory on a CPU, where convolutions of it are several times faster, above all in the backward pass."""
    return channels_last(x) if x.device.type == 'cpu' else x


fx.wrap('check_images')


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """The block, recomputed in the backward pass."""
    if not x.requires_grad:
        return block(x)
    if torch.compiler.is_compiling():  # takes no context, and counts a batch once by itself
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block)))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode leave their running statistics alone: the forward pass has counted this batch already."""
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats and m.training]
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


def final_linear(channels: int, num_classes: int) -> nn.Module:
    """The layer that gives the logits; no classes, no layer."""
    return nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()


class FrequencyClassifier:
    """Mixed into a backbone class, as in `class HorNetClassifier(FrequencyClassifier, HorNet)`.

    A family gives `forward_head`, and `final_features` where its head begins before the pooling.

    Attributes:
        num_classes: width of the logits; 0 is no last layer: `forward` then returns what the last layer would have got.
        head_features: width of what the last layer gets.
        last_layer: name of the last layer, as published.
    """

    last_layer: ClassVar[str] = 'head'
    num_classes: int
    head_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """The map `(N, C, h, w)` that the head starts from, of images `(N, in_channels, H, W)`."""
        return self.final_features(self.forward_stages(x)[-1])

    def final_features(self, x: Tensor) -> Tensor:
        """What lies between the last stage's map and the pooling; nothing unless a family says so."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(N, num_classes)` of such a map, or with `pre_logits` the input `(N, head_features)` of the last layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.last_layer)

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer, for fine-tuning; the rest keeps its weights."""
        parent, _, name = self.last_layer.rpartition('.')
        old = next(self.parameters())
        new = final_linear(self.head_features, num_classes)
        if isinstance(new, nn.Linear):
            nn.init.trunc_normal_(new.weight, std=0.02)
            nn.init.zeros_(new.bias)
        setattr(self.get_submodule(parent), name, new.to(device=old.device, dtype=old.dtype))
        self.num_classes = num_classes


class NormedHead(FrequencyClassifier):
    """Mean over the map, `norm`, `head` (HorNet, ConvNeXt)."""

    def add_head(self, num_classes: int) -> None:
        """Make both layers, the linear one truncated normal 0.02; for the constructor."""
        self.num_classes = num_classes
        self.head_features = self.channels[-1]
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        self.reset_classifier(num_classes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.norm(x.mean((-2, -1)))
        return pooled if pre_logits else self.head(pooled)
