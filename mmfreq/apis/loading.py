"""Load a model for analysis, export or inference: from the name of an arch or from a config file.

| source | model | task | default image size |
|---|---|---|---|
| arch | the ImageNet classifier | 'classification' | the published one |
| arch, `backbone_only` | the backbone | 'features' | the published one |
| classification config | its model | 'classification' | the crop of the test pipeline |
| segmentation config | its model | 'segmentation' | the crop size |
| detection config | its model | 'detection' | the scale of the test pipeline |
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from mmfreq.apis.preprocessing import described_preprocessing, published_preprocessing
from mmfreq.apis.reading import ImageReader, loads_an_image
from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.config.image_channels import image_channels
from mmfreq.config.options import merge_options
from mmfreq.errors import UserError
from mmfreq.models._factory import backbone_class, build_backbone, build_classifier
from mmfreq.registry import without_pretraining
from mmfreq.weights.load import load_checked, load_weights
from mmfreq.weights.store import local_file

TASKS = {'mmpretrain': 'classification', 'mmseg': 'segmentation', 'mmdet': 'detection'}  # by default_scope
SIZE_DIVISOR = 32  # image sizes from configs are rounded up to it


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of pixels in 0..255, one for each channel of the model; the default maps them to -1..1.

    Attributes:
        channels: 'RGB' or 'BGR', the order of the model's channels; 'gray' for one channel; 'bands', in the order of the file, for
            other numbers.
    """

    mean: tuple[float, ...] = (127.5,) * 3
    std: tuple[float, ...] = (127.5,) * 3
    channels: str = 'RGB'


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, on the CPU.

    Attributes:
        name: the arch, or the stem of the config's file name.
        task: 'classification', 'features', 'segmentation' or 'detection'.
        size: (H, W) of the images that it was made for.
        classes: their names; empty if neither checkpoint nor config has them.
        trained: whether a checkpoint was loaded.
        read: reads an image file as the config's test pipeline does.
        palette: (R, G, B) of each class, for drawing; empty for classifiers.
        preprocessing: from an image to the input, as data: see `mmfreq.apis.preprocessing`.
    """

    model: nn.Module
    name: str
    task: str
    size: tuple[int, int]
    normalization: Normalization = Normalization()
    classes: tuple[str, ...] = ()
    trained: bool = False
    read: ImageReader = field(default_factory=ImageReader)
    palette: tuple[tuple[int, ...], ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=lambda: described_preprocessing((), nn.Identity(), 3))

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.read.channels

    @property
    def backbone(self) -> nn.Module:
        """The model's backbone. For an arch it is the model itself: a classifier holds the backbone's layers by the same names."""
        return getattr(self.model, 'backbone', self.model)


def load_model(
    source: str, checkpoint: str | Path | None = None, cfg_options: dict | None = None, backbone_only: bool = False
) -> LoadedModel:
    """Load a model by the name of an arch or the path of a config.

    Args:
        checkpoint: file with every weight of the model, in any published layout; None keeps the initial weights.
        cfg_options: overrides of a config, by dotted key.
        backbone_only: for an arch, the backbone without a head; a classifier's checkpoint is accepted.

    Raises:
        UserError: the config does not exist or is of another task; options for an arch.
        ValueError: unknown arch; the nearest names are listed.
        CheckpointMismatchError: the file lacks weights of the model.

    Example:
        >>> loaded = load_model('hornet-micro')
        >>> loaded.task, loaded.trained
        ('classification', False)
    """
    if Path(source).is_file():
        return _load_config_model(source, checkpoint, cfg_options)
    if source.endswith('.py'):
        raise UserError(f'The config file {source} does not exist.')
    if cfg_options:
        raise UserError(f'Options are for configs, but {source} is an arch: remove {", ".join(cfg_options)}.')
    return _load_arch(source, checkpoint, backbone_only)


def _load_arch(arch: str, checkpoint: str | Path | None, backbone_only: bool) -> LoadedModel:
    model = (build_backbone if backbone_only else build_classifier)(arch).eval()
    meta = {}
    if checkpoint and backbone_only:
        load_weights(model, checkpoint)  # drops the head of a classifier and reports it
    elif checkpoint:
        meta = _load_all_weights(model, checkpoint)
    task = 'features' if backbone_only else 'classification'
    published = backbone_class(arch).published_preprocessing(arch)
    mean, std = (tuple(round(255 * value, 4) for value in values) for values in (published.mean, published.std))
    size, classes = (model.img_size,) * 2, tuple(dataset_meta_of(meta).get('classes') or ())
    name, normalization, steps = arch.replace('_', '-'), Normalization(mean, std), published_preprocessing(arch)
    return LoadedModel(model, name, task, size, normalization, classes, bool(checkpoint), preprocessing=steps)


def _load_config_model(source: str, checkpoint: str | Path | None, cfg_options: dict | None) -> LoadedModel:
    cfg = read_config(source, cfg_options)
    model, meta = build_model(cfg, checkpoint)
    model = getattr(model, (cfg.model.get('semi_test_cfg') or {}).get('predict_on', 'teacher'), model)  # of a mean teacher
    reader = _reader(cfg)
    normalization = _normalization(model.data_preprocessor, reader)
    metainfo, trained = _dataset_metainfo(cfg), dataset_meta_of(meta)
    classes, palette = classes_of(metainfo, trained), palette_of(metainfo, trained)
    name, task, size = Path(source).stem, TASKS[cfg.default_scope], _image_size(cfg, model)
    steps = described_preprocessing(_test_dataset(cfg).get('pipeline') or (), model.data_preprocessor, reader.channels)
    palette = () if task == 'classification' else palette
    return LoadedModel(model, name, task, size, normalization, classes, bool(checkpoint), reader, palette, steps)


def read_config(source: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file and merge options into it, as training does (see `merge_options`)."""
    cfg = Config.fromfile(source)
    merge_options(cfg, cfg_options)
    return cfg


