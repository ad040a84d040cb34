"""Another backbone in the nested config of a stock model: which of its stages are taken, and what necks and heads are fed."""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmfreq.config.difference import changes, difference_lines, leaf_text, plain
from mmfreq.config.options import BACKBONE, backbone_options, build_arch_on_meta, dotted
from mmfreq.config.reading import read_base, reference, type_name
from mmfreq.config.wiring import (
    backbone_maps,
    choose_stages,
    deeper_for_ssd,
    is_given,
    neck_maps,
    necks_of,
    rescaling_neck,
    returned_maps,
    stage_maps,
    take_rescalers,
    type_of,
    used_maps,
    wire_heads,
    wire_neck,
)
from mmfreq.errors import UserError


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
    notes = [f'{type_of(base["backbone"])} -> {arch}: maps of {_listed(new.channels)} channels at strides {_listed(new.strides)}.']
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
        stages = stage_maps(build_arch_on_meta(arch, **asked))
        chosen = choose_stages(old, used, stages, exact=scope == 'mmdet')
        if necks and type_of(necks[0][1]) == 'SSDNeck' and not stages.isotropic:
            chosen = deeper_for_ssd(model, chosen, stages)
        asked = {**asked, 'out_indices': tuple(chosen)}
    backbone = build_arch_on_meta(arch, **asked)
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


# Any config takes any backbone: a stock segmentation or detection config with one of our backbones in place of its own.


LAYER_DECAY = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')  # know their own backbones alone
LAYER_GROUPS = 12  # of our layer-wise decay, whatever the base's backbone had
TASKS = {'mmseg': 'seg', 'mmdet': 'det'}  # scope -> folder of our recipes
SSD_REPAIR = 'mmfreq.compat.mmdet_ssd'


@dataclass(frozen=True)
class Mixed:
    """A mixed config.

    Attributes:
        config: the whole config, as the leaf gives it.
        text: source of the leaf; its `_base_` is a `package::name`, or a path relative to the folder asked for, else absolute.
        difference: `key: old -> new`, against the base.
        notes: what a reader should know of the mixture.
    """

    config: Config
    text: str
    difference: list[str]
    notes: list[str]


def mix(base, arch, img_size=None, options=None, folder=None):
    """Put backbone `arch` into a segmentation or detection config.

    Only the stages that necks or heads read are returned by the backbone, so that every parameter has a gradient (not where a
    head ignores what it reads, as EncHead does without laterals). Maps of isotropic backbones are brought to the strides of the
    base by a neck of mmseg where the base counts on a pyramid. Nothing is promised of the training: schedule and optimizer stay
    the base's.

    Args:
        base: path of a config, or `mmseg::...`, `mmdet::...`.
        arch: name of an arch.
        img_size: of the backbone; default the arch's published one.
        options: overriding values by dotted key, or as nested dicts; those of `model.backbone` are arguments of the new backbone.
            A key of a neck or head given here is left as it is.
        folder: where the leaf will lie, if its `_base_` is to be relative to it.

    Returns:
        A `Mixed`.

    Raises:
        UserError: there is no such config, it has no backbone, how its parts are fed is not known here, or an option is wrong.
        ValueError: unknown arch, or a value that the backbone refuses.
    """
    cfg, scope = read_base(base)
    asked, rest = _split(options, img_size)
    old, new = plain(cfg.to_dict()), _merged(cfg, rest)
    backbone, notes = exchange_backbone(new['model'], old['model'], scope, arch, asked, set(rest))
    notes += _fit_preprocessing(new['model'], backbone, set(rest)) + _fit_layer_decay(new) + _fit_start(new) + _let_ssd_predict(new)
    notes += _notes_on_training(new, backbone, asked, scope)
    stated = changes(old, new)
    mixed = Config.fromstring(leaf_text(reference(base), stated), '.py')
    if wrong := difference_lines(new, plain(mixed.to_dict())):
        raise AssertionError(f'mmfreq wrote a leaf that does not give the config it was made for: {wrong}')
    comment = f'{arch} in {base if "::" in str(base) else Path(base).name}; written by tools/mix.py.'
    return Mixed(mixed, leaf_text(reference(base, folder), stated, [comment]), difference_lines(old, new), notes)


def _split(options, img_size):
    """(arguments of the new backbone, other options by dotted key)."""
    options = dotted(options or {})
    asked = backbone_options(options) | ({} if img_size is None else {'img_size': img_size})
    if chosen := [f'model.backbone.{key}' for key in ('type', 'arch') if key in asked]:
        raise UserError(f'{" and ".join(chosen)} cannot be set: the arch that is mixed in says it; leave it out')
    return asked, {key: value for key, value in options.items() if not f'{key}.'.startswith(BACKBONE)}


def _merged(cfg, options):
    """A config with options put in, as plain dicts and lists."""
    merged = Config(plain(cfg.to_dict()))
    merged.merge_from_dict(options)
    return plain(merged.to_dict())


def _fit_preprocessing(model, backbone, given):
    """Mean, standard deviation and channel order that the published weights were trained with."""
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
    return [f'data_preprocessor: {", ".join(changed)} as {backbone.arch_name} was trained.'] if changed else []


def _fit_layer_decay(cfg):
    """Learning rates that decay by layers ask our backbone for them."""
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper.get('constructor')) not in LAYER_DECAY:
        return []
    had = wrapper['paramwise_cfg']
    decay_type = had.get('decay_type', 'layer_wise')
    wrapper['constructor'] = 'mmfreq.LayerDecayOptimWrapperConstructor'
    wrapper['paramwise_cfg'] = {
        'decay_rate': had['decay_rate'] if 'decay_rate' in had else had['layer_decay_rate'],
        'decay_type': decay_type,
        'num_layers': LAYER_GROUPS if decay_type == 'layer_wise' else had['num_layers'],
    }
    return ["The base's layer-wise learning rates know its own backbone alone: mmfreq's constructor asks the new one."]


def _fit_start(cfg):
    """Weights of the base's whole model are not loaded."""
    if not cfg.get('load_from'):
        return []
    cfg['load_from'] = None
    return ["load_from is off: it named weights of the base's own model."]


def _let_ssd_predict(cfg):
    """`custom_imports` of what mmdet 3.3.0's SSDHead lacks."""
    if type_name((cfg['model'].get('bbox_head') or {}).get('type')) != 'SSDHead':
        return []
    had = cfg.get('custom_imports') or {}
    imports = had.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    cfg['custom_imports'] = {**had, 'imports': [*imports, SSD_REPAIR]}
    return [f'SSDHead of mmdet 3.3.0 cannot predict (mmdetection issue 11780): custom_imports has {SSD_REPAIR}, which mends it.']


def _notes_on_training(cfg, backbone, asked, scope):
    """What the mixture leaves to the reader."""
    notes = []
    if not asked.get('init_cfg'):
        notes.append(
            'The backbone starts from random weights; from published ones with '
            '--set model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE'
        )
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if type_name(optimizer.get('type')) != 'AdamW':
        notes.append(
            f"The optimizer stays the base's, {type_name(optimizer.get('type'))} with lr {optimizer.get('lr')}; recipes for this "
            f'family, with AdamW, are in configs/{TASKS[scope]}/{backbone.family}/'
        )
    return notes
