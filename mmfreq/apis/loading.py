"""A model to look at, count or export: by the name of an arch or from a config file, with the weights of a checkpoint.

| source | model | task | size by default |
|---|---|---|---|
| arch | the ImageNet classifier | 'classification' | the published image size |
| arch, `bare` | the backbone | 'features' | the published image size |
| classification config | its model | 'classification' | the crop of the test pipeline |
| segmentation config | its model | 'segmentation' | the crop |
| detection config | its model | 'detection' | the test pipeline's scale |
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from mmfreq.compat.safe_load import read_checkpoint
from mmfreq.config.options import merge_options
from mmfreq.errors import UserError
from mmfreq.models._factory import backbone_class, build_backbone, build_classifier
from mmfreq.registry import without_pretraining
from mmfreq.weights.download import local_file
from mmfreq.weights.load import load_checked, load_weights

TASKS = {'mmpretrain': 'classification', 'mmseg': 'segmentation', 'mmdet': 'detection'}  # by default_scope
MULTIPLE = 32  # of the sides of images


@dataclass(frozen=True)
class Normalisation:
    """What is taken off, and then divided by, of pixels in 0..255, in the order of the model's channels.

    The default puts them into -1..1, for a model that says nothing of itself.
    """

    mean: tuple[float, ...] = (127.5,) * 3
    std: tuple[float, ...] = (127.5,) * 3
    channels: str = 'RGB'  # or BGR


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, on the CPU.

    Attributes:
        name: of the arch, or the stem of the config's file.
        task: 'classification', 'features', 'segmentation' or 'detection'.
        size: (H, W) that it was made for.
        classes: names, empty where neither checkpoint nor config says.
        trained: whether a checkpoint was loaded.
    """

    model: nn.Module
    name: str
    task: str
    size: tuple[int, int]
    normalisation: Normalisation = Normalisation()
    classes: tuple[str, ...] = ()
    trained: bool = False

    @property
    def backbone(self) -> nn.Module:
        """The model's backbone; of an arch's classifier itself, which has the same layers by the same names."""
        return getattr(self.model, 'backbone', self.model)


def load_model(
    source: str, checkpoint: str | Path | None = None, cfg_options: dict | None = None, bare: bool = False
) -> LoadedModel:
    """The subject by the name of an arch or the path of a config.

    Args:
        bare: of an arch the backbone without a head.
        checkpoint: file with every weight of the model, published layouts included; None leaves them as initialised.
        cfg_options: changes to a config.

    Raises:
        UserError: no such config, or one of another task; options for an arch.
        ValueError: unknown arch; the nearest names are listed.
        CheckpointMismatchError: the file does not fill the model.
    """
    if Path(source).is_file():
        return _of_config(source, checkpoint, cfg_options)
    if source.endswith('.py'):
        raise UserError(f'no config file {source}')
    if cfg_options:
        raise UserError(f'options are for configs, got the arch {source} with {", ".join(cfg_options)}')
    return _of_arch(source, checkpoint, bare)


def _of_arch(arch: str, checkpoint: str | Path | None, bare: bool) -> LoadedModel:
    model = (build_backbone if bare else build_classifier)(arch).eval()
    meta = {}
    if checkpoint and bare:
        load_weights(model, checkpoint)  # of a classifier too; says what has no place
    elif checkpoint:
        meta = load_all_weights(model, checkpoint)
    task = 'features' if bare else 'classification'
    published = backbone_class(arch).published_preprocessing(arch)
    seen = Normalisation(*(tuple(round(255 * value, 4) for value in values) for values in (published.mean, published.std)))
    side, classes = model.img_size, tuple(dataset_meta_of(meta).get('classes') or ())
    return LoadedModel(model, arch.replace('_', '-'), task, (side, side), seen, classes, bool(checkpoint))


