"""Train configs from scratch with several seeds each, and compare mIoU, size, and the cost of a training step.

    C=_1xb8-800_camvid-180x240.py
    python benchmarks/compare_backbones.py configs/seg/*/*$C benchmarks/camvid/*-dim*$C --data data/camvid \\
        --plot docs/images/camvid_backbones.png --out docs/measurements/camvid_backbones_cpu.md

The recipe is that of the configs; `tools/mix.py` puts another backbone into one. The runs are those of `tools/train.py`, one
after another, in `WORK_DIR/<name of the config>/seed<N>`. After an interruption, run the same command again: it resumes the
run, and does not repeat complete ones. The costs of a step are measured last, in paired rounds, each model in its own process;
nothing else should run on the machine then. `--train-only` ends before; it lets several commands share the runs, one for each
seed.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import mmfreq  # noqa: E402  (first: it supplies mmcv._ext where no compiled mmcv is)
from benchmarks.harness.page import command_words, markdown, sentence  # noqa: E402
from benchmarks.harness.tables import Table, mib_text, ratio_text  # noqa: E402

SCORES = 'scores.json'  # in the folder of a run: it is complete
RUN_BY = '<!-- run by: tests/benchmarks/test_compare_backbones.py::test_page_from_toy_data -->'
CPU = torch.device('cpu')


@dataclass(frozen=True)
class Run:
    """A training run, and the validation of its last checkpoint. `options` are of the config, by dotted key."""

    config: Path
    seed: int
    folder: Path
    options: dict

    @cached_property
    def scores(self) -> dict:
        """{'mIoU': percent, 'IoU': {class: percent}}."""
        return json.loads((self.folder / SCORES).read_text(encoding='utf-8'))

    @cached_property
    def curve(self) -> dict[int, float]:
        """mIoU in percent at each validated iteration."""
        from mmfreq.analysis.training_logs import read_log

        curve = read_log(self.folder).curves['mIoU']
        return dict(zip(curve.steps.tolist(), curve.values.tolist()))

    @property
    def checkpoint(self) -> str:
        """Path of the last checkpoint."""
        return (self.folder / 'last_checkpoint').read_text(encoding='utf-8').strip()

    def complete(self) -> None:
        """Train or resume, and validate, unless that is done."""
        if (self.folder / SCORES).is_file():
            return
        command = [sys.executable, str(ROOT / 'tools/train.py'), str(self.config), '--work-dir', str(self.folder)]
        command += ['--seed', str(self.seed), '--resume', 'auto']
        if self.options:
            command += ['--cfg-options', *(f'{key}={value}' for key, value in self.options.items())]
        subprocess.run(command, check=True)
        from mmfreq.engine.class_scores import evaluate_by_class

        metrics, (iou,) = evaluate_by_class(self.config, self.checkpoint, work_dir=self.folder / 'test', cfg_options=self.options)
        scores = {'mIoU': float(metrics['mIoU']), 'IoU': dict(zip(iou.classes, iou.values.tolist()))}
        (self.folder / SCORES).write_text(json.dumps(scores), encoding='utf-8')


@dataclass(frozen=True)
class Model:
    """A config with a run for each seed; `name` distinguishes it from the others of the comparison."""

    name: str
    config: Path
    runs: tuple[Run, ...]

    @property
    def scores(self) -> list[float]:
        """mIoU of each seed, in percent."""
        return [run.scores['mIoU'] for run in self.runs]

    @cached_property
    def cfg(self):
        from mmfreq.config.reading import read_config

        return read_config(self.config)

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


def models_of(args) -> list[Model]:
    """The models of a comparison, after their runs, which are trained if necessary."""
    options = {f'{part}_dataloader.dataset.data_root': args.data for part in ('train', 'val', 'test')} if args.data else {}
    models = []
    for name, config in zip(short_names([config.stem for config in args.configs]), args.configs):
        runs = (Run(config, seed, args.work_dir / config.stem / f'seed{seed}', options) for seed in args.seeds)
        models.append(Model(name, config, tuple(runs)))
    for model in models:
        for run in model.runs:
            run.complete()
    return models


def short_names(stems: list[str]) -> list[str]:
    """The names of configs without the parts between underscores that all of them have."""
    parts = [stem.split('_') for stem in stems]
    common = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    return ['_'.join(part for part in each if part not in common) for each in parts]


def measure_steps(models: list[Model], rounds: int):
    """`harness.GroupResult` of the models' training steps, in the order of the models."""
    from benchmarks.harness.entries import Group
    from benchmarks.harness.measure import measure_group
    from benchmarks.harness.suites import Settings

    entries = tuple(model.step() for model in models)
    not_counted = {(entry.model.name, entry.size): 0 for entry in entries}
    return measure_group(Group('training steps', entries), Settings(repeats=rounds), CPU, not_counted)


