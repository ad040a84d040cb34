"""Necks and heads of a config, fitted to the feature maps of another backbone.

The rule: `in_channels` of a neck or head must be the channels of the maps that the base gives it (`old`), and becomes the channels
of the new maps (`new`). What does not follow the rule is refused, with the key to set manually. The functions change nested configs
in place. `given` are the dotted keys that the caller has set; these, and what is below them, are not changed.
"""

from mmfreq.config.feature_maps import neck_maps
from mmfreq.config.reading import type_name
from mmfreq.errors import UserError

RESCALERS = ('Feature2Pyramid', 'MultiLevelNeck')  # make a pyramid of maps of one stride; `mix` removes or replaces them
ONE_STRIDE = ('MLANeck',)  # adds its maps without resizing them


def is_given(key, given):
    """Whether the caller has set this dotted key, or one above it."""
    return any(f'{key}.'.startswith(f'{each}.') for each in given)


def necks_of(model):
    """[(dotted key, config)] of the necks, in their order."""
    neck = model.get('neck')
    if isinstance(neck, (list, tuple)):
        return [(f'model.neck.{i}', each) for i, each in enumerate(neck)]
    return [('model.neck', neck)] if neck else []


def heads_of(model):
    """Yield (dotted key, config) of every head that reads maps, also in lists and inside of other heads."""
    for name, head in model.items():
        if name.endswith('_head') and head:
            yield from _heads_in(head, f'model.{name}', outermost=True)


def _heads_in(node, path, outermost=False):
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _heads_in(child, f'{path}.{i}', outermost)
    elif isinstance(node, dict):
        if 'in_channels' in node and (outermost or 'in_index' in node):
            yield path, node
        for name, child in node.items():
            yield from _heads_in(child, f'{path}.{name}')


def take_rescalers(necks, old, scope):
    """Remove the rescaling necks at the front of the list; return the maps after them."""
    while necks and type_name(necks[0][1].get('type')) in RESCALERS:
        old = neck_maps(necks.pop(0)[1], scope, old)
    return old


def used_maps(model, necks, old, given):
    """Sorted indices of the base's maps that its first neck reads, or its heads if there is no neck.

    Raises:
        UserError: the neck or a head does not state which, or nothing reads any.
    """
    if necks:
        return _read_by_neck(*necks[0], old, given)
    read = [i for path, head in heads_of(model) for i in _read_by_head(head, path, old)]
    first = [0 for _, head in heads_of(model) if head.get('c1_in_channels')]
    if not read:
        raise UserError('Expected a neck or a head with in_channels, but the model has neither. Choose another base.')
    return sorted({*read, *first})


def _read_by_neck(path, neck, old, given):
    """Indices. A neck with one number of channels reads the map that has it; one with a list reads the first to the last level."""
    channels = neck.get('in_channels')
    if isinstance(channels, int):
        found = [i for i, c in enumerate(old.channels) if c == channels]
        if len(found) == 1:
            return found
    elif channels is not None and (tuple(channels) == old.channels or is_given(f'{path}.in_channels', given)):
        start, end = neck.get('start_level', 0), neck.get('end_level', -1)
        return list(range(len(old)))[start : None if end in (-1, len(old) - 1) else end + 1]
    raise UserError(
        f'{path} ({type_name(neck.get("type"))}) has in_channels={channels}, but the backbone of the base gives maps of '
        f'{list(old.channels)} channels; how this type reads them is not known. Set {path}.in_channels to a list for the new '
        'backbone, with one entry per map (--set).'
    )


def _read_by_head(head, path, old):
    """Indices. A head without `in_index` reads all maps if it has a list of channels, else the last."""
    several = isinstance(head['in_channels'], (list, tuple))
    index = head.get('in_index', range(len(old)) if several else -1)
    read = [index] if isinstance(index, int) else list(index)
    if any(not -len(old) <= i < len(old) for i in read):
        raise UserError(f'{path}.in_index is {index}, but there are {len(old)} maps: the base is inconsistent. Choose another.')
    return [i % len(old) for i in read]


def choose_stages(old, used, stages, exact):
    """The stages of the new backbone (maps `stages`) that replace the `used` maps of the base.

    Isotropic backbones: by position, counted from the last. Otherwise by stride, or by position if the model does not depend on
    strides (`exact` is False) and has as many maps as there are stages.

    Raises:
        UserError: there is no stage of a stride.
    """
    if stages.isotropic and len(old) <= len(stages):
        return [len(stages) - len(old) + i for i in used]
    if not exact and len(old) == len(stages):
        return list(used)
    wanted = old.pick(used).strides
    found = [stages.strides.index(stride) for stride in wanted if stride in stages.strides]
    if len(set(found)) < len(wanted):
        raise UserError(
            f'The base reads maps of strides {list(wanted)}, but the stages of this backbone have strides '
            f'{list(stages.strides)}. Choose another base or arch, or the stages: --set model.backbone.out_indices=...'
        )
    return found


