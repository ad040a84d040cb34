"""One of mmfreq's backbones in any segmentation or detection config: `mix`.

Exchanged: the backbone with its stages, pretrained weights and preprocessing (`exchange_backbone`, `_fit_preprocessing`). Fitted to
its feature maps: necks and heads (`wiring`). Adapted: layer-wise learning rates, `load_from`, an SSD head (`_fit_training`). All
else stays as in the base, above all the schedule and the optimizer.
"""

from pathlib import Path

from mmengine.config import Config

from mmfreq.config.feature_maps import backbone_maps, neck_maps, returned_maps, stage_maps
from mmfreq.config.leaf import make_leaf, plain
from mmfreq.config.options import BACKBONE, backbone_options, build_arch_on_meta, dotted
from mmfreq.config.reading import read_config, type_name
from mmfreq.config.wiring import (
    choose_stages,
    deeper_for_ssd,
    is_given,
    necks_of,
    rescaling_neck,
    take_rescalers,
    used_maps,
    wire_heads,
    wire_neck,
)
from mmfreq.errors import UserError
from mmfreq.weights.files import list_weights

SCOPES = {'mmseg': 'seg', 'mmdet': 'det'}  # default_scope -> folder of mmfreq's configs
LAYER_DECAY = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')  # know only their own backbones
LAYER_GROUPS = 12  # of layer-wise decay, whatever the base has; LAYER_GROUPS of models/_base.py, equal by a test
SSD_REPAIR = 'mmfreq.compat.mmdet_ssd'


def mix(base, arch, img_size=None, options=None, folder=None):
    """Put the backbone `arch` into a segmentation or detection config.

    The backbone returns only the stages that necks or heads read, so that every parameter has a gradient (except where a head
    ignores what it reads, as EncHead without laterals). If the base needs a pyramid, a neck of mmseg resizes the maps of isotropic
    backbones. Not guaranteed: that the base's schedule and optimizer train the new backbone well.

    Args:
        base: path of a config, or `mmseg::...`, `mmdet::...`.
        arch: name of an arch.
        img_size: of the backbone; default the arch's published one.
        options: overriding values by dotted key, or as nested dicts; those of `model.backbone` are arguments of the new backbone.
            A key of a neck or head given here is not changed.
        folder: folder of the leaf, if its `_base_` should be relative to it.

    Returns:
        A `Leaf`.

    Raises:
        UserError: there is no such config, it has no backbone, how its parts are fed is not known, or an option is invalid.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    cfg, scope = _read_base(base)
    arguments, rest = _split(options, img_size)
    old, new = plain(cfg.to_dict()), _merged(cfg, rest)
    backbone, notes = exchange_backbone(new['model'], old['model'], scope, arch, arguments, set(rest))
    notes += _fit_preprocessing(new['model'], backbone, set(rest)) + _fit_training(new)
    notes += _training_notes(new, backbone, arguments, scope)
    title = f'{arch} in {base if "::" in str(base) else Path(base).name}; written by tools/mix.py.'
    return make_leaf(base, cfg, new, title, notes, folder=folder)


def _read_base(base):
    """(Config, scope) of a segmentation or detection config."""
    cfg = read_config(base)
    scope = cfg.get('default_scope') or str(base).partition('::')[0]
    if scope not in SCOPES:
        raise UserError(f'Expected a config of mmseg:: or mmdet::, but {base} has default_scope {scope!r}.')
    model = cfg.get('model') or {}
    if not model.get('backbone'):
        inside = [key for key, value in model.items() if isinstance(value, dict) and 'backbone' in value]
        remedy = f'model.{inside[0]} has one: mix the config that this one wraps.' if inside else 'Choose another base.'
        raise UserError(f'Expected a config with a backbone and heads, but {base} has no model.backbone. {remedy}')
    return cfg, scope


def _split(options, img_size):
    """(arguments of the new backbone, other options by dotted key)."""
    options = dotted(options or {})
    arguments = backbone_options(options) | ({} if img_size is None else {'img_size': img_size})
    if invalid := [f'model.backbone.{key}' for key in ('type', 'arch') if key in arguments]:
        raise UserError(f'{" and ".join(invalid)} cannot be set, as the arch determines them. Remove them.')
    return arguments, {key: value for key, value in options.items() if not f'{key}.'.startswith(BACKBONE)}


def _merged(cfg, options):
    """A config with options merged, as plain dicts and lists."""
    merged = Config(plain(cfg.to_dict()))
    merged.merge_from_dict(options)
    return plain(merged.to_dict())


def exchange_backbone(model, base, scope, arch, arguments, given):
    """Replace the backbone in a model's nested config, in place, and fit necks and heads to it.

    Args:
        model: plain dicts and lists, with the values of `given`.
        base: the same without them; its parts are run to find their feature maps.
        scope: library of the model, 'mmseg' or 'mmdet'.
        arguments: of the new backbone, other than `arch`; the drop-path rate defaults to that of the base.
        given: dotted keys of necks and heads that are not changed.

    Returns:
        The new backbone on the meta device, and notes for the user.

    Raises:
        UserError: how the base's parts are fed is not known, or this backbone cannot feed them.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    stock, necks = backbone_maps(base['backbone'], scope), necks_of(model)
    arguments = {'drop_path_rate': base['backbone'].get('drop_path_rate') or 0.0, **arguments}
    old = take_rescalers(necks, stock, scope)
    used = used_maps(model, necks, old, given)
    backbone = _build_backbone(model, necks, scope, arch, arguments, old, used)
    new, wanted = returned_maps(backbone), old.pick(used).strides
    notes = [
        f'{type_name(base["backbone"]["type"])} -> {arch}: maps of {_listed(new.channels)} channels at strides '
        f'{_listed(new.strides)}.'
    ]
    rescaler = _rescaler(stage_maps(backbone), new, wanted, scope)
    if rescaler is not None:
        notes.append(f'{arch} gives maps of stride {new.strides[0]} only: MultiLevelNeck resizes them to {_listed(wanted)}.')
        new = neck_maps(rescaler, scope, new)
    elif new.strides[: len(wanted)] != wanted:
        notes += _stride_notes(backbone, new.strides, wanted)
    _wire(model, scope, necks, new, _through(necks_of(base), scope, stock), used, given)
    _write(model, backbone, arguments, ([rescaler] if rescaler else []) + [neck for _, neck in necks])
    return backbone, notes