def gmacs(macs) -> float:
    """10^9 multiply-adds, those of Fourier transforms and products of spectra included."""
    return (macs.conv_matmul + macs.fft + macs.spectral) / 1e9


def score_table(models: list[Model]) -> Table:
    """mIoU, best mean first; no model is called better than another one if their seeds overlap."""
    header = ('model', *(f'seed {run.seed}' for run in models[0].runs), 'mean', 'better with every seed than')
    rows = []
    for model in sorted(models, key=lambda model: -mean(model.scores)):
        below = [f'`{other.name}`' for other in models if max(other.scores) < min(model.scores)]
        cells = [f'{score:.2f}' for score in (*model.scores, mean(model.scores))]
        rows.append((f'`{model.name}`', *cells, ', '.join(below) or '-'))
    return Table('scores: mIoU in percent', header, tuple(rows))


def cost_table(models: list[Model], steps, part: str) -> Table:
    """Size and cost; times are relative to the first model."""
    from benchmarks.harness.timing import ratios

    header = ('model', f'{part}: params, M', f'{part}: GMACs', 'model: params, M', 'model: GMACs')
    header += ('step: wall clock', 'step: CPU time', 'step: peak memory, MiB')
    rows = []
    for model, run in zip(models, steps.runs):
        sizes = (model.size.modules[part], model.size)
        cells = [text for size in sizes for text in (f'{size.params / 1e6:.2f}', f'{gmacs(size.macs):.3f}')]
        wall, cpu = ratios(run.seconds, steps.baseline.seconds), ratios(run.cpu_seconds, steps.baseline.cpu_seconds)
        rows.append((f'`{model.name}`', *cells, ratio_text(wall), ratio_text(cpu), mib_text(run, 'peak')))
    return Table('sizes and costs', header, tuple(rows))


def class_table(models: list[Model]) -> Table:
    """IoU of each class: all seeds."""
    rows = []
    for name in models[0].runs[0].scores['IoU']:
        rows.append((name, *(', '.join(f'{run.scores["IoU"][name]:.1f}' for run in model.runs) for model in models)))
    return Table('IoU of each class in percent, by seed', ('class', *(f'`{model.name}`' for model in models)), tuple(rows))


def curve_table(models: list[Model]) -> Table:
    """mIoU at each validation: all seeds."""
    steps = sorted({step for model in models for run in model.runs for step in run.curve})
    rows = []
    for model in models:
        cells = (', '.join(f'{run.curve[step]:.1f}' if step in run.curve else '-' for run in model.runs) for step in steps)
        rows.append((f'`{model.name}`', *cells))
    return Table('validation curve: mIoU in percent, by seed', ('model', *(f'iteration {step}' for step in steps)), tuple(rows))


