"""Channels and strides of feature maps: mmfreq's backbones state them, other backbones and necks are run on a meta tensor."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS, DefaultScope

from mmfreq.config.meta_model import LinspaceOnCpu
from mmfreq.config.options import build_on_meta, find_backbone_class, is_mmfreq_type
from mmfreq.config.reading import type_name
from mmfreq.errors import UserError

SIDE = 512  # of the image that a backbone is run on; the last level of every stock neck then still has a pixel


@dataclass(frozen=True)
class Maps:
    """Channels and strides (in pixels of the image) of some feature maps."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __len__(self):
        return len(self.channels)

    def pick(self, indices):
        """The maps at `indices`, in this order."""
        return Maps(tuple(self.channels[i] for i in indices), tuple(self.strides[i] for i in indices))

    @property
    def isotropic(self):
        """Whether these are several maps of one stride."""
        return len(self) > 1 and len(set(self.strides)) == 1


def stage_maps(backbone):
    """The maps of all stages of one of mmfreq's backbones, returned or not."""
    return Maps(tuple(backbone.channels), tuple(backbone.strides))


def returned_maps(backbone):
    """The maps that one of mmfreq's backbones returns."""
    return Maps(backbone.out_channels, backbone.out_strides)


def backbone_maps(cfg, scope):
    """The maps of a backbone config in a model of the library `scope`.

    Raises:
        UserError: it cannot be built or run here, or does not return feature maps.
        ValueError: one of mmfreq's backbones refuses a value.
    """
    if is_mmfreq_type(cfg['type']):
        arguments = {key: value for key, value in cfg.items() if key != 'type'}
        return returned_maps(build_on_meta(find_backbone_class(type_name(cfg['type']), cfg.get('arch')), **arguments))
    size = cfg.get('img_size') or SIDE  # some backbones take only images of this size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return _measured(cfg, scope, lambda: torch.zeros(1, cfg.get('in_channels', 3), height, width), height)


def neck_maps(cfg, scope, maps):
    """The maps of a neck config that takes `maps`; raises as `backbone_maps`."""

    def make_input():
        return tuple(torch.zeros(1, c, SIDE // s, SIDE // s) for c, s in zip(maps.channels, maps.strides))

    return _measured(cfg, scope, make_input, SIDE)


def _measured(cfg, scope, make_input, height):
    """Build and run a module on the meta device, or on the CPU if that fails. `height` is that of the image."""
    for device in ('meta', 'cpu'):
        try:
            with DefaultScope.overwrite_default_scope(scope), torch.device(device), LinspaceOnCpu(), torch.no_grad():
                module = MODELS.build(deepcopy(cfg))  # some constructors remove keys from the config
                module.eval()  # not chained: `train` of mmseg's and mmdet's ResNet returns None
                outs = module(make_input())
        except Exception as error:
            failure = error
            continue
        if isinstance(outs, (list, tuple)) and all(isinstance(out, torch.Tensor) and out.ndim == 4 for out in outs):
            return Maps(tuple(out.shape[1] for out in outs), tuple(round(height / out.shape[2]) for out in outs))
        raise UserError(
            f'Expected a list of feature maps (N, C, h, w) from {type_name(cfg["type"])}, but it returns something else. Choose '
            'another base.'
        )
    raise UserError(
        f'{type_name(cfg["type"])} cannot be run here to find its feature maps ({type(failure).__name__}: {failure}). Install '
        'what it needs, or choose another base.'
    )
