"""How should stored filters be resized for images of other sizes than those of training? mIoU by test size and policy.

    C=_upernet_1xb8-800_camvid-180x240.py
    python benchmarks/filter_resizing.py configs/seg/hornet/hornet-dim32$C configs/seg/gfnet/gfnet-h-dim40$C --data data/camvid \\
        --out docs/measurements/filter_resizing_cpu.md

The runs are those of `compare_backbones.py`, with the same `--work-dir` and `--seeds`, and are trained if necessary. Each
checkpoint is tested on images of each of `--scales` times the size in the config, and with each policy of `mmfreq.ops.resize`.
Labels keep their size. After an interruption, run the same command again.
"""

import argparse
import json
import sys
from datetime import date
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from training_runs import Model, Run, add_run_options, recipe, trained_models

import mmfreq
from benchmarks.harness.page import command_words, markdown, sentence
from benchmarks.harness.tables import Table
from mmfreq.errors import UserError, short_user_errors
from mmfreq.zoo.rows import write_text

POLICIES = ('bilinear', 'bicubic', 'kernel', 'modes')
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
RUN_BY = '<!-- run by: tests/benchmarks/test_filter_resizing.py::test_the_page_of_two_seeds -->'
SIZES = 'test_sizes.json'  # in the folder of a run: {size: {policy: mIoU in percent}} and the version of the run


def resize_step(cfg) -> tuple[int, tuple[int, int]]:
    """(index, (W, H)) of the step of the test pipeline that resizes images to within a size.

    Raises:
        UserError: there is not exactly one.
    """
    steps = cfg.test_dataloader.dataset.pipeline
    found = [(index, tuple(step.scale)) for index, step in enumerate(steps) if step.type == 'Resize' and 'scale' in step]
    if len(found) != 1:
        raise UserError(f'Expected one Resize with a scale in the test pipeline of {cfg.filename}, found {len(found)}.')
    return found[0]


def sizes_of(cfg, scales) -> dict[str, tuple[int, int]]:
    """{'HxW': (W, H)} that test images are resized to within, for each scale."""
    _, (width, height) = resize_step(cfg)
    sizes = ((round(scale * width), round(scale * height)) for scale in scales)
    return {f'{height}x{width}': (width, height) for width, height in sizes}


def stored_filters(config: Path):
    """The backbone of a config.

    Raises:
        UserError: it has no filters that are stored for one size.
    """
    from mmfreq.apis.loading import load_model
    from mmfreq.layers.filters import StoredFilter

    backbone = load_model(str(config)).backbone
    if not any(isinstance(module, StoredFilter) for module in backbone.modules()):
        raise UserError(f'Expected a backbone with stored filters in {config}, found {type(backbone).__name__} without.')
    return backbone


def scores_by_size(run: Run, sizes: dict[str, tuple[int, int]]) -> dict:
    """Test a run at every size with every policy, unless that is done; returns the content of `SIZES`."""
    from mmfreq.engine.launch import evaluate

    file = run.folder / SIZES
    scores = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
    if scores.setdefault('config', run.scores['config']) != run.scores['config']:
        raise UserError(f'{file} belongs to another version of {run.config}. Remove it.')
    index, _ = resize_step(run.cfg)
    for size, policy in product(sizes, POLICIES):
        if policy in scores.setdefault(size, {}):
            continue
        options = {f'test_dataloader.dataset.pipeline.{index}.scale': sizes[size], 'model.backbone.filter_resize': policy}
        folder = run.folder / 'test_sizes' / f'{size}_{policy}'
        found = evaluate(run.config, run.checkpoint, work_dir=folder, cfg_options={**run.options, **options})
        scores[size][policy] = float(found['mIoU'])
        write_text(file, json.dumps(scores))
    return scores


def size_table(model: Model, scales) -> Table:
    """mIoU of each seed by size and policy."""
    sizes = sizes_of(model.cfg, scales)
    found = [scores_by_size(run, sizes) for run in model.runs]
    rows = []
    for scale, size in zip(scales, sizes, strict=True):
        cells = (', '.join(f'{scores[size][policy]:.1f}' for scores in found) for policy in POLICIES)
        rows.append((f'{scale:g}', size, *cells))
    return Table(f'`{model.name}`', ('scale', 'test images within', *POLICIES), tuple(rows))


def page(args, models: list[Model], tables: list[Table], backbones: list, command: str) -> str:
    from mmfreq.analysis.latency import describe_hardware

    hardware = sentence(describe_hardware('cpu', torch.get_num_threads()))
    parts = [f'# {args.title}', f'{RUN_BY}\n```bash\n{command}\n```', f'{date.today()}. {hardware}; mmfreq {mmfreq.__version__}.']
    parts.append(f'{recipe(models[0])} mIoU in percent, of seeds {", ".join(map(str, args.seeds))}.')
    for table, backbone in zip(tables, backbones):
        stored = f'Filters stored for images of {backbone.img_size}x{backbone.img_size}, trained with `{backbone.filter_resize}`.'
        parts += [f'## {table.title}', stored, markdown(table)]
    return '\n\n'.join(parts) + '\n'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument('--scales', nargs='+', type=float, default=SCALES, help='of the test images (default: 0.5 to 2)')
    parser.add_argument('--title', default='Resized filters at other image sizes')
    parser.add_argument('--out', type=Path, help='also write the page to this file')
    args = parser.parse_args(argv)
    with short_user_errors():
        backbones = [stored_filters(config) for config in args.configs]
        models = trained_models(args)
        tables = [size_table(model, args.scales) for model in models]
    command = command_words('benchmarks/filter_resizing.py', sys.argv[1:] if argv is None else argv)
    text = page(args, models, tables, backbones, command)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
