"""Overriding values of a config by dotted key; a backbone exchanged by them leaves nothing of the old one behind."""

import copy

from mmengine.config import Config

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name
from mmfreq.engine.notes import say
from mmfreq.engine.own_backbones import class_named, is_ours, state

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
    stated = _stated(backbone, type_name(replaced), given)
    say(
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


def _stated(backbone, replaced, given):
    """Our backbone that a config describes, on the meta device; refuses what would fail only when it is built."""
    arguments = backbone.to_dict()
    kind = class_named(type_name(arguments.pop('type')), arguments.get('arch'))
    kept = [] if 'out_indices' in given else list(arguments.get('out_indices', ()))
    if any(i not in range(-kind.num_stages, kind.num_stages) for i in kept):
        raise UserError(
            f'model.backbone.out_indices={kept} are those of {replaced}, and mmfreq.{kind.__name__} has stages 0 to '
            f'{kind.num_stages - 1}: set model.backbone.out_indices too'
        )
    return state(kind, **arguments)


def _backbone_of(cfg):
    return (cfg.get('model') or {}).get('backbone') or {}
