"""The published weights as data: URL, arch, task, metrics and licence of each file.

`mmfreq://ARCH/TAG` names one file: the tags are in `TAGS`. OpenMMLab's copies of HorNet are other files with other bytes; their
tags end with `-openmmlab`.

The URLs are those of the official READMEs and code and of mmpretrain 1.2.0. They have not been tested and the files have not been
opened, so a `sha256` is 'unknown' unless a release states it. Metrics are the published ones, in per cent, absent where no
available source states them. Licences are those of the code in the same repository.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType

from mmfreq.compat.safe_load import CheckpointError
from mmfreq.weights.download import direct_url

UNKNOWN = 'unknown'
# task -> training data, and metrics
TASKS = {
    'imagenet-1k': 'ImageNet-1k classification: top1, top5',
    'imagenet-22k': 'ImageNet-22k classification',
    'pretraining-1k': 'the ImageNet-1k file that the dense configs start from',
    'pretraining-22k': 'the ImageNet-22k file that the dense configs start from',
    'ade20k': 'ADE20K semantic segmentation: miou, miou_ms (multi-scale and flip)',
    'coco': 'COCO val2017 detection: box_ap, mask_ap',
    'voc': 'PASCAL VOC 2012 semantic segmentation: miou',
}
# task -> its name in `mmfreq://ARCH/TAG`
TAGS = {
    'imagenet-1k': 'in1k',
    'imagenet-22k': 'in22k',
    'pretraining-1k': 'in1k-dense',
    'pretraining-22k': 'in22k-dense',
    'ade20k': 'ade20k',
    'coco': 'coco',
    'voc': 'voc',
}
OPENMMLAB = '-openmmlab'  # at the end of the tags of OpenMMLab's copies
CLASSIFIERS = ('in1k', 'in22k')  # tags of ImageNet classifiers
DENSE_STARTS = ('in1k-dense', 'in22k-dense', *CLASSIFIERS)  # tags that dense configs start from, the first one that an arch has


@dataclass(frozen=True)
class Weights:
    """One published file.

    Attributes:
        arch: as in `mmfreq.list_archs()`; for dense tasks, of the backbone.
        task: key of `TASKS`.
        url: 'unknown' where no direct link is published.
        repository: where it is published.
        licence: of that repository's code.
        model: the whole network, for dense tasks.
        mirrors: further URLs of the same file.
        metrics: name to the published value, in per cent.
        img_size: image side for which the filters are stored.
        sha256, sha256_prefix: of the file; OpenMMLab's file names contain the prefix.
        weights_licence: 'unknown' where none is stated.
        note: what users should know.
    """

    arch: str
    task: str
    url: str
    repository: str
    licence: str
    model: str = 'classifier'
    mirrors: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    img_size: int = 224
    sha256: str = UNKNOWN
    sha256_prefix: str = UNKNOWN
    weights_licence: str = UNKNOWN
    note: str = ''

    @property
    def tag(self) -> str:
        """Name of the file among those of its arch."""
        return TAGS[self.task] + (OPENMMLAB if 'open-mmlab' in self.repository else '')

    @property
    def name(self) -> str:
        """The source for `load_weights`, `init_cfg` and the tools."""
        return f'mmfreq://{self.arch}/{self.tag}'

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs that serve the file itself, in the order in which they are tried."""
        return tuple(direct_url(url) for url in (self.url, *self.mirrors) if url != UNKNOWN)

    @property
    def pages(self) -> tuple[str, ...]:
        """Where a person can download it."""
        shared = tuple(url.removesuffix('?dl=1') for url in (self.url, *self.mirrors) if url != UNKNOWN)
        return shared or (self.repository,)


