"""What to count: a model from an arch's name or a config file, without weights and without memory, and the size to count it at.

| subject | model | size by default |
|---|---|---|
| arch | the ImageNet classifier | the published image size |
| classification config | its model | the side of the test pipeline's crop |
| segmentation config | its model, auxiliary heads not run | the crop; for a square one S x 4S, as HorNet and Swin publish it |
| detection config | its model | the test pipeline's scale; for (1333, 800) 800 x 1280, as mmdet publishes it |
"""

from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmfreq.models._factory import build_classifier
from mmfreq.registry import without_pretraining

COCO_SCALE, COCO_SIZE = (1333, 800), (800, 1280)  # width and height at most; height and width counted


def count_subject(
    source: str | Config, spectral: str | None = None, cfg_options: dict | None = None, device: str = 'meta'
) -> tuple[nn.Module, tuple[int, int]]:
    """The model, on the device if its constructors allow it, and the (H, W) to count it at.

    Args:
        source: name of an arch, path of a config file, or the config itself, which is changed by the next two.
        spectral: spectral backend of the backbone; None leaves the config's, or the default.
        cfg_options: changes to a config.
        device: 'meta' for shapes alone; to run it, a real one.

    Raises:
        ValueError: neither an arch nor a file; a model without spectral layers where `spectral` is given.
    """
    if not isinstance(source, Config) and not Path(source).is_file():
        if source.endswith('.py'):
            raise ValueError(f'no config file {source}')
        with torch.device(device):
            model = build_classifier(source, **({'spectral': spectral} if spectral else {}))
        return model, (model.img_size, model.img_size)
    cfg = source if isinstance(source, Config) else Config.fromfile(source)
    cfg.merge_from_dict(cfg_options or {})
    part = cfg.model if 'arch' in cfg.model else cfg.model.get('backbone', {})
    if spectral and not str(part.get('type')).startswith('mmfreq.'):
        raise ValueError(f'--spectral is for backbones of mmfreq, and the backbone of {cfg.filename} is {part.get("type")}')
    part.update({'spectral': spectral} if spectral else {})
    scope = cfg.get('default_scope', 'mmengine')
    import_module(scope)
    with DefaultScope.overwrite_default_scope(scope):
        model = _build(without_pretraining(cfg.model), device)
    return model, _size(model, cfg, scope)


def _build(cfg: dict, device: str) -> nn.Module:
    try:
        with torch.device(device):
            return MODELS.build(cfg)
    except (RuntimeError, NotImplementedError):  # a constructor that reads values
        return MODELS.build(cfg)


def _size(model: nn.Module, cfg: Config, scope: str) -> tuple[int, int]:
    if scope == 'mmdet':
        steps = cfg.test_dataloader.dataset.pipeline if 'test_dataloader' in cfg else ()
        scale = next((tuple(step['scale']) for step in steps if 'scale' in step), COCO_SCALE)
        return COCO_SIZE if scale == COCO_SCALE else scale[::-1]
    if scope == 'mmseg':
        height, width = model.data_preprocessor.size or cfg.crop_size
        return (height, 4 * width) if height == width else (height, width)
    steps = cfg.test_dataloader.dataset.pipeline if 'test_dataloader' in cfg else ()
    sides = [side for step in steps for side in (step.get('crop_size'), step.get('scale') if step['type'] == 'Resize' else None)]
    side = next(filter(None, sides), getattr(model.backbone, 'img_size', 224))
    return tuple(side) if isinstance(side, (list, tuple)) else (side, side)
