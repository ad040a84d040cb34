"""The maps that a backbone or a neck gives: found by running it, or stated by one of our backbones; never guessed from names."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS, DefaultScope

from mmfreq.config.meta_model import LinspaceOnCpu
from mmfreq.config.options import build_on_meta, find_backbone_class, is_ours
from mmfreq.config.reading import type_name
from mmfreq.errors import UserError

SIDE = 512  # of the image that a stock backbone is run on; the last level of every stock neck then still has a pixel


@dataclass(frozen=True)
class Maps:
    """Channels and strides, in pixels of the image, of some feature maps."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __len__(self):
        return len(self.channels)

    def pick(self, indices):
        """Those at `indices`, in this order."""
        return Maps(tuple(self.channels[i] for i in indices), tuple(self.strides[i] for i in indices))

    @property
    def isotropic(self):
        """Whether these are several maps of one stride."""
        return len(self) > 1 and len(set(self.strides)) == 1


def stage_maps(backbone):
    """Of all stages of one of our backbones, returned or not."""
    return Maps(tuple(backbone.channels), tuple(backbone.strides))


def returned_maps(backbone):
    """Of the stages that one of our backbones returns."""
    return Maps(backbone.out_channels, backbone.out_strides)


def backbone_maps(cfg, scope):
    """Of a backbone in a model of library `scope`: stated by one of ours, of another by running it without data.

    Raises:
        UserError: it cannot be built or run here, or gives something else than maps.
        ValueError: one of ours refuses a value.
    """
    if is_ours(cfg['type']):
        arguments = {key: value for key, value in cfg.items() if key != 'type'}
        return returned_maps(build_on_meta(find_backbone_class(type_name(cfg['type']), cfg.get('arch')), **arguments))
    size = cfg.get('img_size') or SIDE  # some take images of this size alone
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    return _measured(cfg, scope, lambda: torch.zeros(1, cfg.get('in_channels', 3), *sides), sides[0])


