"""Every arch as a timm model: `timm.create_model('hornet_tiny_gf')` after `import mmfreq.integrations.timm`.

`TimmModel` adds timm's interface to a classifier. Entry points, configs and classes are generated from the tables of archs, with
underscores for hyphens; the classes are attributes of this module, so that models can be pickled. `pretrained=True` finds or
downloads the published classifier as `mmfreq.build_classifier` does; the tags are those of `mmfreq.list_weights`, as in
'hornet_large_gf.in22k'. A file of your own: `pretrained_cfg_overlay=dict(file=PATH)`.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn

from mmfreq.log import log_once
from mmfreq.models._factory import classifier_class, list_archs
from mmfreq.weights import files
from mmfreq.weights.fit import fit_checkpoint
from mmfreq.weights.load import classes_in, load_pretrained
from mmfreq.weights.store import local_file

POOLS = ('avg', '')  # values of `global_pool`
SOURCES = ('file', 'url', 'state_dict', 'hf_hub_id')  # fields of a pretrained_cfg that give the location of weights
__all__ = []
default_cfgs = {}


class TimmModel:
    """Mixin before an ImageNet classifier of mmfreq.

    Args:
        arch: as in `mmfreq.build_classifier`.
        num_classes: 0 returns pooled features.
        in_chans: channels of the image.
        global_pool: 'avg' as published; '' returns the unpooled map and needs num_classes=0.
        drop_rate: dropout before the last layer; None is the published rate.
        output_stride: 32; AFFNet also supports 16 and 8.
        device, dtype: of the parameters; None is torch's default.
        **kwargs: as in the backbone: `drop_path_rate`, `img_size`, `spectral`, `filter_resize`, ...

    Raises:
        ValueError: unknown pooling, '' with classes, or an output stride that the family does not support.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float | None = None,
        output_stride: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs,
    ):
        if output_stride != 32:
            if self.family != 'affnet':
                raise ValueError(f'{arch} supports output_stride=32 only, got {output_stride}; AFFNet also supports 16 and 8')
            kwargs['output_stride'] = output_stride
        with nullcontext() if device is None else torch.device(device):
            super().__init__(arch, num_classes=num_classes, in_channels=in_chans, **kwargs)
        self.to(dtype=dtype)
        self.in_chans = in_chans
        self.num_features = self.channels[-1] if self.family != 'affnet' else self.head_features
        self.global_pool = checked_pool(global_pool, num_classes)
        self.set_drop_rate(drop_rate)
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=self.stage_module(i))
            for i, (channels, stride) in enumerate(zip(self.channels, self.strides))
        ]

    @property
    def head_hidden_size(self) -> int:
        """Width of the last layer's input."""
        return self.head_features

    def set_drop_rate(self, drop_rate: float | None) -> None:
        """Set the dropout before the last layer: the published module if the head has one, else a new one."""
        published = [
            m for name, m in self.named_modules() if isinstance(m, nn.Dropout) and name.startswith(('head.', 'classifier.'))
        ]
        if not published:
            self.head_drop = nn.Dropout(drop_rate or 0.0)
        elif drop_rate is not None:
            published[0].p = drop_rate

    def stage_module(self, stage: int) -> str:
        """Name of the module that outputs the map of `stage`."""
        name = [n for n, _ in self.named_parameters() if (at := self.block_position(n)) and at[0] == stage][-1]
        return '.'.join(name.split('.')[: 1 if name.startswith('layer_') else 2])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a map `(N, C, h, w)`; with `pre_logits` the input of the last layer; the map itself without pooling."""
        if not self.global_pool:
            return x
        if not hasattr(self, 'head_drop'):
            return super().forward_head(x, pre_logits)
        pooled = self.head_drop(super().forward_head(x, pre_logits=True))
        return pooled if pre_logits else self.get_classifier()(pooled)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer; `global_pool` as in the constructor, None keeps the current one."""
        if global_pool is not None:
            self.global_pool = checked_pool(global_pool, num_classes)
        super().reset_classifier(num_classes)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Raw maps of the stages, and the final features unless `intermediates_only`.

        Args:
            x: images `(N, in_chans, H, W)`.
            indices: stages; an int selects the last ones, None all.
            norm, stop_early: accepted for timm's callers, without effect: the classifiers have no norms of stages, and
                `prune_intermediate_layers` removes later stages.
            output_fmt: 'NCHW'.
            intermediates_only: do not return the final features.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got '{output_fmt}'")
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        maps = self.forward_stages(x)
        intermediates = [maps[i] for i in taken]
        return intermediates if intermediates_only else (self.final_features(maps[-1]), intermediates)

    def get_intermediate_layers(self, x: Tensor, n: int | Sequence[int] = 1, **kwargs) -> list[Tensor]:
        """Raw maps of the last `n` stages, or of the stages in the list `n`."""
        return self.forward_intermediates(x, n, intermediates_only=True, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Delete the stages after the last of `indices`, the norm and the head; return the indices counted from 0."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        self.drop_stages(last + 1)
        if prune_head or prune_norm:
            for name in ('norm', 'head', 'classifier', 'conv_1x1_exp', 'head_drop'):
                if hasattr(self, name):
                    setattr(self, name, nn.Identity())
        return taken

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass."""
        self.with_cp = enable

    def load_pretrained(self, path: str) -> None:
        """timm's method for files that a model reads itself."""
        load_pretrained(self, path)

    def no_weight_decay(self) -> set[str]:
        """The position embeddings, as published for GFNet."""
        return {'pos_embed'} & {name for name, _ in self.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """A function from a parameter name to its position: the stem, then stages (coarse) or blocks, then norms and the head."""

        def order(name: str) -> tuple[float, ...]:
            position = self.block_position(name)
            if position is None:
                return MATCH_PREV_GROUP
            stage, block = position
            return (stage,) if coarse or stage < 0 else (stage, block)

        return order


def checked_pool(global_pool: str, num_classes: int) -> str:
    """`global_pool`; raises a ValueError if it is unknown or needs num_classes=0."""
    if global_pool not in POOLS or (not global_pool and num_classes > 0):
        raise ValueError(f"global_pool must be 'avg', or '' with num_classes=0, got '{global_pool}' with {num_classes} classes")
    return global_pool


def model_class(arch: str) -> type:
    """The class of an arch's timm models, created as an attribute of this module."""
    base = classifier_class(arch)
    name = base.__name__.replace('Classifier', 'Timm')
    if name not in globals():
        globals()[name] = type(name, (TimmModel, base), {'__module__': __name__, '__doc__': base.__doc__})
    return globals()[name]


def classifier_files(arch: str) -> list[files.Weights]:
    """The published ImageNet classifiers of an arch, the default one first."""
    return [each for tag in files.CLASSIFIERS for each in files.list_weights(arch) if each.tag == tag]


def with_local_file(arch: str, overlay: dict | None, pretrained_cfg: PretrainedCfg | dict | str | None) -> dict:
    """timm's `pretrained_cfg_overlay` with the local file of the published weights, unless another source is given.

    timm cannot use the URLs itself: the name of a shared link is not that of a file.

    Raises:
        CheckpointError: unknown tag, or no published file of the arch.
        MissingWeightsError: it is neither here nor served by a URL; the message says how to get it.
    """
    overlay = dict(overlay or {})
    given = pretrained_cfg.to_dict() if isinstance(pretrained_cfg, PretrainedCfg) else pretrained_cfg
    given = {**(given if isinstance(given, dict) else {}), **overlay}
    listed = files.weights_at(given['url']) if given.get('url') else None
    if listed or not any(given.get(key) for key in SOURCES):
        default = listed.tag if listed else next((each.tag for each in classifier_files(arch)), 'in1k')
        tag = pretrained_cfg if isinstance(pretrained_cfg, str) else default
        overlay['file'] = str(local_file(files.find_weights(f'{arch}/{tag}').name))
        if tag != 'in1k':  # the number of classes of ImageNet-22k files is not published
            overlay['num_classes'] = classes_in(overlay['file'], classifier_class(arch), arch)
    return {**overlay, 'custom_load': True} if overlay.get('file') else overlay


def config(arch: str, weights: files.Weights | None) -> dict:
    """timm's pretrained_cfg of an arch, with or without weights: published evaluation, names of the first and the last layer."""
    cls = model_class(arch)
    preprocessing = cls.published_preprocessing(arch)
    with torch.device('meta'):
        model = cls(arch)
    first_conv = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    side = model.stage_sides(preprocessing.size)[-1]
    source = dict(url=weights.urls[0]) if weights and weights.urls else {}
    return source | dict(
        num_classes=1000,
        input_size=(3, preprocessing.size, preprocessing.size),
        pool_size=(side, side),
        crop_pct=1.0 if preprocessing.resize is None else preprocessing.size / preprocessing.resize,
        crop_mode='squash' if preprocessing.resize is None else 'center',
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        first_conv=first_conv,
        classifier=cls.last_layer,
        fixed_input_size=False,
    )


def published_state(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """timm's pretrained_filter_fn: converts any published layout to the model's names and filter sizes.

    Files of segmentors and detectors have no norm and head after the last stage. Both keep their initial values, with a warning.
    """
    fitted = fit_checkpoint(state, model, fit_channels=False).state  # timm fits the first convolution itself
    after_stages = {name: value for name, value in model.state_dict().items() if model.block_position(name) is None}
    if after_stages and not after_stages.keys() & fitted.keys():
        log_once(f'The file has no {", ".join(after_stages)}: they keep their initial values.', logging.WARNING)
        fitted.update(after_stages)
    return fitted


def register(arch: str) -> None:
    """Create and register the entry point of `arch`.

    Raises:
        ValueError: timm has its own model of that name.
    """
    name = arch.replace('-', '_')
    if timm.is_model(name) and not timm.model_entrypoint(name).__module__.startswith('mmfreq.'):
        raise ValueError(f'timm already has a model {name}; use mmfreq.build_classifier({arch!r})')

    def entry(pretrained: bool = False, **kwargs) -> nn.Module:
        if pretrained:
            overlay = with_local_file(arch, kwargs.get('pretrained_cfg_overlay'), kwargs.get('pretrained_cfg'))
            kwargs['pretrained_cfg_overlay'] = overlay
        return build_model_with_cfg(
            model_class(arch),
            name,
            pretrained,
            pretrained_filter_fn=published_state,
            feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls='getter'),
            arch=arch,
            **kwargs,
        )

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = __name__
    entry.__doc__ = f'{arch}, as `mmfreq.build_classifier({arch!r})`.'
    tagged = {f'{name}.{weights.tag}': config(arch, weights) for weights in classifier_files(arch)}
    default_cfgs.update(generate_default_cfgs(tagged or {name: config(arch, None)}))
    globals()[name] = register_model(entry)


for _arch in list_archs():
    register(_arch)
