"""Layer-wise learning-rate decay. Each backbone decides the layer group of its parameters; this file turns groups into rates.

The rate of a parameter is `base_lr * decay_rate ** (num_layers + 1 - group)`. The groups come from the backbone's method
`layer_decay_group(name, decay_type)`, in `mmfreq/models/hornet.py` for HorNet and `mmfreq/models/_base.py` for the other families,
where `block_position` of the family turns a parameter name into stage and block:

| decay_type | HorNet, as published (stages 0 to 3) | other families |
|---|---|---|
| 'stage_wise' | stem and downsampling layers: 0; stage i: i + 1 | stem: 0; stage i: i + 1 |
| 'layer_wise' | stem: 0; stages 0 to 3: 1, 2, 3 to 11, 12; downsampling layers: 2, 3, 12 | stem: 0; blocks evenly over 1 to 12 |
| both | norms of the outputs: None, the full rate | the same |

In the other families the downsampling layer before a stage belongs to its first block, and a position embedding to the stem.
Heads and necks train at the full rate. A backbone of another library is accepted if it has mmpretrain's `get_layer_depth`.
Training scripts of timm do not use this file: they ask the `group_matcher` in `mmfreq/integrations/timm.py`.
Source: `LearningRateDecayOptimizerConstructorHorNet` of HorNet's repository.
"""

from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmfreq.registry import OPTIM_WRAPPER_CONSTRUCTORS

DECAY_TYPES = ('stage_wise', 'layer_wise')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build parameter groups with decayed learning rates, and without weight decay for biases and vectors.

    Frozen parameters get no group. With `decay_rate=1` any backbone is accepted. The three fields of `paramwise_cfg`, all required:

    - `decay_rate`;
    - `num_layers`: the group of heads and necks, which train at the base rate, is `num_layers + 1`. HorNet's layer-wise groups
      run to 12: a value below 12 gives deep stages more than the base rate, as three published configs do;
    - `decay_type`, 'stage_wise' or 'layer_wise'. With mmpretrain's `get_layer_depth`, which returns (group, number of groups), it
      must be 'layer_wise' and `num_layers` the number of groups minus two.

    Raises:
        ValueError: a field is missing, unknown or has a wrong value.
        TypeError: no module of the model defines layer groups, and `decay_rate` is not 1.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        decay_rate, num_layers, decay_type = read_paramwise_cfg(self.paramwise_cfg)
        backbone, prefix = (None, '') if one_rate(module, decay_rate) else find_backbone(module)
        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer = None
            if backbone is not None and name.startswith(prefix):
                layer = layer_group(backbone, name.removeprefix(prefix), decay_type, num_layers)
            layer = num_layers + 1 if layer is None else layer
            weight_decayed = param.ndim > 1 and not name.endswith('.bias')
            key = f'layer_{layer}_{"decay" if weight_decayed else "no_decay"}'
            if key not in groups:
                scale = decay_rate ** (num_layers + 1 - layer)
                groups[key] = dict(
                    group_name=key,
                    params=[],
                    param_names=[],
                    lr_scale=scale,
                    lr=scale * self.base_lr,
                    weight_decay=(self.base_wd or 0.0) if weight_decayed else 0.0,
                )
            groups[key]['params'].append(param)
            groups[key]['param_names'].append(name)
        params.extend(groups.values())
        if get_dist_info()[0] == 0:
            for key, group in groups.items():
                print_log(f'{key}: lr x {group["lr_scale"]:.4g}, {len(group["params"])} parameters', 'current')


def read_paramwise_cfg(cfg: dict) -> tuple[float, int, str]:
    """(decay_rate, num_layers, decay_type) of a paramwise_cfg."""
    if set(cfg) != {'decay_rate', 'num_layers', 'decay_type'}:
        raise ValueError(f'paramwise_cfg needs decay_rate, num_layers and decay_type, and nothing else; got {sorted(cfg)}')
    if cfg['decay_type'] not in DECAY_TYPES:
        raise ValueError(f"decay_type '{cfg['decay_type']}' is unknown; choose one of {', '.join(DECAY_TYPES)}")
    return cfg['decay_rate'], cfg['num_layers'], cfg['decay_type']


def one_rate(model: nn.Module, decay_rate: float) -> bool:
    """Whether groups are not needed: all rates are equal, and the backbone is not of this project."""
    return decay_rate == 1 and not any(hasattr(module, 'layer_decay_group') for module in model.modules())


def find_backbone(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that defines layer groups, and the prefix of its parameters in the model."""
    for path, module in model.named_modules():
        if hasattr(module, 'layer_decay_group'):
            return module, f'{path}.' if path else ''
    backbone = getattr(model, 'backbone', model)
    if hasattr(backbone, 'get_layer_depth'):
        return backbone, '' if backbone is model else 'backbone.'
    raise TypeError(
        f'{type(backbone).__name__} defines no layer groups. Add a method layer_decay_group(name, decay_type) that returns the '
        'group of a parameter (0 = stem) or None for the full rate, or use another optimizer constructor.'
    )


def layer_group(backbone: nn.Module, name: str, decay_type: str, num_layers: int) -> int | None:
    """The group of a backbone's parameter."""
    if hasattr(backbone, 'layer_decay_group'):
        return backbone.layer_decay_group(name, decay_type)
    if decay_type != 'layer_wise':
        raise ValueError(f"{type(backbone).__name__} defines groups for decay_type 'layer_wise' only; got '{decay_type}'")
    group, total = backbone.get_layer_depth(name, '')
    if total != num_layers + 2:
        raise ValueError(f'{type(backbone).__name__} has {total} layer groups: set num_layers to {total - 2}; got {num_layers}')
    return group
