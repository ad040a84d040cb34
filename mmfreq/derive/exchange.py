"""Another backbone in the nested config of a stock model: which of its stages are taken, and what necks and heads are fed."""

from mmfreq.derive.feature_maps import backbone_maps, neck_maps, returned_maps, stage_maps
from mmfreq.derive.wiring import (
    choose_stages,
    deeper_for_ssd,
    kind,
    necks_of,
    rescaling_neck,
    take_rescalers,
    used_maps,
    wire_heads,
    wire_neck,
)
from mmfreq.engine.errors import UserError
from mmfreq.engine.own_backbones import stated_backbone


def exchange_backbone(model, base, scope, arch, asked, given):
    """Put our backbone `arch` into a model's nested config, in place, and fit the necks and heads to it.

    Args:
        model: plain dicts and lists, with the values of `given` put in.
        base: the same without them; its parts are run to learn what they give.
        scope: library of the model, 'mmseg' or 'mmdet'.
        asked: arguments of the new backbone beside `arch`; the drop-path rate is the base's, if it has one, unless it is here.
        given: dotted keys of necks and heads that are left as they are.

    Returns:
        The new backbone, on the meta device, and notes for the reader.

    Raises:
        UserError: how the base's parts are fed is not known, or they cannot be fed by this backbone.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    stock, necks = backbone_maps(base['backbone'], scope), necks_of(model)
    asked = {'drop_path_rate': base['backbone'].get('drop_path_rate') or 0.0, **asked}
    old = take_rescalers(necks, stock, scope)
    used = used_maps(model, necks, old, given)
    backbone = _fitting_backbone(model, necks, scope, arch, asked, old, used)
    new, wanted = returned_maps(backbone), old.pick(used).strides
    notes = [f'{kind(base["backbone"])} -> {arch}: maps of {_listed(new.channels)} channels at strides {_listed(new.strides)}.']
    rescaler = _rescaler(stage_maps(backbone), new, wanted, scope)
    if rescaler is not None:
        notes.append(f'{arch} gives maps of stride {new.strides[0]} alone: MultiLevelNeck brings them to {_listed(wanted)}.')
        new = neck_maps(rescaler, scope, new)
    elif new.strides[: len(wanted)] != wanted:
        notes += _notes_on_strides(backbone, new.strides, wanted)
    _wire(model, scope, necks, new, _through(necks_of(base), scope, stock), used, given)
    _put_in(model, backbone, asked, ([rescaler] if rescaler else []) + [neck for _, neck in necks])
    return backbone, notes


def _fitting_backbone(model, necks, scope, arch, asked, old, used):
    """With the stages that take the place of the `used` maps of the base, unless `out_indices` are asked for."""
    if 'out_indices' not in asked:
        stages = stage_maps(stated_backbone(arch, **asked))
        chosen = choose_stages(old, used, stages, exact=scope == 'mmdet')
        if necks and kind(necks[0][1]) == 'SSDNeck' and not stages.isotropic:
            chosen = deeper_for_ssd(model, chosen, stages)
        asked = {**asked, 'out_indices': tuple(chosen)}
    backbone = stated_backbone(arch, **asked)
    if len(backbone.out_indices) < len(used):
        raise UserError(
            f'the base reads {len(used)} maps, and model.backbone.out_indices={list(backbone.out_indices)} gives '
            f'{len(backbone.out_indices)}: give as many, or leave it out'
        )
    return backbone


def _rescaler(stages, new, wanted, scope):
    """The neck that isotropic maps need where strides count: always in mmdet, in mmseg where the base reads a pyramid."""
    pyramid = wanted != new.strides if scope == 'mmdet' else len(set(wanted)) > 1
    return rescaling_neck(new, wanted, scope) if stages.isotropic and pyramid else None


def _wire(model, scope, necks, fed, old, used, given):
    """Neck and heads; heads behind a neck only where it gives them as many maps of other channels than before.

    `fed` are the maps for the first neck, or without one for the heads; `old` are those that the heads of the base were fed.
    """
    if not necks:
        wire_heads(model, old, fed, {i: place for place, i in enumerate(used)}, given)
        return
    path, neck = necks[0]
    wire_neck(path, neck, fed, given)
    fed = _through(necks, scope, fed)
    if len(fed) != len(old) and any(key.startswith('model.neck') for key in given):
        return  # the caller has seen to it
    if len(fed) != len(old):
        raise UserError(f'the necks gave {len(old)} maps and would give {len(fed)}: set {path}.num_outs (--set)')
    if fed.channels != old.channels:
        wire_heads(model, old, fed, {i: i for i in range(len(old))}, given)


def _through(necks, scope, maps):
    """The maps after all necks."""
    for _, neck in necks:
        maps = neck_maps(neck, scope, maps)
    return maps


def _put_in(model, backbone, asked, necks):
    """Write backbone and necks; the weights that the base named for its own backbone go."""
    if necks or model.get('neck'):
        model['neck'] = necks if len(necks) > 1 else next(iter(necks), None)
    if model.get('pretrained') is not None:
        model['pretrained'] = None
    stated = {
        'type': f'mmfreq.{type(backbone).__name__}',
        'arch': backbone.arch_name,
        'img_size': backbone.img_size,
        'drop_path_rate': asked['drop_path_rate'],
        'out_indices': backbone.out_indices,
    }
    model['backbone'] = stated | {key: value for key, value in asked.items() if key not in stated}


def _notes_on_strides(backbone, strides, wanted):
    notes = [
        f'The heads were made for maps of strides {_listed(wanted)} and get {_listed(strides)}: they work at that grid, and their '
        f'kernels and dilations cover more of the image or less.'
    ]
    if backbone.family == 'affnet' and wanted[-1] < strides[-1]:
        notes.append('--set model.backbone.output_stride=8 (or 16) makes AFFNet give finer maps.')
    return notes


def _listed(values):
    return ', '.join(map(str, values))