def list_weights(arch: str | None = None, task: str | None = None) -> list[Weights]:
    """The published files of an arch (with hyphens or underscores), of a task, or of both; without arguments, all.

    This is `mmfreq.list_weights`.

    Args:
        arch: as in `mmfreq.list_archs()`.
        task: a key of `TASKS`, or a tag.

    Raises:
        ValueError: unknown task.
    """
    tasks = dict.fromkeys((*TASKS, *(each.tag for each in ZOO)))
    if task not in (None, *tasks):
        raise ValueError(f"Expected one of {', '.join(tasks)} as task, got '{task}'.")
    wanted = arch and arch.replace('_', '-')
    return [each for each in ZOO if wanted in (None, each.arch) and task in (None, each.task, each.tag)]


def find_weights(name: str) -> Weights:
    """The published file of `ARCH/TAG`; of `ARCH` alone, the one that dense configs start from.

    Raises:
        CheckpointError: unknown arch or tag, or no published file; the message lists what there is.
    """
    arch, _, tag = name.strip('/').replace('_', '-').partition('/')
    files = {each.tag: each for each in ZOO if each.arch == arch}
    if not files:
        archs = list(dict.fromkeys(each.arch for each in ZOO))
        near = ', '.join(get_close_matches(arch, archs, n=3, cutoff=0.6))
        nearest = f'; nearest: {near}' if near else ''
        raise CheckpointError(f"No weights of '{arch}' are published{nearest} (all: mmfreq.list_weights()).")
    tag = tag or next((each for each in DENSE_STARTS if each in files), '')
    if tag not in files:
        raise CheckpointError(f"No weights '{tag}' of {arch} are published; it has the tags {', '.join(files)}.")
    return files[tag]


def weights_at(url: str) -> Weights | None:
    """The published file that a URL serves; None for other URLs."""
    return next((each for each in ZOO if url in (each.url, *each.mirrors, *each.urls)), None)


def tsinghua(share: str) -> str:
    return f'https://cloud.tsinghua.edu.cn/f/{share}/?dl=1'


def google_drive(file: str) -> str:
    return f'https://drive.google.com/file/d/{file}/view'


def metrics(names: str, values: tuple[float, ...]) -> Mapping[str, float]:
    return MappingProxyType(dict(zip(names.split(), values, strict=True))) if values else MappingProxyType({})


# arch: links of the classification, dense pre-training, ADE20K and COCO files; then top1, (miou, miou_ms), (box_ap, mask_ap)
HORNET = {
    'hornet-tiny-7x7': (
        ('bac9690c72944d19aca1', '1ca970586c6043709a3f', '684334b0a7ea436b9a97', '19daa3854a6b4c75bf23'),
        ((82.8,), (48.1, 48.9), (51.7, 44.8)),
    ),
    'hornet-tiny-gf': (
        ('460e759c82324ea6bfa3', '511faad0bde94dfcaa54', '34725e1401194786bb76', '1ca353fb6ac44b54a2d8'),
        ((83.0,), (49.2, 49.3), (52.4, 45.6)),
    ),
    'hornet-small-7x7': (
        ('8ef64277da0e469ea857', '46422799db2941f7b684', '0e488e21a88d414da90c', '6af0439735dc473f8646'),
        ((83.8,), (49.2, 49.8), (52.7, 45.6)),
    ),
    'hornet-small-gf': (
        ('959603ca287d4c09ad49', '8405c984bf084d2ba85a', 'd37290faa8a34bc091c3', 'fd9a3127b18f404d8e95'),
        ((84.0,), (50.0, 50.5), (53.3, 46.3)),
    ),
    'hornet-base-7x7': (
        ('13a748487711492e9704', '5c86cb3d655d4c17a959', '98288e9023c2425a880c', '324de62466a848129e19'),
        ((84.2,), (50.0, 50.5), (53.3, 46.1)),
    ),
    'hornet-base-gf': (
        ('c212d1d8a3914b47a5c1', '6c84935e63b547f383fb', 'e50ecead21e4408187b7', '97d8587c8a0248fcac19'),
        ((84.3,), (50.5, 50.9), (54.0, 46.9)),
    ),
    'hornet-large-7x7': (
        ('c2fc23caae084a3aa73d', 'a76f7ce114ad4e9c8ffb', 'd7a782e07a354f59bf62', '975af666e64840588e3e'),
        ((), (54.1, 54.5), (55.4, 48.0)),
    ),
    'hornet-large-gf': (
        ('8600206ebdfa485f98d0', '9253bd0d50c84ab1b71e', '3dbb38bae1694653a666', '597f655fe9b84d50bffb'),
        ((), (55.0, 55.2), (56.0, 48.6)),
    ),
}
HORNET_SOURCE = ('https://github.com/raoyongming/HorNet', 'MIT')
LARGE_GF_384 = 'eec48d5eca5a48d98fd2'


