"""Models by their arch's name."""

from difflib import get_close_matches
from importlib import import_module

from torch import nn

# family -> (module, class) of its backbone and of its classifier
FAMILIES = {
    'hornet': (('mmfreq.models.backbones.hornet', 'HorNet'), ('mmfreq.models.classifiers.hornet', 'HorNetClassifier')),
}


def list_archs(family: str | None = None) -> list[str]:
    """Names of the archs of one family, or of all.

    Raises:
        ValueError: unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family '{family}' is unknown; choose one of {', '.join(FAMILIES)}")
    return [arch for name in FAMILIES if family in (None, name) for arch in _load(FAMILIES[name][0]).ARCHS]


def build_backbone(arch: str, **kwargs) -> nn.Module:
    """The backbone of an arch; `kwargs` as in its class.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of `(N, C, h, w)`, one for each of `out_indices`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _load(FAMILIES[_family(arch)][0])(arch=arch, **kwargs)


def build_classifier(arch: str, num_classes: int = 1000, **kwargs) -> nn.Module:
    """The published ImageNet classifier of an arch.

    Shape:
        The model takes `(N, 3, H, W)` and returns logits `(N, num_classes)`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _load(FAMILIES[_family(arch)][1])(arch=arch, num_classes=num_classes, **kwargs)


def _family(arch: str) -> str:
    name = arch.replace('_', '-')
    for family in FAMILIES:
        if name in list_archs(family):
            return family
    near = get_close_matches(name, list_archs(), n=3, cutoff=0.3) or list_archs()
    raise ValueError(f"arch '{arch}' is unknown; nearest: {', '.join(near)} (all: mmfreq.list_archs())")


def _load(home: tuple[str, str]) -> type:
    module, name = home
    return getattr(import_module(module), name)