def plot(models: list[Model], part: str, path: Path) -> None:
    """mIoU against multiply-adds, a dot for each seed joined by a line, and the validation curves, means of the seeds."""
    from mmfreq.analysis.plot_style import LINES, MARKERS, NORMAL, SMALL, new_figure, save

    figure = new_figure(4.2 + 0.2 * -(-len(models) // 4), f'mIoU of {len(models[0].runs)} seeds each')
    left, right = figure.subplots(1, 2)
    for number, model in enumerate(models):
        color = LINES[number % len(LINES)]
        marker = MARKERS[(number + number // len(LINES)) % len(MARKERS)]
        style = {'color': color, 'marker': marker, 'markersize': 5, 'label': model.name}
        left.plot([gmacs(model.size.macs)] * len(model.scores), model.scores, linewidth=1, **style)
        steps = sorted(set.intersection(*(set(run.curve) for run in model.runs)))
        right.plot(steps, [mean(run.curve[step] for run in model.runs) for step in steps], linewidth=1.2, **style)
    left.set_xlabel('10⁹ multiply-adds of the whole model, one crop', fontsize=SMALL)
    right.set_xlabel('iterations', fontsize=SMALL)
    for axis, title in ((left, 'after training'), (right, 'validation curve, mean of the seeds')):
        axis.set_title(title, fontsize=NORMAL + 1)
        axis.set_ylabel('mIoU, %', fontsize=SMALL)
        axis.tick_params(labelsize=SMALL)
        axis.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize=NORMAL, frameon=False)
    save(figure, path)


def recipe(model: Model) -> str:
    """The recipe of the first config, in words."""
    cfg, optimizer = model.cfg, model.cfg.optim_wrapper.optimizer
    height, width = model.crop
    return (
        f'From random weights, by one recipe: {cfg.train_cfg.max_iters} iterations of {cfg.train_dataloader.batch_size} crops of '
        f'{height}x{width}, {optimizer.type} at {optimizer.lr:g}. The last checkpoint is validated.'
    )


def page(args, models: list[Model], steps, command: str) -> str:
    from mmfreq.analysis.latency import describe_hardware

    hardware = sentence(describe_hardware('cpu', torch.get_num_threads()))
    parts = [f'# {args.title}', f'{RUN_BY}\n```bash\n{command}\n```']
    parts += [f'{date.today()}. {hardware}; mmfreq {mmfreq.__version__}. {recipe(models[0])}']
    if args.plot:
        parts.append(f'![mIoU against multiply-adds, and validation curves]({link(args.plot, args.out)})')
    for found in (score_table(models), cost_table(models, steps, args.part), class_table(models), curve_table(models)):
        parts += [f'## {sentence(found.title)}', markdown(found)]
    batch = models[0].cfg.train_dataloader.batch_size
    parts.append(
        f'A step is the forward and backward pass of {batch} crops in float32, without data, loss and optimizer, in '
        f'{len(steps.baseline.seconds)} paired rounds, each model in its own process; times are relative to those of '
        f'`{models[0].name}`, as median [quartiles]. Memory is what the allocator holds beyond weights and input. '
        'Multiply-adds are of one crop, transforms included.'
    )
    return '\n\n'.join(parts) + '\n'


def link(target: Path, page: Path | None) -> str:
    """Path of a file relative to the page."""
    return Path(os.path.relpath(target, page.parent if page else '.')).as_posix()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument('--part', default='backbone', help='part of the model whose size is listed, too (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=10, help='of the measurement of a step')
    parser.add_argument('--train-only', action='store_true', help='do not measure steps or write a page')
    parser.add_argument('--title', default='Token mixers on CamVid')
    parser.add_argument('--plot', type=Path, help='plot mIoU against multiply-adds to this file')
    parser.add_argument('--out', type=Path, help='also write the page to this file')
    args = parser.parse_args(argv)
    models = models_of(args)
    if args.train_only:
        return
    if args.plot:
        plot(models, args.part, args.plot)
    command = command_words('benchmarks/compare_backbones.py', sys.argv[1:] if argv is None else argv)
    text = page(args, models, measure_steps(models, args.rounds), command)
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