def hornet() -> list[Weights]:
    out = []
    for arch, (shares, (top1, miou, ap)) in HORNET.items():
        large, gf = 'large' in arch, arch.endswith('gf')
        data = '22k' if large else '1k'
        classes, pretraining, ade20k, coco = (tsinghua(share) for share in shares)
        unsure = 'stores its filters at 224 or 384 (not known which); both load' if large and gf else ''
        crop = 'the README says crop 640, the config and the FLOPs 512' if arch == 'hornet-base-gf' else ''
        out += [
            Weights(arch, f'imagenet-{data}', classes, *HORNET_SOURCE, metrics=metrics('top1', top1)),
            Weights(arch, f'pretraining-{data}', pretraining, *HORNET_SOURCE, note=unsure),
            Weights(
                arch,
                'ade20k',
                ade20k,
                *HORNET_SOURCE,
                model='UPerNet',
                metrics=metrics('miou miou_ms', miou),
                img_size=384 if gf else 224,
                note=crop,
            ),
            Weights(
                arch,
                'coco',
                coco,
                *HORNET_SOURCE,
                model='Cascade Mask R-CNN',
                metrics=metrics('box_ap mask_ap', ap),
                img_size=384 if large and gf else 224,
            ),
        ]
    return [*out, Weights('hornet-large-gf-img384', 'imagenet-22k', tsinghua(LARGE_GF_384), *HORNET_SOURCE, img_size=384)]


# arch: file, then top1 and top5
MMPRETRAIN = {
    'hornet-tiny-7x7': ('hornet-tiny_3rdparty_in1k_20220915-0e8eedff', (82.84, 96.24)),
    'hornet-tiny-gf': ('hornet-tiny-gf_3rdparty_in1k_20220915-4c35a66b', (82.98, 96.38)),
    'hornet-small-7x7': ('hornet-small_3rdparty_in1k_20220915-5935f60f', (83.79, 96.75)),
    'hornet-small-gf': ('hornet-small-gf_3rdparty_in1k_20220915-649ca492', (83.98, 96.77)),
    'hornet-base-7x7': ('hornet-base_3rdparty_in1k_20220915-a06176bb', (84.24, 96.94)),
    'hornet-base-gf': ('hornet-base-gf_3rdparty_in1k_20220915-82c06fa7', (84.32, 96.95)),
    'hornet-large-7x7': ('hornet-large_3rdparty_in21k_20220909-9ccef421', ()),
    'hornet-large-gf': ('hornet-large-gf_3rdparty_in21k_20220909-3aea3b61', ()),
    'hornet-large-gf-img384': ('hornet-large-gf384_3rdparty_in21k_20220909-80894290', ()),
}
MMPRETRAIN_SOURCE = ('https://github.com/open-mmlab/mmpretrain', 'Apache-2.0')
CONVERTED = 'converted from the file that the dense configs start from'
ODD_GRIDS = "mmpretrain's model stores its filters at 24x12 and 13x7, the published one at 24x13 and 12x7; evaluate before use"


def mmpretrain() -> list[Weights]:
    return [
        Weights(
            arch,
            'imagenet-1k' if '_in1k_' in file else 'imagenet-22k',
            f'https://download.openmmlab.com/mmclassification/v0/hornet/{file}.pth',
            *MMPRETRAIN_SOURCE,
            metrics=metrics('top1 top5', values),
            img_size=384 if arch.endswith('384') else 224,
            sha256_prefix=file.rpartition('-')[2],
            note=ODD_GRIDS if arch.endswith('384') else CONVERTED if values else '',
        )
        for arch, (file, values) in MMPRETRAIN.items()
    ]


