"""Child registries of scope `mmfreq`, found by mmengine through the prefix alone.

mmengine imports `mmfreq.registry` when a config says `type='mmfreq.X'`, so no `custom_imports` is needed. Each registry imports
its modules at the first lookup. Importing this module also lets torch's safe unpickler read mmengine's own checkpoints.
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
# So that `_base_ = 'mmfreq::seg/...'` is found. mmengine looks for the package beside the metadata of the distribution of
# this name, where an editable install does not have it; of a name that is no distribution it asks the import system, which knows.
MODULE2PACKAGE.setdefault('mmfreq', 'mmfreq.registry')


def installed(files):
    """Modules of `(module, the library that it needs)` whose library is installed."""
    return [module for module, library in files if find_spec(library) is not None]


MODEL_FILES = [
    'mmfreq.models.affnet',
    'mmfreq.models.conv_layer',
    'mmfreq.models.dfformer',
    'mmfreq.models.gfnet',
    'mmfreq.models.hornet',
    *installed(
        [
            ('mmfreq.models.det_heads', 'mmdet'),
            ('mmfreq.models.image_classifier', 'mmpretrain'),
            ('mmfreq.models.necks', 'mmdet'),
            ('mmfreq.models.seg_heads', 'mmseg'),
            ('mmfreq.models.ssdlite', 'mmdet'),
        ]
    ),
]
DATASET_FILES = installed([('mmfreq.datasets.segmentation', 'mmseg'), ('mmfreq.datasets.detection', 'mmdet')])
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmfreq', locations=MODEL_FILES)
TASK_UTILS = Registry(
    'task util', parent=MMENGINE_TASK_UTILS, scope='mmfreq', locations=installed([('mmfreq.models.ssdlite', 'mmdet')])
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
    """A model's config without `pretrained`, which some constructors fetch; `init_cfg` only speaks where training starts."""
    if isinstance(cfg, dict):
        return ConfigDict({key: without_pretraining(value) for key, value in cfg.items() if key != 'pretrained'})
    return [without_pretraining(item) for item in cfg] if isinstance(cfg, (list, tuple)) else cfg
