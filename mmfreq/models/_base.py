"""Base classes of the backbones and classifiers: common arguments, stages, freezing, layer decay, loading, heads.

A family defines a table `ARCHS` of frozen records, and `build`, `forward_stages`, `forward`, `stage_sides`, `drop_stages`,
`frozen_parts` and `block_position`. `StagedBackbone` implements most of them for ConvNeXt's layout of names.

Legend: N batch, C channels, H W grid. Maps between blocks are NCHW, in channels-last memory.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from mmfreq.speed.memory_efficient import recompute_cheap_functions
from mmfreq.weights.fit import fit_checkpoint
from mmfreq.weights.load import load_weights, pretrained_entries, pretrained_options

MIN_SIDE = 32  # pixels of an image side; the last stage of every family then has a map of at least 1x1
LAYER_GROUPS = 12  # groups of blocks in layer-wise learning-rate decay, between the stem's and the head's
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
STRIDES = (4, 8, 16, 32)  # of the stages of a `StagedBackbone`
UNBUILT_STAGE = 'a stage after the last one that this model returns'


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs in the published ImageNet evaluation.

    Attributes:
        size: side of the square input, in pixels.
        mean, std: normalisation of RGB values in 0..1.
        resize: length of the shorter side before a center crop of `size`; None resizes the image to the square.
        interpolation: of that resize.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: int | None = 256
    interpolation: str = 'bicubic'


class Stage(nn.Sequential):
    """A sequence of blocks.

    Args:
        *blocks: each maps `(N, C, H, W)` to the same shape.
        with_cp: recompute each block in the backward pass.
        memory_efficient: recompute cheap functions in the backward pass, see `mmfreq.speed.memory_efficient`.

    Shape:
        `(N, C, H, W)` to the output of the last block.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False, memory_efficient: bool = False):
        super().__init__(*blocks)
        self.with_cp = with_cp
        self.memory_efficient = memory_efficient

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        for block in self:
            x = self.run(block, x)
        return x

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Call a block as `with_cp` and `memory_efficient` require."""
        if self.with_cp:
            return checkpoint_block(block, x)
        if self.memory_efficient:
            with recompute_cheap_functions():
                return block(x)
        return block(x)

    def extra_repr(self) -> str:
        return ', '.join(f'{name}=True' for name in ('with_cp', 'memory_efficient') if getattr(self, name))


class FrequencyBackbone(BaseModule):
    """Base of the backbones.

    Args:
        arch: name in `ARCHS` (hyphens or underscores) or a dict with the fields of its records; default `default_arch`.
        in_channels: channels of the image.
        out_indices: stages to return, in this order; negative ones count from the last. Later stages than the last one returned
            are not built, so that every parameter has a gradient (DDP requires it). An empty tuple (classifiers) builds all.
        drop_path_rate: stochastic depth of the last block; rates rise linearly from 0.
        img_size: side of the square image, in pixels, at whose grids filters and position embeddings are stored; default the
            published one. For images of other sizes they are resized in forward.
        filter_resize: rule of this resizing, a policy of `mmfreq.ops.resize`; None is the family's `published_resize`.
        spectral: backend of `mmfreq.ops.spectral`; 'auto' uses FFT, and matrix products during an export to ONNX.
        memory_efficient: recompute norms, activations and products in the backward pass instead of saving them.
        frozen_stages: -1 freezes nothing; k freezes the stem, stages 0..k and their output norms (no gradient, eval mode).
        with_cp: recompute whole blocks in the backward pass; saves more memory and takes longer than `memory_efficient`, and
            excludes it.
        init_cfg: `dict(type='Pretrained', checkpoint=SOURCE)` loads a published file strictly; sources, and the further fields
            `prefix`, `map_location`, `fresh` and `entry`, as in `load_weights`.

    Raises:
        ValueError: unknown arch (the nearest names are listed), policy or backend, an index out of range, both `with_cp` and
            `memory_efficient`; in forward an image with other channels or smaller than 32x32.
    """

    init_cfg: Any  # of mmengine's BaseModule
    family: ClassVar[str]
    default_arch: ClassVar[str]
    published_resize: ClassVar[str]  # the policy of `mmfreq.ops.resize` that the published weights were trained with
    num_stages: ClassVar[int] = 4
    ARCHS: ClassVar[Mapping[str, Any]]
    preprocessing: ClassVar[Preprocessing] = Preprocessing()
    channels: tuple[int, ...]  # of each stage
    strides: tuple[int, ...]  # of each stage, in pixels
    arch_depths: tuple[int, ...]  # blocks of each stage, whether it is built or not
    built_stages: int  # number of stages that are built

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
            raise ValueError(f'img_size must be the side of a square image, an integer of at least {MIN_SIDE}, got {img_size!r}')
        self.filter_resize = check_choice('filter_resize', filter_resize or self.published_resize, RESIZE_POLICIES)
        self.spectral = check_choice('spectral', spectral, SPECTRAL_BACKENDS)
        if with_cp and memory_efficient:
            raise ValueError('with_cp and memory_efficient exclude each other, got both; with_cp alone recomputes more')
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.memory_efficient = memory_efficient
        self.build(drop_path_rate, **options)
        self.freeze()

    def build(self, drop_path_rate: float) -> None:
        """Create the modules and set `channels`, `strides` and `arch_depths`; the common arguments are already attributes.

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
        """(pattern, reason) for published parameter names that this model does not have because of `out_indices`."""
        return ()

    @classmethod
    def published_preprocessing(cls, arch: str) -> Preprocessing:
        """Preprocessing of the published ImageNet evaluation of `arch`."""
        find_arch(arch, cls.ARCHS)
        return cls.preprocessing

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Raw outputs `(N, C, h, w)` of the built stages, before any output norm."""
        raise NotImplementedError

    def stage_sides(self, side: int) -> tuple[int, ...]:
        """Height (or width) of each stage's map for an image of height (or width) `side`, rounded as the convolutions do."""
        raise NotImplementedError

    def drop_stages(self, keep: int) -> None:
        """Delete all stages after the first `keep`; norms and heads stay."""
        raise NotImplementedError

    def frozen_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        """Modules and parameters that `frozen_stages` freezes."""
        raise NotImplementedError

    def block_position(self, name: str) -> tuple[int, int] | None:
        """(stage, block) of parameter `name`, relative to the backbone: (-1, 0) for the stem, None for norms and heads."""
        raise NotImplementedError

    def layer_decay_group(self, name: str, decay_type: str) -> int | None:
        """Layer group of parameter `name` (relative to the backbone) for layer-wise learning-rate decay.

        Only HorNet's groups are published. The other families use: 'stage_wise', stem 0 and stage i in group i + 1; 'layer_wise',
        blocks spread evenly over 12 groups, the last block in group 12.

        Args:
            decay_type: 'stage_wise' or 'layer_wise'.

        Returns:
            The group, 0 for the stem; None for parameters that train at the full rate, as heads do.
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
        """(layer-wise group, number of groups), as mmpretrain's layer-decay constructor expects it."""
        group = self.layer_decay_group(param_name.removeprefix(prefix), 'layer_wise')
        return (LAYER_GROUPS + 1 if group is None else group), LAYER_GROUPS + 2

    def stage(self, blocks: Iterable[nn.Module]) -> Stage:
        """A `Stage` of these blocks with the backbone's `with_cp` and `memory_efficient`."""
        return Stage(*blocks, with_cp=self.with_cp, memory_efficient=self.memory_efficient)

    def first_convolution(self) -> str:
        """Name of the weight that sees the image's channels."""
        return next((f'{name}.weight' for name, module in self.named_modules() if isinstance(module, nn.Conv2d)), '')

    def check_input(self, x: Tensor) -> Tensor:
        """`x`; raises a ValueError if it is not a batch of images with the right channels and at least 32x32."""
        return check_images(x, self.in_channels, type(self).__name__)

    def freeze(self) -> None:
        """Apply `frozen_stages`; called by the constructor and by every `.train()`."""
        for part in self.frozen_parts():
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                part.eval()

    def train(self, mode: bool = True) -> 'FrequencyBackbone':
        super().train(mode)
        self.freeze()
        return self

    def init_weights(self) -> None:
        """Load `init_cfg=dict(type='Pretrained', ...)`; the constructor has already initialized the parameters as published."""
        options = pretrained_options(self.init_cfg)
        if options is None:
            super().init_weights()
            return
        if isinstance(self.init_cfg, (list, tuple)) and len(self.init_cfg) > 1:
            self._initialize_others()
        report = load_weights(self, **options)
        print_log(f'{type(self).__name__}: {report}', logger='current')
        self._is_init = True

    def _initialize_others(self) -> None:
        """Apply the entries of `init_cfg` that are not of type Pretrained."""
        given = self.init_cfg
        self.init_cfg = [each for each in given if each not in pretrained_entries(given)]
        super().init_weights()
        self.init_cfg = given

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
        stages = range(self.built_stages, self.num_stages)
        return tuple((rf'(downsample_layers|stages)\.{i}\.', UNBUILT_STAGE) for i in stages)

    def frozen_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        frozen = range(min(self.frozen_stages + 1, self.built_stages))
        norms = [getattr(self, f'norm{i}') for i in self.out_indices if i in frozen]
        return [m for i in frozen for m in (self.downsample_layers[i], self.stages[i])] + norms

    def block_position(self, name: str) -> tuple[int, int] | None:
        part, *index = name.split('.')
        if part == 'downsample_layers':
            return (int(index[0]), 0) if int(index[0]) else (-1, 0)
        return (int(index[0]), int(index[1])) if part == 'stages' else None