def _of_config(source: str, checkpoint: str | Path | None, cfg_options: dict | None) -> LoadedModel:
    cfg = read_config(source, cfg_options)
    model, meta = build_model(cfg, checkpoint)
    seen = _normalisation(model.data_preprocessor)
    classes = tuple(dataset_meta_of(meta).get('classes') or _dataset_classes(cfg))
    return LoadedModel(model, Path(source).stem, TASKS[cfg.default_scope], _size(cfg, model), seen, classes, bool(checkpoint))


def read_config(source: str | Path, cfg_options: dict | None = None) -> Config:
    """A config file with options merged in, as in training (see `merge_options`)."""
    cfg = Config.fromfile(source)
    merge_options(cfg, cfg_options)
    return cfg


def build_model(cfg: Config, checkpoint: str | Path | None) -> tuple[nn.Module, dict]:
    """The model of a config in eval mode, on the CPU, and what its checkpoint says of itself; sets the default scope.

    Raises:
        UserError: the config is of another task.
        CheckpointError: the file cannot be read.
        CheckpointMismatchError: it does not fill the model.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise UserError(f'default_scope of the config is {scope!r}; expected one of {", ".join(TASKS)}')
    import_module(scope)
    init_default_scope(scope)
    described = without_pretraining(cfg.model)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does it
        described.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(described))
    meta = load_all_weights(model, checkpoint) if checkpoint else {}
    return model.eval(), meta


def load_all_weights(model: nn.Module, checkpoint: str | Path) -> dict:
    """Load a checkpoint file that must hold every tensor of `model`, published layouts included; its meta dict.

    Raises:
        CheckpointMismatchError: it does not; the tensors that are missing or of another shape are listed.
    """
    loaded = read_checkpoint(local_file(checkpoint))
    load_checked(model, loaded, checkpoint, strict=True)
    meta = loaded.get('meta')
    return meta if isinstance(meta, dict) else {}


def dataset_meta_of(meta: dict) -> dict:
    """What a checkpoint's meta dict says of the data, 'classes' and 'palette' for example; keys in lower case."""
    said = meta.get('dataset_meta', meta)
    return {key.lower(): value for key, value in said.items() if isinstance(key, str)} if isinstance(said, dict) else {}


def _normalisation(preprocessor: nn.Module) -> Normalisation:
    """Of mmengine's image preprocessors."""
    if not getattr(preprocessor, '_enable_normalize', False):
        return Normalisation()
    swapped = getattr(preprocessor, '_channel_conversion', False) or getattr(preprocessor, 'channel_conversion', False)
    swapped = swapped or getattr(preprocessor, 'to_rgb', False)
    mean, std = (tuple(round(value, 4) for value in values.flatten().tolist()) for values in (preprocessor.mean, preprocessor.std))
    return Normalisation(mean, std, 'RGB' if swapped else 'BGR')


def _dataset_classes(cfg: Config) -> tuple[str, ...]:
    """Of the test data set."""
    dataset = innermost_dataset(cfg.test_dataloader.dataset) if cfg.get('test_dataloader') else {}
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        kind = registry.get(dataset['type']) if 'type' in dataset else None
    told = {**(getattr(kind, 'METAINFO', None) or {}), **dataset.get('metainfo', {})}
    return tuple(told.get('classes') or ())


def innermost_dataset(dataset: dict) -> dict:
    """The config of the data set inside wrappers; of several, the first."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def _size(cfg: Config, model: nn.Module) -> tuple[int, int]:
    """(H, W), rounded up to what the backbones' strides divide."""
    size = model.data_preprocessor.size or cfg.get('crop_size') if cfg.default_scope == 'mmseg' else None
    if size is None:
        steps = cfg.test_dataloader.dataset.get('pipeline', ()) if 'test_dataloader' in cfg else ()
        found = [step.get('crop_size') or step.get('scale') for step in steps]
        scale = [value for value in found if value][-1:] or [224]
        size = (scale[0],) * 2 if isinstance(scale[0], int) else tuple(scale[0])[::-1]
    return tuple(-(-side // MULTIPLE) * MULTIPLE for side in size)
