"""The inferencers and builders of OpenMMLab read checkpoints of training runs after `import mmfreq` alone.

Each runs in a process of its own, as other tests have imported mmfreq's registry and mmengine's loader already.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope

import mmfreq
from mmfreq.registry import MODELS
from mmfreq.weights.convert import write_checkpoint

ROOT = Path(mmfreq.__file__).parents[1]
CONFIGS = ROOT / 'configs'
DETECTOR = CONFIGS / 'det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
SEGMENTOR = CONFIGS / 'seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
CLASSIFIER = CONFIGS / 'cls/hornet/hornet-tiny-7x7_32xb128-300e_in1k.py'
ENTRANCES = {
    'DetInferencer': (DETECTOR, 'from mmdet.apis import DetInferencer', "DetInferencer(CONFIG, WEIGHTS, 'cpu').model"),
    'MMSegInferencer': (
        SEGMENTOR,
        'from mmseg.apis import MMSegInferencer',
        "MMSegInferencer(CONFIG, WEIGHTS, device='cpu').model",
    ),
    'init_model': (SEGMENTOR, 'from mmseg.apis import init_model', "init_model(CONFIG, WEIGHTS, device='cpu')"),
    'ImageClassificationInferencer': (
        CLASSIFIER,
        'from mmpretrain import ImageClassificationInferencer',
        "ImageClassificationInferencer(CONFIG, pretrained=WEIGHTS, device='cpu').model",
    ),
}
CODE = """
import sys
import mmfreq
{imported}
CONFIG, WEIGHTS, NAME = sys.argv[1:]
model = {built}
print('VALUE', model.state_dict()[NAME].flatten()[0].item())
"""


def write_run_checkpoint(config, path):
    """A checkpoint as a training run writes it: with mmengine's message hub, numpy values and the config. Returns (name, value)."""
    cfg = Config.fromfile(config)
    if config == CLASSIFIER:
        cfg.merge_from_dict({'model.arch': 'hornet-micro'})
        cfg.dump(path.with_suffix('.py'))
    init_default_scope(cfg.default_scope)
    state = MODELS.build(cfg.model).state_dict()
    name = next(name for name in state if name.endswith('stages.0.0.gamma1'))
    state[name] = torch.full_like(state[name], 0.625)
    meta = dict(dataset_meta=dict(classes=tuple('abcde'), palette=[(0, 0, 0)] * 5), cfg=cfg.pretty_text, seed=np.int64(1), iter=1)
    hub = dict(log_scalars={'train/loss': HistoryBuffer([1.0], [1])}, runtime_info={'iter': 1}, resumed_keys={'iter': True})
    torch.save(dict(state_dict=state, meta=meta, message_hub=hub), path)
    write_checkpoint({'state_dict': state, 'meta': {'dataset_meta': meta['dataset_meta']}}, path.with_suffix('.safetensors'))
    return name


@pytest.mark.slow
@pytest.mark.parametrize('entrance', list(ENTRANCES))
def test_it_reads_a_checkpoint_of_a_training_run(entrance, tmp_path):
    config, imported, built = ENTRANCES[entrance]
    name = write_run_checkpoint(config, tmp_path / 'iter_1.pth')
    config = tmp_path / 'iter_1.py' if config == CLASSIFIER else config
    suffix = '.safetensors' if entrance == 'MMSegInferencer' else '.pth'
    command = [sys.executable, '-W', 'ignore', '-c', CODE.format(imported=imported, built=built)]
    done = subprocess.run(
        [*command, config, tmp_path / f'iter_1{suffix}', name],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert 'VALUE 0.625' in done.stdout, done.stderr[-2000:]