def _build_backbone(model, necks, scope, arch, arguments, old, used):
    """The backbone with the stages that replace the `used` maps of the base, unless the caller sets `out_indices`."""
    if 'out_indices' not in arguments:
        stages = stage_maps(build_arch_on_meta(arch, **arguments))
        chosen = choose_stages(old, used, stages, exact=scope == 'mmdet')
        if necks and type_name(necks[0][1].get('type')) == 'SSDNeck' and not stages.isotropic:
            chosen = deeper_for_ssd(model, chosen, stages)
        arguments = {**arguments, 'out_indices': tuple(chosen)}
    backbone = build_arch_on_meta(arch, **arguments)
    if len(backbone.out_indices) < len(used):
        raise UserError(
            f'The base reads {len(used)} maps, but model.backbone.out_indices={list(backbone.out_indices)} gives '
            f'{len(backbone.out_indices)}. Give as many, or remove it.'
        )
    return backbone


def _rescaler(stages, new, wanted, scope):
    """The neck that isotropic maps need where strides matter: always in mmdet, in mmseg if the base reads a pyramid."""
    pyramid = wanted != new.strides if scope == 'mmdet' else len(set(wanted)) > 1
    return rescaling_neck(new, wanted, scope) if stages.isotropic and pyramid else None


def _wire(model, scope, necks, new, old, used, given):
    """Fit neck and heads; heads behind a neck only if it gives them maps of other channels than before.

    `new` are the maps for the first neck, or for the heads if there is none; `old` are those that the heads of the base read.
    """
    if not necks:
        wire_heads(model, old, new, {i: position for position, i in enumerate(used)}, given)
        return
    path, neck = necks[0]
    wire_neck(path, neck, new, given)
    new = _through(necks, scope, new)
    if len(new) != len(old) and any(key.startswith('model.neck') for key in given):
        return  # left to the caller
    if len(new) != len(old):
        raise UserError(f'The necks of the base give {len(old)} maps, but would give {len(new)} now. Set {path}.num_outs (--set).')
    if new.channels != old.channels:
        wire_heads(model, old, new, {i: i for i in range(len(old))}, given)


def _through(necks, scope, maps):
    """The maps after all necks."""
    for _, neck in necks:
        maps = neck_maps(neck, scope, maps)
    return maps


