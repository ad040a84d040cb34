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
import sys
from datetime import date
from math import comb
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from training_runs import Model, add_run_options, recipe, trained_models

import mmfreq
from benchmarks.harness.page import command_words, link, markdown, sentence
from benchmarks.harness.tables import EMPTY, Table, mib_text, ratio_text
from mmfreq.errors import short_user_errors

RUN_BY = '<!-- run by: tests/benchmarks/test_compare_backbones.py::test_page_from_toy_data -->'


def measure_steps(models: list[Model], settings):
    """`harness.GroupResult` of the models' training steps, in the order of the models; `settings` are those of the harness."""
    from benchmarks.harness.entries import Group
    from benchmarks.harness.measure import measure_group

    entries = tuple(model.step() for model in models)
    not_counted = {(entry.model.name, entry.size): 0 for entry in entries}
    return measure_group(Group('training steps', entries), settings, torch.device('cpu'), not_counted)


def gmacs(macs) -> float:
    """10^9 multiply-adds, those of Fourier transforms and products of spectra included."""
    return (macs.conv_matmul + macs.fft + macs.spectral) / 1e9


def score_table(models: list[Model]) -> Table:
    """mIoU of each seed; a model is called better than another one only if every seed is."""
    seeds = [run.seed for run in models[0].runs]
    header = ('model', *(f'seed {seed}' for seed in seeds), 'mean', 'better with every seed than')
    rows = []
    for model in models:
        below = [f'`{other.name}`' for other in models if max(other.scores) < min(model.scores) and len(seeds) > 1]
        cells = [f'{score:.2f}' for score in (*model.scores, mean(model.scores))]
        rows.append((f'`{model.name}`', *cells, ', '.join(below) or EMPTY))
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
        pairs = ((run.seconds, steps.baseline.seconds), (run.cpu_seconds, steps.baseline.cpu_seconds))
        times = (ratio_text(ratios(*pair)) if all(pair) else EMPTY for pair in pairs)
        rows.append((f'`{model.name}`', *cells, *times, mib_text(run, 'peak')))
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


def plot(models: list[Model], path: Path) -> None:
    """Plot mIoU against multiply-adds, with a marker for each seed joined by a line, and the mean validation curves."""
    from mmfreq.analysis.plot_style import LINES, MARKERS, NORMAL, SMALL, new_figure, save

    figure = new_figure(4.2 + 0.2 * -(-len(models) // 4), f'mIoU with {len(models[0].runs)} seeds')
    left, right = figure.subplots(1, 2)
    for number, model in enumerate(models):
        color = LINES[number % len(LINES)]
        cycle = number // len(LINES)  # models with the same color differ in marker and line
        marker, line = MARKERS[(number + cycle) % len(MARKERS)], ('-', '--', ':')[cycle % 3]
        style = {'color': color, 'marker': marker, 'linestyle': line, 'markersize': 5, 'label': model.name}
        left.plot([gmacs(model.size.macs)] * len(model.scores), model.scores, linewidth=1, **style)
        steps = sorted(set.intersection(*(set(run.curve) for run in model.runs)))
        right.plot(steps, [mean(run.curve[step] for run in model.runs) for step in steps], linewidth=1.2, **style)
    left.set_xlabel('10⁹ multiply-adds of the whole model, one crop', fontsize=SMALL)
    right.set_xlabel('iterations', fontsize=SMALL)
    for axis, title in ((left, 'last checkpoint'), (right, 'validation curves, mean of the seeds')):
        axis.set_title(title, fontsize=NORMAL + 1)
        axis.set_ylabel('mIoU, %', fontsize=SMALL)
        axis.tick_params(labelsize=SMALL)
        axis.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize=NORMAL, frameon=False)
    save(figure, path)


def notes(models: list[Model], steps) -> str:
    """What the columns mean."""
    seeds, batch = len(models[0].runs), models[0].cfg.train_dataloader.batch_size
    chance = (
        f'Of two equal models, one is better with every seed in one of {comb(2 * seeds, seeds) // 2} comparisons: this is not a '
        'significance test, and models whose seeds overlap are not ranked.'
    )
    costs = (
        'Parameters and multiply-adds (of one crop, transforms included) are without the auxiliary head, which the step includes. '
        f'A step is the forward and backward pass of {batch} crops in float32 on the CPU, without data, loss and optimizer, in '
        f'{len(steps.baseline.seconds)} paired rounds, each model in its own process; times are relative to those of '
        f'`{models[0].name}`, as median [quartiles]. Memory: the largest amount that the allocator holds beyond weights and input.'
    )
    return f'{chance}\n\n{costs}' if seeds > 1 else f'With one seed, no model can be called better than another one.\n\n{costs}'


def page(args, models: list[Model], steps, command: str) -> str:
    from mmfreq.analysis.latency import describe_hardware

    hardware = describe_hardware('cpu', torch.get_num_threads())
    parts = [f'# {args.title}', f'{RUN_BY}\n```bash\n{command}\n```']
    parts += [f'{date.today()}. {recipe(models[0])} The steps were measured on {hardware}; mmfreq {mmfreq.__version__}.']
    if args.plot:
        parts.append(f'![mIoU against multiply-adds, and validation curves]({link(args.plot, args.out)})')
    for found in (score_table(models), cost_table(models, steps, args.part), class_table(models), curve_table(models)):
        parts += [f'## {sentence(found.title)}', markdown(found)]
    parts.append(notes(models, steps))
    return '\n\n'.join(parts) + '\n'


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
    with short_user_errors():
        models = trained_models(args)
    if args.train_only:
        return
    from benchmarks.harness.suites import Settings

    if args.plot:
        plot(models, args.plot)
    command = command_words('benchmarks/compare_backbones.py', sys.argv[1:] if argv is None else argv)
    text = page(args, models, measure_steps(models, Settings(repeats=args.rounds)), command)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