class FrequencyClassifier(FrequencyBackbone):
    """Base of the classifiers; a mixin before the backbone class, as in `class HorNetClassifier(NormedHead, HorNet)`.

    A family defines `forward_head`, and `final_features` if its head begins before the pooling.

    Attributes:
        num_classes: width of the logits; with 0 there is no last layer, and `forward` returns its input.
        head_features: width of the last layer's input.
        last_layer: name of the last layer, as published.
    """

    last_layer: ClassVar[str] = 'head'
    num_classes: int
    head_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """The map `(N, C, h, w)` that the head gets, of images `(N, in_channels, H, W)`."""
        return self.final_features(self.forward_stages(x)[-1])

    def final_features(self, x: Tensor) -> Tensor:
        """Layers between the last stage's map and the pooling; by default none."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(N, num_classes)` of such a map; with `pre_logits` the input `(N, head_features)` of the last layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:  # a Tensor; the forward of the backbone class returns a tuple
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.last_layer)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer, for fine-tuning; the rest keeps its weights."""
        parent, _, name = self.last_layer.rpartition('.')
        old = next(self.parameters())
        new = final_linear(self.head_features, num_classes)
        init_linear(new)
        setattr(self.get_submodule(parent), name, new.to(device=old.device, dtype=old.dtype))
        self.num_classes = num_classes