def _write(model, backbone, arguments, necks):
    """Write backbone and necks into the config; the pretrained weights of the old backbone are removed."""
    if necks or model.get('neck'):
        model['neck'] = necks if len(necks) > 1 else next(iter(necks), None)
    if model.get('pretrained') is not None:
        model['pretrained'] = None
    stated = {
        'type': f'mmfreq.{type(backbone).__name__}',
        'arch': backbone.arch_name,
        'img_size': backbone.img_size,
        'drop_path_rate': arguments['drop_path_rate'],
        'out_indices': backbone.out_indices,
    }
    model['backbone'] = stated | {key: value for key, value in arguments.items() if key not in stated}


def _stride_notes(backbone, strides, wanted):
    notes = [
        f'The heads were made for maps of strides {_listed(wanted)} and get {_listed(strides)}: they work on that grid, and their '
        f'kernels and dilations cover another part of the image.'
    ]
    if backbone.family == 'affnet' and wanted[-1] < strides[-1]:
        notes.append('--set model.backbone.output_stride=8 (or 16) makes AFFNet give finer maps.')
    return notes


def _listed(values):
    return ', '.join(map(str, values))


def _fit_preprocessing(model, backbone, given):
    """Set mean, standard deviation and channel order to those of the published weights."""
    published = backbone.published_preprocessing(backbone.arch_name)
    wanted = {
        'mean': [round(255 * value, 3) for value in published.mean],
        'std': [round(255 * value, 3) for value in published.std],
        'bgr_to_rgb': True,
    }
    cfg = model.get('data_preprocessor') or {}
    free = {key: value for key, value in wanted.items() if cfg and not is_given(f'model.data_preprocessor.{key}', given)}
    changed = [key for key, value in free.items() if cfg.get(key) != value]
    cfg.update({key: wanted[key] for key in changed})
    return [f'data_preprocessor: {", ".join(changed)} as in the training of {backbone.arch_name}.'] if changed else []


def _fit_training(cfg):
    """Adapt what depends on the old backbone or fails in the base; returns notes."""
    notes = []
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper.get('constructor')) in LAYER_DECAY:
        paramwise = wrapper['paramwise_cfg']
        decay_type = paramwise.get('decay_type', 'layer_wise')
        wrapper['constructor'] = 'mmfreq.LayerDecayOptimWrapperConstructor'
        wrapper['paramwise_cfg'] = {
            'decay_rate': paramwise['decay_rate'] if 'decay_rate' in paramwise else paramwise['layer_decay_rate'],
            'decay_type': decay_type,
            'num_layers': LAYER_GROUPS if decay_type == 'layer_wise' else paramwise['num_layers'],
        }
        notes.append("The base's layer-wise learning rates work only with its own backbone: mmfreq's constructor replaces them.")
    if cfg.get('load_from'):
        cfg['load_from'] = None
        notes.append("load_from is off: it named weights of the base's own model.")
    if type_name((cfg['model'].get('bbox_head') or {}).get('type')) == 'SSDHead':
        custom = cfg.get('custom_imports') or {}
        imports = custom.get('imports') or []
        imports = [imports] if isinstance(imports, str) else list(imports)
        cfg['custom_imports'] = {**custom, 'imports': [*imports, SSD_REPAIR]}
        notes.append(f'SSDHead of mmdet 3.3.0 cannot predict (mmdetection issue 11780): {SSD_REPAIR} in custom_imports fixes it.')
    return notes


def _training_notes(cfg, backbone, arguments, scope):
    """What is left to the user."""
    notes = []
    if not arguments.get('init_cfg'):
        published = list_weights(backbone.arch_name)
        notes.append(
            'The backbone starts from random weights; '
            + (
                f'for published ones use --set model.backbone.init_cfg.type=Pretrained '
                f'model.backbone.init_cfg.checkpoint=mmfreq://{backbone.arch_name}'
                if published
                else f'none of {backbone.arch_name} are published.'
            )
        )
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if type_name(optimizer.get('type')) != 'AdamW':
        notes.append(
            f"The optimizer stays the base's, {type_name(optimizer.get('type'))} with lr {optimizer.get('lr')}; recipes for this "
            f'family, with AdamW, are in configs/{SCOPES[scope]}/{backbone.family}/'
        )
    return notes
