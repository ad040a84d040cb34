"""The maps that a backbone or a neck gives: found by running it, or stated by one of our backbones; never guessed from names."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from mmengine.registry import MODELS, DefaultScope

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name
from mmfreq.engine.meta_model import RatesOnCpu
from mmfreq.engine.own_backbones import class_named, is_ours, state

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
        return returned_maps(state(class_named(type_name(cfg['type']), cfg.get('arch')), **arguments))
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
            with DefaultScope.overwrite_default_scope(scope), torch.device(device), RatesOnCpu(), torch.no_grad():
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
