"""Backbones and classifiers by the name of their arch, with or without published weights."""

import os
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


def build_backbone(arch: str, pretrained: 'bool | str | os.PathLike' = False, **kwargs) -> 'FrequencyBackbone':
    """Build the backbone of an arch.

    Args:
        arch: as in `list_archs()`.
        pretrained: False; True for the published file that the dense configs of the arch start from; a tag such as 'in1k' or
            'in22k' (`mmfreq.list_weights(arch)` has all); or a source as in `load_weights`, such as a path.
        **kwargs: as in the class.

    Shape:
        The model takes `(N, 3, H, W)` and returns a tuple of `(N, C, h, w)`, one for each of `out_indices`.

    Raises:
        ValueError: unknown arch (the nearest names are listed) or tag.
        CheckpointError: the weights cannot be found, downloaded or read, or do not fit.
    """
    model = backbone_class(arch)(arch=arch, **kwargs)
    if pretrained:
        from mmfreq.weights.files import DENSE_STARTS
        from mmfreq.weights.load import load_pretrained

        load_pretrained(model, pretrained_source(arch, pretrained, DENSE_STARTS))
    return model


def build_classifier(
    arch: str, num_classes: int | None = None, pretrained: 'bool | str | os.PathLike' = False, **kwargs
) -> 'FrequencyClassifier':
    """Build the published ImageNet classifier of an arch.

    Args:
        arch: as in `list_archs()`.
        num_classes: of the last layer; None means 1000, or with `pretrained` the number that the file has. If the file has
            another number than asked for, the last layer starts from random values.
        pretrained: as in `build_backbone`, but True is the published classifier.
        **kwargs: as in the class.

    Shape:
        The model takes `(N, 3, H, W)` and returns logits `(N, num_classes)`.

    Raises:
        ValueError, CheckpointError: as in `build_backbone`.
    """
    cls = classifier_class(arch)
    if not pretrained:
        return cls(arch=arch, num_classes=1000 if num_classes is None else num_classes, **kwargs)
    from mmfreq.weights.files import CLASSIFIERS
    from mmfreq.weights.load import classes_in, load_pretrained

    source = pretrained_source(arch, pretrained, CLASSIFIERS)
    if num_classes is None:
        num_classes = classes_in(source, cls, arch) or 1000
    model = cls(arch=arch, num_classes=num_classes, **kwargs)
    load_pretrained(model, source)
    return model


def pretrained_source(arch, pretrained, defaults):
    """The source, for `load_weights`, that a value of `pretrained` means.

    Args:
        pretrained: True, a tag, or a source.
        defaults: tuple of tags for True; the first one that the arch has.

    Raises:
        CheckpointError: no such file is published; the message lists the tags that there are.
    """
    from mmfreq.weights.files import find_weights, list_weights
    from mmfreq.weights.store import is_named

    tags = {each.tag for each in list_weights(arch)}
    if pretrained is True:
        tag = next((each for each in defaults if each in tags), defaults[0])
        return find_weights(f'{arch}/{tag}').name
    if isinstance(pretrained, os.PathLike):
        return pretrained
    name = str(pretrained)
    is_path = name not in tags and (is_named(name) or os.path.exists(name) or os.sep in name or '.' in name)
    return name if is_path else find_weights(f'{arch}/{name}').name


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