def build_model(cfg: Config, checkpoint: str | Path | None) -> tuple[nn.Module, dict]:
    """Build the model of a config in eval mode on the CPU; sets the default scope.

    Returns:
        The model, and the checkpoint's meta dict.

    Raises:
        UserError: the config is of another task.
        CheckpointError: the file cannot be read.
        CheckpointMismatchError: the file lacks weights of the model.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise UserError(f'Expected a config with default_scope {", ".join(TASKS)}; got {scope!r}.')
    import_module(scope)
    init_default_scope(scope)
    model_cfg = without_pretraining(cfg.model)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    meta = _load_all_weights(model, checkpoint) if checkpoint else {}
    return model.eval(), meta


def _load_all_weights(model: nn.Module, checkpoint: str | Path) -> dict:
    """Load a checkpoint that must hold every tensor of the model; returns its meta dict."""
    content = read_checkpoint(local_file(checkpoint))
    load_checked(model, content, checkpoint, strict=True)
    meta = content.get('meta')
    return meta if isinstance(meta, dict) else {}


def dataset_meta_of(meta: dict) -> dict:
    """The dataset's fields in a checkpoint's meta dict, such as 'classes' and 'palette'; keys in lower case."""
    fields = meta.get('dataset_meta', meta)
    return {key.lower(): value for key, value in fields.items() if isinstance(key, str)} if isinstance(fields, dict) else {}


def classes_of(metainfo: dict, trained: dict) -> tuple[str, ...]:
    """Class names, of the checkpoint's dataset meta (`trained`) or else of the test dataset; () if neither has them."""
    return tuple(trained.get('classes') or metainfo.get('classes') or ())


def palette_of(metainfo: dict, trained: dict) -> tuple[tuple[int, ...], ...]:
    """(R, G, B) of each class, from where the classes are; fixed arbitrary colors if no palette has a color for each."""
    classes, palette = classes_of(metainfo, trained), trained.get('palette') or metainfo.get('palette') or []
    if isinstance(palette, str) or len(palette) < len(classes):  # mmdet has palettes by name
        palette = np.random.default_rng(0).integers(40, 256, (len(classes), 3))
    return tuple(tuple(int(value) for value in color) for color in palette)


def _test_dataset(cfg: Config) -> dict:
    return innermost_dataset(cfg.test_dataloader.dataset) if cfg.get('test_dataloader') else {}


def _reader(cfg: Config) -> ImageReader:
    """The reader of the test pipeline; the default one if the pipeline does not begin with a transform that loads one image."""
    first = next(iter(_test_dataset(cfg).get('pipeline') or ()), None)
    step = first if first and loads_an_image(first) else None
    return ImageReader(step, cfg.default_scope, image_channels(cfg))


def _normalization(preprocessor: nn.Module, reader: ImageReader) -> Normalization:
    channels = reader.channels
    converts = any(getattr(preprocessor, name, False) for name in ('_channel_conversion', 'channel_conversion', 'to_rgb'))
    order = {1: 'gray', 3: 'RGB' if converts == reader.bgr else 'BGR'}.get(channels, 'bands')
    if not getattr(preprocessor, '_enable_normalize', False):
        default = Normalization()
        return Normalization(default.mean[:1] * channels, default.std[:1] * channels, default.channels if channels == 3 else order)
    values = [tuple(round(value, 4) for value in each.flatten().tolist()) for each in (preprocessor.mean, preprocessor.std)]
    mean, std = (value * channels if len(value) == 1 else value for value in values)
    return Normalization(mean, std, order)


def _dataset_metainfo(cfg: Config) -> dict:
    """The metainfo of the test dataset: of its class, and of the config. Of a subset of classes the palette is a subset, too."""
    dataset = _test_dataset(cfg)
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        cls = registry.get(dataset['type']) if 'type' in dataset else None
    published, own = getattr(cls, 'METAINFO', None) or {}, dataset.get('metainfo', {})
    names, palette = own.get('classes') or (), published.get('palette') or ()
    colors = {} if isinstance(palette, str) else dict(zip(published.get('classes') or (), palette))
    if names and 'palette' not in own and all(name in colors for name in names):
        own = {**own, 'palette': [colors[name] for name in names]}
    return {**published, **own}


def innermost_dataset(dataset: dict) -> dict:
    """The config of the dataset inside wrappers; the first one of several."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def _image_size(cfg: Config, model: nn.Module) -> tuple[int, int]:
    size = model.data_preprocessor.size or cfg.get('crop_size') if cfg.default_scope == 'mmseg' else None
    if size is None:
        steps = cfg.test_dataloader.dataset.get('pipeline', ()) if 'test_dataloader' in cfg else ()
        found = [step.get('crop_size') or step.get('scale') for step in steps]
        scale = [value for value in found if value][-1:] or [224]
        size = (scale[0],) * 2 if isinstance(scale[0], int) else tuple(scale[0])[::-1]
    return tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in size)
