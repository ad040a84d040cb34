"""`--cfg-options` that replace the backbone of a config, and mmfreq's backbones on the meta device."""

import copy
from inspect import signature

import torch
from mmengine.config import Config

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.models._factory import backbone_class, list_archs

BACKBONE = 'model.backbone.'
KEPT = ('type', 'out_indices')  # keys of the replaced backbone that stay; necks and heads depend on out_indices


def merge_options(cfg, options):
    """Merge options into a Config, in place.

    If they replace another library's backbone by one of mmfreq's (`model.backbone.type`), all keys of the old backbone but
    `out_indices` are removed, and `model.pretrained`, too: plain merging would pass a ResNet's depth and weights to the new
    backbone. The log lists what was removed, and the channels that necks and heads must take. All other configs are merged as
    mmengine does it.

    Raises:
        UserError: unknown type; an arch of another type; an argument that the new backbone does not have.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    replaced = _backbone_of(cfg).get('type')
    options = copy.deepcopy(options or {})
    cfg.merge_from_dict(options)
    backbone = _backbone_of(cfg)
    if replaced is None or is_mmfreq_type(replaced) or not is_mmfreq_type(backbone.get('type')):
        return
    given = backbone_options(dotted(options))
    removed = [key for key in backbone if key not in given and key not in KEPT]
    for key in removed:
        del backbone[key]
    if cfg.model.pop('pretrained', None) is not None:
        removed.append('model.pretrained')
    built = _build_from_config(backbone, type_name(replaced), given)
    log_once(
        f'model.backbone is {backbone.type} in place of {type_name(replaced)}; removed of the old keys: '
        f'{", ".join(removed) or "none"}. It returns maps of {list(built.out_channels)} channels at strides '
        f'{list(built.out_strides)}: set in_channels of necks and heads accordingly, or write the config with tools/mix.py.'
    )


def dotted(options):
    """Nested dicts of options as one dict by dotted key; a dict with `_delete_` or `type` stays a value."""
    flat = {}
    for key, value in options.items():
        if isinstance(value, dict) and value and not {'_delete_', 'type'} & set(value):
            flat.update({f'{key}.{inner}': child for inner, child in dotted(value).items()})
        else:
            flat[key] = value
    return flat


def backbone_options(options):
    """The keys and values of `model.backbone` among dotted options."""
    found = Config(dict(options.get('model.backbone') or {}))
    found.merge_from_dict({key.removeprefix(BACKBONE): value for key, value in options.items() if key.startswith(BACKBONE)})
    found = found.to_dict()
    found.pop('_delete_', None)
    return found


def is_mmfreq_type(cls):
    """Whether the `type` of a config, a name or a class, is one of mmfreq's."""
    return cls.startswith('mmfreq.') if isinstance(cls, str) else getattr(cls, '__module__', '').startswith('mmfreq.')


def find_backbone_class(name, arch=None):
    """The backbone class with a bare name; if `arch` is a name, the class must be that of the arch.

    Raises:
        UserError: there is no such class, or the arch belongs to another.
        ValueError: unknown arch.
    """
    classes = {cls.__name__: cls for cls in map(backbone_class, list_archs())}
    if name not in classes:
        raise UserError(f'Expected one of the backbones {", ".join(f"mmfreq.{each}" for each in classes)}; got mmfreq.{name}.')
    if isinstance(arch, str) and (cls := backbone_class(arch)) is not classes[name]:
        raise UserError(f"Expected type mmfreq.{cls.__name__} for arch '{arch}', got mmfreq.{name}. Change one of them.")
    return classes[name]


def build_arch_on_meta(arch, **options):
    """The backbone of an arch name on the meta device; `options` and errors as in `build_on_meta`."""
    return build_on_meta(backbone_class(arch), arch=arch, **options)


def build_on_meta(cls, **arguments):
    """A backbone of one of mmfreq's classes on the meta device.

    Raises:
        ValueError: unknown arch, or a value that the class refuses.
        UserError: an argument that the class does not have, or of a wrong type.
    """
    known = [name for function in (cls.__init__, cls.build) for name in signature(function).parameters]
    known = [name for name in dict.fromkeys(known) if name not in ('self', 'options')]
    if unknown := [name for name in arguments if name not in known]:
        raise UserError(f'mmfreq.{cls.__name__} does not have an argument {", ".join(unknown)}. It takes {", ".join(known)}.')
    try:
        with torch.device('meta'):
            return cls(**arguments)
    except TypeError as error:
        raise UserError(
            f'mmfreq.{cls.__name__} cannot be built from {arguments}: {error}. Its docstring describes the arguments.'
        ) from error


def _build_from_config(backbone, replaced, given):
    """The new backbone on the meta device; raises for what would otherwise fail only when the model is built."""
    arguments = backbone.to_dict()
    cls = find_backbone_class(type_name(arguments.pop('type')), arguments.get('arch'))
    kept = [] if 'out_indices' in given else list(arguments.get('out_indices', ()))
    if any(i not in range(-cls.num_stages, cls.num_stages) for i in kept):
        raise UserError(
            f'mmfreq.{cls.__name__} has stages 0 to {cls.num_stages - 1}, but model.backbone.out_indices={kept} are those of '
            f'{replaced}. Set model.backbone.out_indices, too.'
        )
    return build_on_meta(cls, **arguments)


def _backbone_of(cfg):
    return (cfg.get('model') or {}).get('backbone') or {}