class NormedHead(FrequencyClassifier):
    """`head(norm(mean of x over the map))`, as in HorNet and ConvNeXt.

    Args:
        arch, **kwargs: as in the backbone class; there are no `out_indices`, since a classifier has no output norms.
        num_classes: width of the head; 0 for no head.

    Shape:
        `(N, in_channels, H, W)` to logits `(N, num_classes)`.
    """

    head: nn.Module

    def __init__(self, arch: str | dict | None = None, num_classes: int = 1000, **kwargs):
        super().__init__(arch, out_indices=(), **kwargs)
        self.head_features = self.channels[-1]
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        self.reset_classifier(num_classes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.norm(x.mean((-2, -1)))
        return pooled if pre_logits else self.head(pooled)


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
    """The layer that computes the logits; an identity for 0 classes."""
    return nn.Linear(channels, num_classes) if num_classes > 0 else nn.Identity()


def init_linear(module: nn.Module) -> None:
    """Published initialization of HorNet and GFNet: linear layers truncated normal 0.02, biases 0; convolutions as in PyTorch."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def init_linear_and_conv(module: nn.Module) -> None:
    """Published initialization of HorNet's classifiers and DFFormer: linear layers and convolutions truncated normal 0.02."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_images(x: Tensor, in_channels: int, name: str) -> Tensor:
    """`x`; raises a ValueError if it is not a batch of images with `in_channels` channels and at least 32x32.

    Args:
        name: of the model, for the message.
    """
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f'{name} takes images of shape (N, {in_channels}, H, W), got {tuple(x.shape)}. '
            f'Convert the images, or build the backbone with in_channels set to their number of channels.'
        )
    if any(side < MIN_SIDE for side in x.shape[-2:]):  # not min(): it would compare open sides with each other
        raise ValueError(
            f'{name} needs images of at least {MIN_SIDE}x{MIN_SIDE}, got {x.shape[-2]}x{x.shape[-1]}; pad or enlarge them'
        )
    return x


def channels_last_on_cpu(x: Tensor) -> Tensor:
    """`x` in channels-last memory on a CPU, where convolutions of it are several times faster, mainly in backward."""
    return channels_last(x) if x.device.type == 'cpu' else x


def checkpoint_block(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, recomputed in the backward pass."""
    if not x.requires_grad:
        return block(x)
    if torch.compiler.is_compiling():  # does not support `context_fn`; the compiled graph updates batch norms once
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms in training mode do not update running statistics within it: the first forward pass has counted the batch."""
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats and m.training]
    saved = [(norm.momentum, counter, counter.clone()) for norm in norms if (counter := norm.num_batches_tracked) is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, counter, batches) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            counter.copy_(batches)


# torch.fx cannot trace conditions on a tensor's shape: this function stays one node of a graph
fx.wrap('check_images')
