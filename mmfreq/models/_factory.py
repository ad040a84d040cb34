"""Backbones and classifiers by the name of their arch."""

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfreq.models._base import FrequencyBackbone, FrequencyClassifier

# family, also the name of its module -> (backbone, classifier) of each of its model classes
FAMILIES = {
    'hornet': (('HorNet', 'HorNetClassifier'),),
    'gfnet': (
        ('GFNet', 'GFNetClassifier'),
        ('GFNetPyramid', 'GFNetPyramidClassifier'),
        ('GFNetCNN', 'GFNetCNNClassifier'),
    ),
    'dfformer': (('DFFormer', 'DFFormerClassifier'),),
    'affnet': (('AFFNet', 'AFFNetClassifier'),),
}


def list_archs(family: str | None = None) -> list[str]:
    """Names of the archs of one family, or of all.

    Raises:
        ValueError: unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family '{family}' is unknown; choose one of {', '.join(FAMILIES)}")
    names = [family] if family else FAMILIES
    return [arch for name in names for backbone, _ in FAMILIES[name] for arch in _load(name, backbone).ARCHS]


def backbone_class(arch: str) -> type['FrequencyBackbone']:
    """The backbone class of an arch.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _classes(arch)[0]


def classifier_class(arch: str) -> type['FrequencyClassifier']:
    """The classifier class of an arch.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _classes(arch)[1]


def build_backbone(arch: str, **kwargs) -> 'FrequencyBackbone':
    """Build the backbone of an arch; `kwargs` as in its class.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of `(N, C, h, w)`, one for each of `out_indices`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return backbone_class(arch)(arch=arch, **kwargs)


def build_classifier(arch: str, num_classes: int = 1000, **kwargs) -> 'FrequencyClassifier':
    """Build the published ImageNet classifier of an arch; `kwargs` as in its class.

    Shape:
        The model takes `(N, 3, H, W)` and returns logits `(N, num_classes)`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return classifier_class(arch)(arch=arch, num_classes=num_classes, **kwargs)


def _classes(arch: str) -> tuple[Any, Any]:
    name = arch.replace('_', '-')
    for family, classes in FAMILIES.items():
        for backbone, classifier in classes:
            if name in _load(family, backbone).ARCHS:
                return _load(family, backbone), _load(family, classifier)
    near = get_close_matches(name, list_archs(), n=3, cutoff=0.3) or list_archs()
    raise ValueError(f"arch '{arch}' is unknown; nearest: {', '.join(near)} (all: mmfreq.list_archs())")


def _load(family: str, name: str) -> Any:
    return getattr(import_module(f'mmfreq.models.{family}'), name)
