"""Models by their arch's name."""

from difflib import get_close_matches
from importlib import import_module

from torch import nn

# family -> (module, class) of each of its backbones and of that backbone's classifier
FAMILIES = {
    'hornet': ((('backbones.hornet', 'HorNet'), ('classifiers.hornet', 'HorNetClassifier')),),
    'gfnet': (
        (('backbones.gfnet', 'GFNet'), ('classifiers.gfnet', 'GFNetClassifier')),
        (('backbones.gfnet_pyramid', 'GFNetPyramid'), ('classifiers.gfnet', 'GFNetPyramidClassifier')),
        (('backbones.gfnet_cnn', 'GFNetCNN'), ('classifiers.gfnet', 'GFNetCNNClassifier')),
    ),
    'dfformer': ((('backbones.dfformer', 'DFFormer'), ('classifiers.dfformer', 'DFFormerClassifier')),),
    'affnet': ((('backbones.affnet', 'AFFNet'), ('classifiers.affnet', 'AFFNetClassifier')),),
}


def list_archs(family: str | None = None) -> list[str]:
    """Names of the archs of one family, or of all.

    Raises:
        ValueError: unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family '{family}' is unknown; choose one of {', '.join(FAMILIES)}")
    return [arch for name in FAMILIES if family in (None, name) for backbone, _ in FAMILIES[name] for arch in _load(backbone).ARCHS]


def backbone_class(arch: str) -> type:
    """The backbone class of an arch.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _load(_homes(arch)[0])


def classifier_class(arch: str) -> type:
    """The classifier class of an arch.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return _load(_homes(arch)[1])


def build_backbone(arch: str, **kwargs) -> nn.Module:
    """The backbone of an arch; `kwargs` as in its class.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of `(N, C, h, w)`, one for each of `out_indices`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return backbone_class(arch)(arch=arch, **kwargs)


def build_classifier(arch: str, num_classes: int = 1000, **kwargs) -> nn.Module:
    """The published ImageNet classifier of an arch.

    Shape:
        The model takes `(N, 3, H, W)` and returns logits `(N, num_classes)`.

    Raises:
        ValueError: unknown arch; the nearest names are listed.
    """
    return classifier_class(arch)(arch=arch, num_classes=num_classes, **kwargs)


def _homes(arch: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Where the backbone and the classifier of an arch are defined."""
    name = arch.replace('_', '-')
    for backbone, classifier in (pair for pairs in FAMILIES.values() for pair in pairs):
        if name in _load(backbone).ARCHS:
            return backbone, classifier
    near = get_close_matches(name, list_archs(), n=3, cutoff=0.3) or list_archs()
    raise ValueError(f"arch '{arch}' is unknown; nearest: {', '.join(near)} (all: mmfreq.list_archs())")


def _load(home: tuple[str, str]) -> type:
    module, name = home
    return getattr(import_module(f'mmfreq.models.{module}'), name)
