"""Learning rates that decay from the head towards the stem, by layer groups that the backbone states itself.

Source: HorNet's `LearningRateDecayOptimizerConstructorHorNet`, both rules; the groups are the backbones' own.
"""

from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmfreq.registry import OPTIM_WRAPPER_CONSTRUCTORS

DECAY_TYPES = ('stage_wise', 'layer_wise')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups with `lr = base_lr * decay_rate ** (num_layers + 1 - group)` and no weight decay for biases and vectors.

    The backbone is asked: `layer_decay_group(name, decay_type) -> int | None` gives the group of a parameter named relative to it,
    None for the full rate. A backbone with mmpretrain's `get_layer_depth(name, prefix) -> (group, number of groups)` will do too:
    its groups are taken for 'layer_wise', and `num_layers` must be its number of groups less two. Everything outside the backbone
    trains at the full rate. Frozen parameters are left out.

    `paramwise_cfg` fields: `decay_rate`; `num_layers`, the N of the published configs (head's group is N + 1; with HorNet's
    layer-wise groups anything below 12 gives deep stages more than the base rate, as three published configs have it);
    `decay_type`, 'stage_wise' or 'layer_wise'.

    Raises:
        ValueError: a field is missing, unknown or of a wrong value.
        TypeError: no module of the model states layer groups.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        decay_rate, num_layers, decay_type = read_cfg(self.paramwise_cfg)
        asked, prefix = find_module_with_groups(module)
        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer = None
            if name.startswith(prefix):
                layer = layer_group(asked, name.removeprefix(prefix), decay_type, num_layers)
            layer = num_layers + 1 if layer is None else layer
            decayed = param.ndim > 1 and not name.endswith('.bias')
            key = f'layer_{layer}_{"decay" if decayed else "no_decay"}'
            if key not in groups:
                scale = decay_rate ** (num_layers + 1 - layer)
                groups[key] = dict(
                    group_name=key,
                    params=[],
                    param_names=[],
                    lr_scale=scale,
                    lr=scale * self.base_lr,
                    weight_decay=(self.base_wd or 0.0) if decayed else 0.0,
                )
            groups[key]['params'].append(param)
            groups[key]['param_names'].append(name)
        params.extend(groups.values())
        if get_dist_info()[0] == 0:
            for key, group in groups.items():
                print_log(f'{key}: lr x {group["lr_scale"]:.4g}, {len(group["params"])} parameters', 'current')


def read_cfg(cfg: dict) -> tuple[float, int, str]:
    """(decay_rate, num_layers, decay_type) of a paramwise_cfg."""
    if set(cfg) != {'decay_rate', 'num_layers', 'decay_type'}:
        raise ValueError(f'paramwise_cfg takes decay_rate, num_layers and decay_type, all three; got {sorted(cfg)}')
    if cfg['decay_type'] not in DECAY_TYPES:
        raise ValueError(f"decay_type '{cfg['decay_type']}' is unknown; choose one of {', '.join(DECAY_TYPES)}")
    return cfg['decay_rate'], cfg['num_layers'], cfg['decay_type']


def find_module_with_groups(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that states layer groups, and its prefix in the model's names."""
    for path, module in model.named_modules():
        if hasattr(module, 'layer_decay_group'):
            return module, f'{path}.' if path else ''
    backbone = getattr(model, 'backbone', model)
    if hasattr(backbone, 'get_layer_depth'):
        return backbone, '' if backbone is model else 'backbone.'
    raise TypeError(
        f'{type(backbone).__name__} states no layer groups: give it a method layer_decay_group(name, decay_type) that returns '
        f'the group of a parameter (0 = stem) or None for the full rate, or use another optimizer constructor'
    )


def layer_group(backbone: nn.Module, name: str, decay_type: str, num_layers: int) -> int | None:
    """The group of a backbone's parameter."""
    if hasattr(backbone, 'layer_decay_group'):
        return backbone.layer_decay_group(name, decay_type)
    if decay_type != 'layer_wise':
        raise ValueError(f"{type(backbone).__name__} states groups for decay_type 'layer_wise' alone, got '{decay_type}'")
    group, total = backbone.get_layer_depth(name, '')
    if total != num_layers + 2:
        raise ValueError(f'{type(backbone).__name__} has {total} layer groups: set num_layers to {total - 2}, got {num_layers}')
    return group
