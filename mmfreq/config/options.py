"""Our backbones as a config describes them, without weights and without memory."""

import copy
from inspect import signature

import torch
from mmengine.config import Config

from mmfreq.config.reading import type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.models._factory import backbone_class, list_archs


def is_ours(kind):
    """Whether the `type` of a config is of mmfreq."""
    return kind.startswith('mmfreq.') if isinstance(kind, str) else getattr(kind, '__module__', '').startswith('mmfreq.')


def find_backbone_class(name, arch=None):
    """Our backbone class of a bare name, which must be that of `arch`, if this is a name.

    Raises:
        UserError: there is none, or the arch is of another.
        ValueError: unknown arch.
    """
    kinds = {kind.__name__: kind for kind in map(backbone_class, list_archs())}
    if name not in kinds:
        raise UserError(f'there is no backbone mmfreq.{name}; expected one of {", ".join(f"mmfreq.{each}" for each in kinds)}')
    if isinstance(arch, str) and (right := backbone_class(arch)) is not kinds[name]:
        raise UserError(f"arch '{arch}' is of type mmfreq.{right.__name__}, got type mmfreq.{name}: change one of them")
    return kinds[name]


def build_arch_on_meta(arch, **options):
    """Our backbone of an arch, given by name, on the meta device; `options` and errors as in `state`."""
    return build_on_meta(backbone_class(arch), arch=arch, **options)


def build_on_meta(kind, **arguments):
    """A backbone of one of our classes on the meta device.

    Raises:
        ValueError: unknown arch, or a value that the class refuses.
        UserError: an argument that the class does not have, or of another type than it takes.
    """
    known = [name for function in (kind.__init__, kind.build) for name in signature(function).parameters]
    known = [name for name in dict.fromkeys(known) if name not in ('self', 'options')]
    if unknown := [name for name in arguments if name not in known]:
        raise UserError(f'mmfreq.{kind.__name__} has no argument {", ".join(unknown)}; it takes {", ".join(known)}')
    try:
        with torch.device('meta'):
            return kind(**arguments)
    except TypeError as error:
        raise UserError(
            f'mmfreq.{kind.__name__} cannot be made of {arguments}: {error}; its docstring says what it takes'
        ) from error


# Overriding values of a config by dotted key; a backbone exchanged by them leaves nothing of the old one behind.


BACKBONE = 'model.backbone.'
KEPT = ('type', 'out_indices')  # out_indices of another's arguments: necks and heads count on it; the rest says how it was made


def merge_options(cfg, options):
    """Put options into a Config, in place.

    Where they set `model.backbone.type` to one of ours in place of another library's, all of the old backbone's keys go but
    `out_indices`, and `model.pretrained` too: merging alone would hand a ResNet's depth and weights to ours. The log says so, and
    which channels the necks and heads must now take. Configs whose backbone is ours already are merged as mmengine does it.

    Raises:
        UserError: the new backbone's type is unknown, its arch is of another type, or it has not an argument of that name.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    replaced = _backbone_of(cfg).get('type')
    options = copy.deepcopy(options or {})
    cfg.merge_from_dict(options)
    backbone = _backbone_of(cfg)
    if replaced is None or is_ours(replaced) or not is_ours(backbone.get('type')):
        return
    given = backbone_options(dotted(options))
    dropped = [key for key in backbone if key not in given and key not in KEPT]
    for key in dropped:
        del backbone[key]
    if cfg.model.pop('pretrained', None) is not None:
        dropped.append('model.pretrained')
    stated = _backbone_on_meta(backbone, type_name(replaced), given)
    log_once(
        f'model.backbone is {backbone.type} in place of {type_name(replaced)}; left out of its keys: '
        f'{", ".join(dropped) or "none"}. It gives maps of {list(stated.out_channels)} channels at strides '
        f'{list(stated.out_strides)}: the in_channels of necks and heads must say so. tools/mix.py writes a config that does.'
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
    """The backbone's keys and values among dotted options."""
    found = Config(dict(options.get('model.backbone') or {}))
    found.merge_from_dict({key.removeprefix(BACKBONE): value for key, value in options.items() if key.startswith(BACKBONE)})
    found = found.to_dict()
    found.pop('_delete_', None)
    return found


def _backbone_on_meta(backbone, replaced, given):
    """Our backbone that a config describes, on the meta device; refuses what would fail only when it is built."""
    arguments = backbone.to_dict()
    kind = find_backbone_class(type_name(arguments.pop('type')), arguments.get('arch'))
    kept = [] if 'out_indices' in given else list(arguments.get('out_indices', ()))
    if any(i not in range(-kind.num_stages, kind.num_stages) for i in kept):
        raise UserError(
            f'model.backbone.out_indices={kept} are those of {replaced}, and mmfreq.{kind.__name__} has stages 0 to '
            f'{kind.num_stages - 1}: set model.backbone.out_indices too'
        )
    return build_on_meta(kind, **arguments)


def _backbone_of(cfg):
    return (cfg.get('model') or {}).get('backbone') or {}
