"""How many channels the images of a config's model have: 1 for gray ones, 3 for photographs, more for multispectral ones."""

from inspect import signature

from mmengine.config import Config
from mmengine.registry import MODELS

NAMES = ('in_channels', 'in_chans')


def image_channels(cfg: Config) -> int:
    """The channels that the backbone of a config takes.

    The first of: the argument in the config, also of a backbone inside the backbone (`backbone_cfg`); the default of the backbone's
    class; the length of the mean in the data preprocessor; 3.
    """
    backbone = cfg.model.get('backbone', cfg.model)
    for part in (backbone, backbone.get('backbone_cfg') or {}):
        found = [part[name] for name in NAMES if isinstance(part.get(name), int)]
        if found:
            return found[0]
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return _default_of(backbone.get('type'), cfg.get('default_scope')) or len(preprocessor.get('mean') or ()) or 3


def _default_of(backbone: str | type | None, scope: str | None) -> int | None:
    if isinstance(backbone, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            return default_channels(registry.get(backbone))
    return default_channels(backbone)


def default_channels(cls: type | None) -> int | None:
    """The default of `in_channels` in the constructor of a class, or of one that it extends; None without one."""
    for parent in getattr(cls, '__mro__', ()):
        if '__init__' in vars(parent):
            defaults = [parameter.default for name, parameter in signature(parent).parameters.items() if name in NAMES]
            found = [default for default in defaults if isinstance(default, int)]
            if found:
                return found[0]
    return None
