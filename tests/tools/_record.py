"""A hook for the tests of this folder: samples, losses and scores of every process; mmengine logs those of the first one only."""

import json
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes the files and the loss of each iteration, and the last scores, to `OUT/<rank>.json`."""

    def __init__(self, out):
        self.out = Path(out)
        self.record = {'files': [], 'losses': [], 'scores': {}}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.record['files'].append([Path(sample.img_path).name for sample in data_batch['data_samples']])
        self.record['losses'].append(float(outputs['loss'].detach()))

    def after_val_epoch(self, runner, metrics=None):
        self.record['scores'] = {name: float(value) for name, value in (metrics or {}).items()}

    def after_train(self, runner):
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f'{runner.rank}.json').write_text(json.dumps(self.record))