def deeper_for_ssd(model, chosen, stages):
    """Stages for an SSD neck: where the neck's next level has the stride of the next stage, the stage replaces the level."""
    levels = (model.get('bbox_head', {}).get('anchor_generator') or {}).get('strides', ())
    while chosen[-1] + 1 < len(stages) and len(chosen) < len(levels) - 1:
        if stages.strides[chosen[-1] + 1] != levels[len(chosen)]:
            break
        chosen = [*chosen, chosen[-1] + 1]
    return chosen


def rescaling_neck(new, wanted, scope):
    """The config of mmseg's neck that resizes isotropic maps to the strides `wanted`."""
    scales = [have / want for have, want in zip(new.strides, wanted)]
    return {
        'type': 'MultiLevelNeck' if scope == 'mmseg' else 'mmseg.MultiLevelNeck',
        'in_channels': list(new.channels),
        'out_channels': new.channels[0],
        'scales': [int(scale) if scale == int(scale) else scale for scale in scales],
    }


def wire_neck(path, neck, new, given):
    """Let the first neck read all of the maps `new`.

    Raises:
        UserError: it needs maps of one stride.
    """
    cls = type_name(neck.get('type'))
    if cls in ONE_STRIDE and len(set(new.strides)) > 1:
        raise UserError(
            f'{cls} adds its maps and needs them at one stride, but this backbone gives strides {list(new.strides)}. Choose an '
            'isotropic arch (gfnet-ti, gfnet-xs, gfnet-s, gfnet-b), or a base with UPerHead or FPN.'
        )
    wanted = _ssd_values(neck, new) if cls == 'SSDNeck' else {}
    wanted['in_channels'] = _like(neck['in_channels'], new.channels)
    for key, everything in (('start_level', 0), ('end_level', -1)):
        if neck.get(key, everything) != everything:
            wanted[key] = everything
    _set(neck, path, wanted, given)


def _ssd_values(neck, new):
    """Values with which the maps replace those of a VGG, and the first levels that the neck would compute itself."""
    replaced = len(new) - len(neck['in_channels'])
    return {
        'out_channels': _like(neck['out_channels'], [*new.channels, *neck['out_channels'][len(new) :]]),
        'level_strides': neck['level_strides'][replaced:],
        'level_paddings': neck['level_paddings'][replaced:],
        'l2_norm_scale': None,  # for the scale of VGG's first map
    }


def wire_heads(model, old, new, position, given):
    """Let every head read the maps `new` in place of `old`; `position` maps the index of an old map to that of its new one.

    Raises:
        UserError: `in_channels` of a head are not those of the maps that it reads, or a RoI head reads the backbone itself.
    """
    if 'roi_head' in model:
        raise UserError(
            'model.roi_head reads the maps of the backbone itself, and its shared head is the last stage of a ResNet. Choose a '
            'base with an FPN.'
        )
    for path, head in heads_of(model):
        read = _read_by_head(head, path, old)
        before, after = old.pick(read), new.pick([position[i] for i in read])
        if not is_given(f'{path}.in_channels', given):
            _check_in_channels(path, head, list(before.channels))
        wanted = {'in_channels': _like(head['in_channels'], after.channels)}
        if 'in_index' in head:
            wanted['in_index'] = _like(head['in_index'], [position[i] for i in read])
        if head.get('c1_in_channels'):
            wanted['c1_in_channels'] = new.channels[0]
        if head.get('num_convs') == 0 and head.get('channels') == head['in_channels']:  # an FCNHead without convolutions
            wanted['channels'] = wanted['in_channels']
        for key in ('strides', 'feature_strides'):
            if tuple(head.get(key) or ()) == before.strides:
                wanted[key] = _like(head[key], after.strides)
        _set(head, path, wanted, given)


def _check_in_channels(path, head, expected):
    channels = head['in_channels']
    if (list(channels) if isinstance(channels, (list, tuple)) else [channels]) != expected:
        raise UserError(
            f'{path} ({type_name(head.get("type"))}) has in_channels={channels}, but the base gives it maps of {expected} '
            f'channels; how this type reads them is not known. Set {path}.in_channels for the new backbone (--set).'
        )


def _set(cfg, path, values, given):
    cfg.update({key: value for key, value in values.items() if not is_given(f'{path}.{key}', given)})


def _like(value, new):
    """`new` as a list, tuple or single number, as `value` is."""
    return type(value)(new) if isinstance(value, (list, tuple)) else new[0]
