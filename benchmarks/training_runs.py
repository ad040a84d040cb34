"""Training runs of several configs with several seeds, for `compare_backbones.py` and `filter_resizing.py`.

The runs are those of `tools/train.py`, one after another, in `WORK_DIR/<name of the config>/seed<N>`.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmfreq  # noqa: E402, F401  (first: it supplies mmcv._ext where no compiled mmcv is)
from mmfreq.compat.safe_load import read_checkpoint  # noqa: E402
from mmfreq.errors import UserError  # noqa: E402
from mmfreq.zoo.rows import write_text  # noqa: E402

SCORES = 'scores.json'  # in the folder of a run; written last, when the run is complete
REMEDY = 'Move the folder away, or give another --work-dir.'
# of configs that are compared: what has to be equal
RECIPE = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'test_dataloader', 'model.data_preprocessor')


@dataclass(frozen=True)
class Run:
    """A training run, and the validation of its last checkpoint; `data` is the data root, None for that of the config."""

    config: Path
    seed: int
    folder: Path
    data: str | None = None

    @cached_property
    def cfg(self):
        from mmfreq.config.reading import read_config

        return read_config(self.config)

    @property
    def options(self) -> dict:
        """Options of the config, by dotted key."""
        return {f'{part}_dataloader.dataset.data_root': self.data for part in ('train', 'val', 'test')} if self.data else {}

    @cached_property
    def scores(self) -> dict:
        """{'mIoU': percent, 'IoU': {class: percent}, 'config': hash of config and data root} of a complete run."""
        return json.loads((self.folder / SCORES).read_text(encoding='utf-8'))

    @cached_property
    def curve(self) -> dict[int, float]:
        """mIoU in percent at each validated iteration."""
        from mmfreq.analysis.training_logs import read_log

        curve = read_log(self.folder).curves['mIoU']
        return dict(zip(curve.steps.tolist(), curve.values.tolist()))

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint, also after the folder was moved."""
        return self.folder / Path((self.folder / 'last_checkpoint').read_text(encoding='utf-8').strip()).name

    def complete(self) -> None:
        """Train or resume, and validate, unless that is done.

        Raises:
            UserError: the folder has a run of another config, seed or data set.
        """
        from mmfreq.engine.class_scores import evaluate_by_class
        from mmfreq.zoo.reproduction import fingerprint

        version = fingerprint(self.cfg, self.data or '')
        if not (self.folder / SCORES).is_file():
            command = [sys.executable, str(ROOT / 'tools/train.py'), str(self.config), '--work-dir', str(self.folder)]
            command += ['--seed', str(self.seed), '--resume', 'auto', '--from-scratch']
            if self.options:
                command += ['--cfg-options', *(f'{key}={value}' for key, value in self.options.items())]
            subprocess.run(command, check=True)
            self.check_checkpoint()
            options = {'work_dir': self.folder / 'test', 'cfg_options': self.options}
            metrics, (iou,) = evaluate_by_class(self.config, self.checkpoint, **options)
            scores = {'mIoU': float(metrics['mIoU']), 'IoU': dict(zip(iou.classes, iou.values.tolist())), 'config': version}
            write_text(self.folder / SCORES, json.dumps(scores))
        if self.scores['config'] != version:
            raise UserError(f'{self.folder} has a run of another version of {self.config}, or of other data. {REMEDY}')

    def check_checkpoint(self) -> None:
        """Raise a UserError unless the last checkpoint is the end of this run."""
        meta = read_checkpoint(self.checkpoint)['meta']
        wanted, found = (self.seed, self.cfg.train_cfg.max_iters), (meta['seed'], meta['iter'])
        if found != wanted:
            raise UserError(
                f'Expected seed {wanted[0]} and iteration {wanted[1]} in {self.checkpoint}, found seed {found[0]} and iteration '
                f'{found[1]}. {REMEDY}'
            )


@dataclass(frozen=True)
class Model:
    """A config with a run for each seed; `name` distinguishes it from the others of the comparison."""

    name: str
    config: Path
    runs: tuple[Run, ...]

    def complete(self) -> None:
        """Complete the run of each seed; raises the errors of `Run.complete`."""
        for run in self.runs:
            run.complete()

    @property
    def scores(self) -> list[float]:
        """mIoU of each seed, in percent."""
        return [run.scores['mIoU'] for run in self.runs]

    @property
    def cfg(self):
        return self.runs[0].cfg

    @property
    def crop(self) -> tuple[int, int]:
        """(H, W) of a training image."""
        return tuple(self.cfg.model.data_preprocessor.size)

    @cached_property
    def size(self):
        """`analysis.flops.Complexity` for one crop."""
        from mmfreq.analysis.flops import build_for_counting, count

        return count(build_for_counting(str(self.config))[0], self.crop)

    def step(self):
        """`harness.Entry` of the forward and backward pass of a training batch."""
        from benchmarks.harness.entries import Entry, ModelForm
        from benchmarks.models import segmentor

        make = partial(segmentor, str(self.config))
        return Entry(
            ModelForm(self.name, 'mmfreq', make, make), self.crop, 'training', 'fp32', batch=self.cfg.train_dataloader.batch_size
        )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `models_of`."""
    parser.add_argument('configs', nargs='+', type=Path, help='segmentation configs; the first one is the reference of ratios')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--data', help='data root (default: of the configs)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare_backbones'))


def trained_models(args) -> list[Model]:
    """The models of a comparison, after their runs; raises the errors of `models_of` and `Run.complete`."""
    models = models_of(args)
    for model in models:
        model.complete()
    return models


def models_of(args) -> list[Model]:
    """The models of a comparison, trained or not.

    Raises:
        UserError: two configs have the same name or different recipes.
    """
    stems = [config.stem for config in args.configs]
    if len(set(stems)) < len(stems):
        raise UserError(f'Expected configs with different file names, got {", ".join(map(str, args.configs))}.')
    models = []
    for name, config in zip(short_names(stems), args.configs):
        runs = (Run(config, seed, args.work_dir / config.stem / f'seed{seed}', args.data) for seed in args.seeds)
        models.append(Model(name, config, tuple(runs)))
    check_recipes(models)
    return models


def check_recipes(models: list[Model]) -> None:
    """Raise a UserError if the configs differ in anything but the model."""
    first = models[0].cfg.to_dict()
    for model in models[1:]:
        cfg = model.cfg.to_dict()
        different = [key for key in RECIPE if value_of(cfg, key) != value_of(first, key)]
        if different:
            raise UserError(f'{model.config} and {models[0].config} have different {", ".join(different)}. Compare equal recipes.')


def value_of(cfg: dict, key: str):
    """The value of a dotted key, None if it is missing."""
    for part in key.split('.'):
        cfg = (cfg or {}).get(part)
    return cfg


def short_names(stems: list[str]) -> list[str]:
    """The names of configs without the parts between underscores that all of them have."""
    parts = [stem.split('_') for stem in stems]
    common = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return ['_'.join(part for part in each if part not in common) or stem for each, stem in zip(parts, stems)]


def recipe(model: Model) -> str:
    """The recipe of the comparison, in words."""
    cfg, optimizer = model.cfg, model.cfg.optim_wrapper.optimizer
    height, width = model.crop
    return (
        f'From random weights, by one recipe: {cfg.train_cfg.max_iters} iterations of {cfg.train_dataloader.batch_size} crops of '
        f'{height}x{width}, {optimizer.type} at {optimizer.lr:g}. Each backbone has its own initialization, layer scale and norms. '
        'The last checkpoint is validated.'
    )
