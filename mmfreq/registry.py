"""Registries of the scope `mmfreq`.

mmengine imports this module when a config has `type='mmfreq.X'`, so no `custom_imports` is needed. A registry imports the modules
of its `locations` at the first lookup. Importing this module also allows torch's safe unpickler to read mmengine's checkpoints.
"""

from importlib.util import find_spec

from mmengine.config import ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmfreq.compat.onedl import find_onedl_configs, load_safely
from mmfreq.compat.safe_load import allow_mmengine_checkpoints

allow_mmengine_checkpoints()
find_onedl_configs(MODULE2PACKAGE)
load_safely()
# For `_base_ = 'mmfreq::seg/...'`: mmengine looks for a package beside its distribution's metadata, where an editable install does
# not have it. It asks the import system for names that are no distribution, such as this one.
MODULE2PACKAGE.setdefault('mmfreq', 'mmfreq.registry')


def if_installed(library: str, *modules: str) -> list[str]:
    """`modules`, or none of them if the library that they need is not installed."""
    return list(modules) if find_spec(library) is not None else []


MODEL_FILES = [
    'mmfreq.models.affnet',
    'mmfreq.models.conv_layer',
    'mmfreq.models.dfformer',
    'mmfreq.models.gfnet',
    'mmfreq.models.hornet',
    *if_installed('mmdet', 'mmfreq.models.det_heads', 'mmfreq.models.necks', 'mmfreq.models.ssdlite'),
    *if_installed('mmpretrain', 'mmfreq.models.image_classifier'),
    *if_installed('mmseg', 'mmfreq.models.seg_heads'),
]
DATASET_FILES = [
    *if_installed('mmseg', 'mmfreq.datasets.segmentation'),
    *if_installed('mmdet', 'mmfreq.datasets.detection'),
]
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmfreq', locations=MODEL_FILES)
TASK_UTILS = Registry(
    'task util', parent=MMENGINE_TASK_UTILS, scope='mmfreq', locations=if_installed('mmdet', 'mmfreq.models.ssdlite')
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmfreq', locations=DATASET_FILES)
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmfreq', locations=['mmfreq.datasets.transforms'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmfreq', locations=['mmfreq.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmfreq', locations=['mmfreq.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmfreq',
    locations=['mmfreq.engine'],
)


def without_pretraining(cfg):
    """A model's config without `pretrained`, which some constructors download; `init_cfg` is used only when training starts."""
    if isinstance(cfg, dict):
        return ConfigDict({key: without_pretraining(value) for key, value in cfg.items() if key != 'pretrained'})
    return [without_pretraining(item) for item in cfg] if isinstance(cfg, (list, tuple)) else cfg