def neck_maps(cfg, scope, maps):
    """Of a neck that takes `maps`; errors as in `backbone_maps`."""

    def inputs():
        return tuple(torch.zeros(1, c, SIDE // s, SIDE // s) for c, s in zip(maps.channels, maps.strides))

    return _measured(cfg, scope, inputs, SIDE)


def _measured(cfg, scope, make_input, side):
    """On the meta device; on the CPU what does not run there. `side` is that of the image, in pixels."""
    for device in ('meta', 'cpu'):
        try:
            with DefaultScope.overwrite_default_scope(scope), torch.device(device), LinspaceOnCpu(), torch.no_grad():
                module = MODELS.build(deepcopy(cfg))  # some constructors take keys out of it
                module.eval()
                outs = module(make_input())
        except Exception as error:
            failure = error
            continue
        if isinstance(outs, (list, tuple)) and all(isinstance(out, torch.Tensor) and out.ndim == 4 for out in outs):
            return Maps(tuple(out.shape[1] for out in outs), tuple(round(side / out.shape[2]) for out in outs))
        raise UserError(f'{type_name(cfg["type"])} gives no plain list of maps (N, C, h, w), as it must here: choose another base')
    raise UserError(
        f'{type_name(cfg["type"])} cannot be run here to learn what comes after it ({type(failure).__name__}: {failure}): install '
        f'what it lacks, or choose another base'
    )


# Fit necks and heads of a stock model to the maps of another backbone.
#
# A neck or head is known by what it says: its `in_channels` must be the channels of the maps that the base feeds it, and become
# those of the new maps. What does not fit this rule is refused, and the message names the key to set by hand. The functions
# change nested configs in place. `given` are the dotted keys that the caller has set: they, and what lies below them, are left
# alone.


RESCALERS = ('Feature2Pyramid', 'MultiLevelNeck')  # make a pyramid of maps of one stride; replaced by one of ours, or left out
ONE_STRIDE = ('MLANeck',)  # adds its maps without resizing them


def type_of(cfg):
    """The bare name of a config's type."""
    return type_name(cfg.get('type'))


def is_given(key, given):
    """Whether the caller has set this dotted key, or one above it."""
    return any(f'{key}.'.startswith(f'{each}.') for each in given)


def necks_of(model):
    """[(dotted path, config)] of the necks in their order; empty without one."""
    neck = model.get('neck')
    if isinstance(neck, (list, tuple)):
        return [(f'model.neck.{i}', each) for i, each in enumerate(neck)]
    return [('model.neck', neck)] if neck else []


def heads_of(model):
    """(dotted path, config) of every head that reads maps, also within lists and within other heads."""
    for name, head in model.items():
        if name.endswith('_head') and head:
            yield from _heads_in(head, f'model.{name}', outermost=True)


def take_rescalers(necks, old, scope):
    """Remove the rescaling necks in front; returns the maps after them."""
    while necks and type_of(necks[0][1]) in RESCALERS:
        old = neck_maps(necks.pop(0)[1], scope, old)
    return old


def used_maps(model, necks, old, given):
    """Indices of the base's maps that its first neck reads, or without a neck its heads, in rising order.

    Raises:
        UserError: the neck or a head does not say which, or nothing reads any.
    """
    if necks:
        return _read_by_neck(*necks[0], old, given)
    read = [i for path, head in heads_of(model) for i in _read_by_head(head, path, old)]
    first = [0 for _, head in heads_of(model) if head.get('c1_in_channels')]
    if not read:
        raise UserError('model has neither a neck nor a head with in_channels: there is nothing to wire; choose another base')
    return sorted({*read, *first})


def choose_stages(old, used, stages, exact):
    """The stages of ours (of maps `stages`) that take the place of the `used` maps of the base.

    Isotropic backbones: by position, counted from the last. Else by stride; as many maps as there are stages, in a model that
    does not count on strides (`exact` is False), by position.

    Raises:
        UserError: there is no such stage.
    """
    if stages.isotropic and len(old) <= len(stages):
        return [len(stages) - len(old) + i for i in used]
    if not exact and len(old) == len(stages):
        return list(used)
    wanted = old.pick(used).strides
    found = [stages.strides.index(stride) for stride in wanted if stride in stages.strides]
    if len(set(found)) < len(wanted):
        raise UserError(
            f'the base reads maps of strides {list(wanted)}, and the stages of this backbone have {list(stages.strides)}: choose '
            f'another base or arch, or say which stages to take: --set model.backbone.out_indices=...'
        )
    return found


def deeper_for_ssd(model, chosen, stages):
    """Stages for an SSD neck: where its next level has the stride of our next stage, that stage takes the level's place."""
    levels = (model.get('bbox_head', {}).get('anchor_generator') or {}).get('strides', ())
    while chosen[-1] + 1 < len(stages) and len(chosen) < len(levels) - 1:
        if stages.strides[chosen[-1] + 1] != levels[len(chosen)]:
            break
        chosen = [*chosen, chosen[-1] + 1]
    return chosen


def rescaling_neck(new, wanted, scope):
    """mmseg's neck that brings isotropic maps to the strides `wanted`."""
    scales = [have / want for have, want in zip(new.strides, wanted)]
    return {
        'type': 'MultiLevelNeck' if scope == 'mmseg' else 'mmseg.MultiLevelNeck',
        'in_channels': list(new.channels),
        'out_channels': new.channels[0],
        'scales': [int(scale) if scale == int(scale) else scale for scale in scales],
    }


def wire_neck(path, neck, new, given):
    """Give the first neck the maps `new`, of which it then reads all.

    Raises:
        UserError: it needs maps of one stride.
    """
    if type_of(neck) in ONE_STRIDE and len(set(new.strides)) > 1:
        raise UserError(
            f'{type_of(neck)} adds its maps and needs them at one stride; this backbone gives strides {list(new.strides)}: choose '
            f'an isotropic arch (gfnet-ti, gfnet-xs, gfnet-s, gfnet-b) or a base with UPerHead or FPN'
        )
    wanted = _ssd_values(neck, new) if type_of(neck) == 'SSDNeck' else {}
    wanted['in_channels'] = _like(neck['in_channels'], new.channels)
    for key, everything in (('start_level', 0), ('end_level', -1)):
        if neck.get(key, everything) != everything:
            wanted[key] = everything
    _set(neck, path, wanted, given)


def wire_heads(model, old, new, position, given):
    """Give every head the maps `new` in place of `old`; `position` maps an index of an old map to that of its new one.

    Raises:
        UserError: a head's `in_channels` are not those of the maps that it reads, or a region head reads the backbone itself.
    """
    if 'roi_head' in model:
        raise UserError(
            'model.roi_head reads the maps of the backbone itself, and its shared head is the last stage of a ResNet: choose a '
            'base with an FPN'
        )
    for path, head in heads_of(model):
        read = _read_by_head(head, path, old)
        were, become = old.pick(read), new.pick([position[i] for i in read])
        if not is_given(f'{path}.in_channels', given):
            _check_fit(path, head, list(were.channels))
        wanted = {'in_channels': _like(head['in_channels'], become.channels)}
        if 'in_index' in head:
            wanted['in_index'] = _like(head['in_index'], [position[i] for i in read])
        if head.get('c1_in_channels'):
            wanted['c1_in_channels'] = new.channels[0]
        if head.get('num_convs') == 0 and head.get('channels') == head['in_channels']:  # FCNHead that is its classifier alone
            wanted['channels'] = wanted['in_channels']
        for key in ('strides', 'feature_strides'):
            if tuple(head.get(key) or ()) == were.strides:
                wanted[key] = _like(head[key], become.strides)
        _set(head, path, wanted, given)


def _set(cfg, path, values, given):
    cfg.update({key: value for key, value in values.items() if not is_given(f'{path}.{key}', given)})


def _heads_in(node, path, outermost=False):
    if isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _heads_in(child, f'{path}.{i}', outermost)
    elif isinstance(node, dict):
        if 'in_channels' in node and (outermost or 'in_index' in node):
            yield path, node
        for name, child in node.items():
            yield from _heads_in(child, f'{path}.{name}')


def _read_by_neck(path, neck, old, given):
    """Indices. A neck with one channel count reads the one map that has it; one with a list all from its first to last level."""
    channels = neck.get('in_channels')
    if isinstance(channels, int):
        found = [i for i, c in enumerate(old.channels) if c == channels]
        if len(found) == 1:
            return found
    elif channels is not None and (tuple(channels) == old.channels or is_given(f'{path}.in_channels', given)):
        start, end = neck.get('start_level', 0), neck.get('end_level', -1)
        return list(range(len(old)))[start : None if end in (-1, len(old) - 1) else end + 1]
    raise UserError(
        f'{path} ({type_of(neck)}) has in_channels={channels}, while the backbone of the base gives maps of {list(old.channels)} '
        f'channels: how this type reads them is not known here. Set {path}.in_channels to a list for the new backbone, one entry '
        f'for each map (--set)'
    )


def _read_by_head(head, path, old):
    """Indices, counted from 0. A head without `in_index` reads all maps if it has a list of channels, else the last."""
    several = isinstance(head['in_channels'], (list, tuple))
    index = head.get('in_index', range(len(old)) if several else -1)
    read = [index] if isinstance(index, int) else list(index)
    if any(not -len(old) <= i < len(old) for i in read):
        raise UserError(f'{path}.in_index is {index}, and there are {len(old)} maps: the base does not fit itself; choose another')
    return [i % len(old) for i in read]


def _ssd_values(neck, new):
    """Values by which our maps take the place of a VGG's, and of the first levels that the neck would make itself."""
    replaced = len(new) - len(neck['in_channels'])
    return {
        'out_channels': _like(neck['out_channels'], [*new.channels, *neck['out_channels'][len(new) :]]),
        'level_strides': neck['level_strides'][replaced:],
        'level_paddings': neck['level_paddings'][replaced:],
        'l2_norm_scale': None,  # VGG's first map is of another scale
    }


def _check_fit(path, head, expected):
    channels = head['in_channels']
    if (list(channels) if isinstance(channels, (list, tuple)) else [channels]) != expected:
        raise UserError(
            f'{path} ({type_of(head)}) has in_channels={channels}, while the base gives it maps of {expected} channels: how this '
            f'type reads them is not known here. Set {path}.in_channels for the new backbone (--set)'
        )


def _like(value, new):
    """`new` as a list, tuple or single number, as `value` is."""
    return type(value)(new) if isinstance(value, (list, tuple)) else new[0]
