"""A run with torch and mmengine only, for tests of how processes start and end: it starts twice as fast as one with mmseg.

Its configs import this module by `custom_imports`. A process that exits with threads of gloo prints `OPEN_GROUP`.
"""

import atexit
from pathlib import Path

import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

WIDTH = 4
OPEN_GROUP = 'threads of gloo at exit'


@atexit.register
def report_open_group():
    names = [path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')]
    found = [name for name in names if 'gloo' in name]
    if found:
        print(f'{OPEN_GROUP}: {found}')


@MODELS.register_module()
class LightModel(BaseModel):
    """One linear layer; its loss is the mean of the squared outputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)

    def forward(self, x, **others):
        return {'loss': self.layer(x).square().mean()}


@DATASETS.register_module()
class LightDataset(BaseDataset):
    """Eight samples with names of files."""

    def load_data_list(self):
        return [{'img_path': f'train_{number:05}.jpg', 'x': torch.full((WIDTH,), 1.0 + number)} for number in range(8)]


def write_light_config(path, *imports, max_iters=1000, pipeline=(), custom_hooks=(), num_workers=0):
    """Write the config of a training to a `.py` file; `imports` are more modules for `custom_imports`."""
    cfg = {
        'custom_imports': {'imports': ['_light_run', *imports], 'allow_failed_imports': False},
        'custom_hooks': list(custom_hooks),
        'env_cfg': {'dist_cfg': {'backend': 'nccl'}},
        'model': {'type': 'LightModel'},
        'train_dataloader': {
            'batch_size': 2,
            'collate_fn': {'type': 'default_collate'},
            'num_workers': num_workers,
            'persistent_workers': num_workers > 0,
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
            'dataset': {'type': 'LightDataset', 'pipeline': list(pipeline)},
        },
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': max_iters, 'val_interval': max_iters},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 1e-3}},
        'default_hooks': {
            'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': False},
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, 'interval': max_iters},
        },
        'log_processor': {'by_epoch': False},
        'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}], 'name': 'visualizer'},
        'randomness': {'seed': 0},
    }
    path.write_text(''.join(f'{name} = {value!r}\n' for name, value in cfg.items()))
    return path
