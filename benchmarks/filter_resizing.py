"""How should stored filters be resized for images of other sizes than those of training? mIoU by test size and policy.

    C=_upernet_1xb8-800_camvid-180x240.py
    python benchmarks/filter_resizing.py configs/seg/hornet/hornet-dim32$C configs/seg/gfnet/gfnet-h-dim40$C --data data/camvid \\
        --out docs/measurements/filter_resizing.md

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
from compare_backbones import Model, Run, add_run_options, models_of, recipe

import mmfreq
from benchmarks.harness.page import command_words, markdown, sentence
from benchmarks.harness.tables import Table

POLICIES = ('bilinear', 'bicubic', 'kernel', 'modes')
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
RUN_BY = '<!-- run by: tests/benchmarks/test_filter_resizing.py::test_each_size_and_policy_is_tested_once -->'
SCORES = 'test_sizes.json'  # in the folder of a run: {size: {policy: mIoU in percent}}


def test_size(config: Path, scale: float) -> tuple[int, int]:
    """(W, H) of the test images at a scale, as mmcv's `Resize` takes it.

    Raises:
        ValueError: the test pipeline has no Resize to one size.
    """
    return tuple(round(scale * side) for side in resize_of(config)[1])


def resize_of(config: Path) -> tuple[int, list[int]]:
    """(index of the step, its scale) of the Resize in the test pipeline."""
    from mmfreq.config.reading import read_config

    steps = read_config(config).test_dataloader.dataset.pipeline
    found = [(index, step.scale) for index, step in enumerate(steps) if step.type == 'Resize' and 'scale' in step]
    if len(found) != 1:
        raise ValueError(f'Expected one Resize with a scale in the test pipeline of {config}, found {len(found)}.')
    return found[0]


def complete(run: Run, scales) -> dict:
    """Test a run at every size with every policy, unless that is done; returns the content of `SCORES`."""
    from mmfreq.engine.launch import evaluate

    file = run.folder / SCORES
    scores = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
    index, _ = resize_of(run.config)
    for scale, policy in product(scales, POLICIES):
        size = test_size(run.config, scale)
        key = '{1}x{0}'.format(*size)
        if policy in scores.setdefault(key, {}):
            continue
        options = {f'test_dataloader.dataset.pipeline.{index}.scale': size, 'model.backbone.filter_resize': policy}
        folder = run.folder / 'test_sizes' / f'{key}_{policy}'
        found = evaluate(run.config, run.checkpoint, work_dir=folder, cfg_options={**run.options, **options})
        scores[key][policy] = float(found['mIoU'])
        file.write_text(json.dumps(scores), encoding='utf-8')
    return scores


def size_table(model: Model, scales) -> Table:
    """mIoU of each seed by size and policy; the model was trained with the policy in the title."""
    rows = []
    found = [complete(run, scales) for run in model.runs]
    for scale in scales:
        key = '{1}x{0}'.format(*test_size(model.config, scale))
        cells = (', '.join(f'{scores[key][policy]:.1f}' for scores in found) for policy in POLICIES)
        rows.append((f'{scale:g}', key, *cells))
    return Table(f'`{model.name}`', ('scale', 'test images', *POLICIES), tuple(rows))


def page(args, models: list[Model], tables: list[Table], command: str) -> str:
    from mmfreq.analysis.latency import describe_hardware
    from mmfreq.apis.loading import load_model

    hardware = sentence(describe_hardware('cpu', torch.get_num_threads()))
    parts = [f'# {args.title}', f'{RUN_BY}\n```bash\n{command}\n```', f'{date.today()}. {hardware}; mmfreq {mmfreq.__version__}.']
    parts.append(f'{recipe(models[0])} mIoU in percent, of seeds {", ".join(map(str, args.seeds))}.')
    for model, table in zip(models, tables):
        backbone = load_model(str(model.config)).backbone
        stored = f'Stored for images of {backbone.img_size}x{backbone.img_size}, trained with `{backbone.filter_resize}`.'
        parts += [f'## {table.title}', stored, markdown(table)]
    return '\n\n'.join(parts) + '\n'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument('--scales', nargs='+', type=float, default=SCALES, help='of the test images (default: 0.5 to 2)')
    parser.add_argument('--title', default='Resized filters at other image sizes')
    parser.add_argument('--out', type=Path, help='also write the page to this file')
    args = parser.parse_args(argv)
    models = models_of(args)
    tables = [size_table(model, args.scales) for model in models]
    text = page(args, models, tables, command_words('benchmarks/filter_resizing.py', sys.argv[1:] if argv is None else argv))
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
