"""Effective receptive fields of models side by side: from which pixels the middle of the last feature map takes its values.

By the protocol of RepLKNet; the table says which share of the picture the smallest square takes that holds 20, 50, 80 and 99 % of
the contribution. A checkpoint follows the model that it is for; a model without one has random weights.

Examples:
  python tools/plot_erf.py hornet-tiny-gf hornet_tiny_gf.pth gfnet-h-ti gfnet_h_ti.pth --size 1024 --images photos/
  python tools/plot_erf.py CONFIG CHECKPOINT --stage 2 --out erf.png
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

WEIGHTS = ('.pth', '.pt', '.bin', '.ckpt', '.pkl', '.tar')  # what a checkpoint's name ends with


def parse_args(argv=None):
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='CONFIG_OR_ARCH [CHECKPOINT]', help='models, each with its checkpoint or none')
    parser.add_argument('--images', nargs='+', metavar='INPUT', help='pictures, folders, or quoted globs (default: drawn scenes)')
    parser.add_argument('--count', type=int, default=16, metavar='N', help='how many of them (default: %(default)s)')
    parser.add_argument('--size', nargs='+', type=int, metavar='N', help="H W, or one side (default: the first model's)")
    parser.add_argument('--stage', type=int, default=-1, metavar='N', help='of the feature map, from 0 (default: the last)')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/plot_erf/erf.png'), help='file (default: %(default)s)')
    args = parser.parse_args(argv)
    if args.size and len(args.size) > 2:
        parser.error(f'--size is H W or one side, got {len(args.size)} numbers')
    if args.count < 1:
        parser.error(f'--count is at least 1, got {args.count}')
    return args


def paired(words):
    """[(model, checkpoint or None)] from models that are followed by their checkpoints or not."""
    from mmfreq.errors import UserError

    pairs = []
    for word in words:
        if not word.endswith(WEIGHTS):
            pairs.append((word, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise UserError(f'the checkpoint {word} follows no model; give MODEL CHECKPOINT MODEL CHECKPOINT ...')
    return pairs


def label_of(subject, checkpoint, taken):
    """A name for a model that none of `taken` has."""
    name = subject.name if subject.trained else f'{subject.name} (random weights)'
    if name in taken:
        name = f'{name} {Path(checkpoint).stem if checkpoint else "again"}'
    while name in taken:
        name += "'"
    return name


def main(argv=None):
    args = parse_args(argv)
    import torch
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from mmfreq.analysis.images import drawn_scenes, load_images, normalised
    from mmfreq.analysis.plot_style import save
    from mmfreq.analysis.receptive_field import SHARES, feature_map, plot_receptive_fields, receptive_field
    from mmfreq.apis.loading import load_model
    from mmfreq.errors import UserError, short_user_errors

    fields = {}
    with short_user_errors():
        if args.device.startswith('cuda') and not torch.cuda.is_available():
            raise UserError(f'device is {args.device}, but torch sees no CUDA device; use cpu')
        pairs = paired(args.models)
        subjects = [load_model(*pair) for pair in pairs]
        size = tuple(args.size * 2)[:2] if args.size else subjects[0].size
        pictures = load_images(args.images, size, args.count) if args.images else drawn_scenes(size, args.count)
        for subject, (_, checkpoint) in track(list(zip(subjects, pairs)), description='receptive fields'):
            seen = subject.normalization
            features = feature_map(subject.backbone.requires_grad_(False).to(args.device), args.stage)
            images = normalised(pictures, seen.mean, seen.std, seen.channels).to(args.device)
            fields[label_of(subject, checkpoint, fields)] = receptive_field(features, images)
        what = f'{len(pictures)} {"pictures" if args.images else "drawn scenes"} of {size[0]} x {size[1]} pixels'
        where = 'the last stage' if args.stage == -1 else f'stage {args.stage}'
        file = save(plot_receptive_fields(fields, f'Effective receptive field of {where}, mean of {what}'), args.out)
    table = Table(title=f'smallest square with a share of the contribution, in % of the area; {what}')
    table.add_column('model', overflow='fold')
    for share in SHARES:
        table.add_column(f'{100 * share:g} %', justify='right', no_wrap=True)
    for name, field in fields.items():
        table.add_row(name, *(f'{100 * field.smallest_square(share)[1]:.1f}' for share in SHARES))
    Console().print(table)
    print(f'drawn into {file}')


if __name__ == '__main__':
    main()