# arch: Tsinghua link, Google Drive file, top1 and top5
GFNET = {
    'gfnet-ti': ('3d0c1579aa524a0a99dd', '1_xrfC7c_ccZnVicYDnrViOA_T1N-xoHI', (74.6, 92.2)),
    'gfnet-xs': ('e0ab5b1583954a1fa9b2', '1paf9gQWdsLXrG58R77yJ3U0FiNINg9xN', (78.6, 94.2)),
    'gfnet-s': ('e5561fa070c44d9399bf', '18aRey_1abWNMmSL7TZQ4WxpplLRCDGEl', (80.0, 94.9)),
    'gfnet-b': ('2fbf264597af4d72afb3', '1OncnXYAXpdjZBq4JK5Y3xacIHOIMePQo', (80.7, 95.1)),
    'gfnet-h-ti': ('b22dd45eccbe462cbbfb', '1Nrq5sfHD9RklCMl6WkcVrAWI5vSVzwSm', (80.1, 95.1)),
    'gfnet-h-s': ('5229cb4d1daf48e69675', '1w4d7o1LTBjmSkb5NKzgXBBiwdBOlwiie', (81.5, 95.6)),
    'gfnet-h-b': ('954c5af21e824ba6b40c', '1F900_-yPH7GFYfTt60xn4tu5a926DYL0', (82.9, 96.2)),
}
GFNET_SOURCE = ('https://github.com/raoyongming/GFNet', 'MIT')


def gfnet() -> list[Weights]:
    return [
        Weights(
            arch, 'imagenet-1k', tsinghua(share), *GFNET_SOURCE, mirrors=(google_drive(file),), metrics=metrics('top1 top5', values)
        )
        for arch, (share, file, values) in GFNET.items()
    ]


# the top1 of the others is in the paper's tables, which the available sources do not show
DFFORMER = {
    f'{family}-{size}': (85.0,) if (family, size) == ('cdfformer', 'b36') else ()
    for family in ('dfformer', 'cdfformer')
    for size in ('s18', 's36', 'm36', 'b36')
}
DFFORMER_SOURCE = ('https://github.com/okojoalg/dfformer', 'MIT AND Apache-2.0')


def dfformer() -> list[Weights]:
    return [
        Weights(
            arch,
            'imagenet-1k',
            f'{DFFORMER_SOURCE[0]}/releases/download/weights/{arch.replace("-", "_")}.pth',
            *DFFORMER_SOURCE,
            metrics=metrics('top1', top1),
            note="top1 as in the abstract of the paper's first version" if top1 else '',
        )
        for arch, top1 in DFFORMER.items()
    ]


# arch: top1, mIoU on ADE20K, mIoU on VOC
AFFNET = {'affnet-et': (73.0, 33.0, 76.1), 'affnet-t': (77.0, 36.9, 77.8), 'affnet': (79.8, 38.4, 80.5)}
AFFNET_SOURCE = ('https://github.com/microsoft/TokenMixers', "MIT; Apple's licence for the files of CVNets")
AFFNET_FOLDERS = "in a OneDrive folder that the official README links; averaged (EMA) weights in CVNets' names"


def affnet() -> list[Weights]:
    rows = (('imagenet-1k', 'classifier', 'top1'), ('ade20k', 'DeepLabv3', 'miou'), ('voc', 'DeepLabv3', 'miou'))
    return [
        Weights(
            arch, task, UNKNOWN, *AFFNET_SOURCE, model=model, metrics=metrics(metric, (value,)), img_size=256, note=AFFNET_FOLDERS
        )
        for arch, values in AFFNET.items()
        for (task, model, metric), value in zip(rows, values)
    ]


ZOO: tuple[Weights, ...] = (*hornet(), *mmpretrain(), *gfnet(), *dfformer(), *affnet())
