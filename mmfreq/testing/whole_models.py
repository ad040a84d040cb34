"""Small models of everything that the package trains, for checks that hold for all of them, such as that no parameter is unused."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmfreq.models._factory import backbone_class, build_backbone, build_classifier, list_archs
from mmfreq.registry import MODELS

MICRO = tuple(arch for arch in list_archs() if 'micro' in arch)
STAGES = range(4)
SUBSETS = tuple(chosen for count in (1, 2, 3, 4) for chosen in combinations(STAGES, count))
NORM = {'type': 'GN', 'num_groups': 4}
WIDTH, CLASSES = 8, 5


def backbones(subsets=SUBSETS) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """(name, builder) of the micro backbones of all families, for each choice of `out_indices`; AFFNet's output strides too."""
    for arch in MICRO:
        for chosen in subsets:
            for stride in (32, 16, 8) if backbone_class(arch).family == 'affnet' else (None,):
                options = {'out_indices': chosen} | ({} if stride is None else {'output_stride': stride})
                name = f'{arch}, stages {", ".join(map(str, chosen))}' + (f', output stride {stride}' if stride else '')
                yield name, partial(build_backbone, arch, **options)


def whole_models() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """(name, builder) of the classifiers, and of each neck and head of mmfreq on a backbone; they map images to maps or logits."""
    for arch in MICRO:
        yield f'classifier {arch}', partial(build_classifier, arch, CLASSES)
    conv = {'type': 'mmfreq.GnConv'}
    levels = {
        'in_channels': [16, 32, 64, 128],
        'in_index': [0, 1, 2, 3],
        'channels': WIDTH,
        'num_classes': CLASSES,
        'norm_cfg': NORM,
    }
    fpn = {'in_channels': [16, 32, 64, 128], 'out_channels': WIDTH, 'num_outs': 5}
    for grid in (None, 4):
        name = f'gnConv{"" if grid is None else " with a global filter"}'
        cfg = {'grid': grid}
        yield f'GnUPerHead, {name}', _on('hornet-micro', 'mmseg', {'type': 'mmfreq.GnUPerHead', 'gnconv_cfg': cfg, **levels})
        yield f'GnFPN, {name}', _on('hornet-micro', 'mmdet', {'type': 'mmfreq.GnFPN', 'gnconv_cfg': cfg, **fpn})
    equal = {**levels, 'in_channels': [WIDTH] * 4, 'feature_strides': [4, 8, 16, 32]}
    neck = {'type': 'FPN', **fpn, 'num_outs': 4}
    yield 'GnFPNHead', _on('hornet-micro', 'mmseg', neck, {'type': 'mmfreq.GnFPNHead', **equal})
    yield 'UPerHead with gnConv', _on('hornet-micro', 'mmseg', {'type': 'UPerHead', 'conv_cfg': conv, **levels})
    rpn = {'type': 'mmfreq.RPNHead', 'in_channels': WIDTH, 'feat_channels': WIDTH, 'conv_cfg': conv}
    yield 'RPNHead with gnConv', _on('hornet-micro', 'mmdet', {'type': 'FPN', **fpn}, rpn)
    aspp = {'type': 'mmfreq.AFFNetASPPHead', 'in_channels': 32, 'in_index': 0, 'num_classes': CLASSES}
    yield 'AFFNetASPPHead', _on('affnet-micro', 'mmseg', aspp, out_indices=(3,), output_stride=16)
    widths = (24, 24, 16, 16, 16, 8)  # one level is projected and one is not
    ssd_neck = {'type': 'mmfreq.AFFNetSSDLiteNeck', 'in_channels': (24, 32), 'proj_channels': widths}
    channels = (24, 32, *widths[2:])
    ssd = {'type': 'mmfreq.AFFNetSSDLiteHead', 'in_channels': channels, 'num_classes': CLASSES, 'proj_channels': widths}
    yield 'AFFNetSSDLiteHead', _on('affnet-micro', 'mmdet', ssd_neck, ssd, out_indices=(2, 3))


def total(outputs) -> Tensor:
    """A scalar that depends on every value of nested outputs, nonlinearly."""
    if isinstance(outputs, Tensor):
        return (outputs.float().square() + outputs.float()).mean()
    return sum(map(total, outputs))


def _on(arch: str, scope: str, *parts: dict, **options) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with DefaultScope.overwrite_default_scope(scope):
            return nn.Sequential(build_backbone(arch, **options), *(MODELS.build(dict(part)) for part in parts))

    return build
