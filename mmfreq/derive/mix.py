"""Any config takes any backbone: a stock segmentation or detection config with one of our backbones in place of its own."""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmfreq.derive.base_config import read_base, reference
from mmfreq.derive.config_difference import changes, difference_lines, leaf_text, plain
from mmfreq.derive.exchange import exchange_backbone
from mmfreq.derive.wiring import is_given
from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name
from mmfreq.engine.options import BACKBONE, backbone_options, dotted

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
