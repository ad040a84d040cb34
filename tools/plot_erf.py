"""Draws effective receptive fields of models side by side: how much each pixel contributes to the center of the last feature map.

By the protocol of RepLKNet. The table has the area, relative to the image, of the smallest square that contains 20, 50, 80 and 99 %
of the contribution. A checkpoint follows its model; a model without one has random weights.

Examples:
  python tools/plot_erf.py hornet-tiny-gf hornet_tiny_gf.pth gfnet-h-ti gfnet_h_ti.pth --size 1024 --images photos/
  python tools/plot_erf.py CONFIG CHECKPOINT --stage 2 --out erf.png
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.pkl', '.tar')


def parse_args(argv=None):
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'models', nargs='+', metavar='CONFIG_OR_ARCH [CHECKPOINT]', help='models, optionally with a checkpoint each'
    )
    parser.add_argument('--images', nargs='+', metavar='INPUT', help='files, folders, or quoted globs (default: synthetic images)')
    parser.add_argument('--count', type=int, default=16, metavar='N', help='number of images (default: %(default)s)')
    parser.add_argument('--size', nargs='+', type=int, metavar='N', help="H W, or one side (default: the first model's)")
    parser.add_argument('--stage', type=int, default=-1, metavar='N', help='of the feature map, from 0 (default: the last)')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, help='cpu, cuda or cuda:N (here: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/plot_erf/erf.png'), help='file (default: %(default)s)')
    args = parser.parse_args(argv)
    if args.size and len(args.size) > 2:
        parser.error(f'--size is H W or one side, got {len(args.size)} numbers')
    if args.count < 1:
        parser.error(f'--count must be at least 1, got {args.count}')
    return args


def paired(words):
    """[(model, checkpoint or None)] from models that may be followed by their checkpoints."""
    from mmfreq.errors import UserError

    pairs = []
    for word in words:
        if not word.endswith(CHECKPOINT_SUFFIXES):
            pairs.append((word, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise UserError(f'The checkpoint {word} does not follow a model. Give MODEL CHECKPOINT MODEL CHECKPOINT ...')
    return pairs


def unique_label(loaded, checkpoint, used):
    """A name for a model that is not in `used`."""
    name = loaded.name if loaded.trained else f'{loaded.name} (random weights)'
    if name in used:
        name = f'{name} {Path(checkpoint).stem if checkpoint else "again"}'
    while name in used:
        name += "'"
    return name


def main(argv=None):
    args = parse_args(argv)
    import torch
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from mmfreq.analysis.images import load_images, normalize, synthetic_images
    from mmfreq.analysis.plot_style import save
    from mmfreq.analysis.receptive_field import SHARES, feature_map, plot_receptive_fields, receptive_field
    from mmfreq.apis.loading import load_model
    from mmfreq.errors import UserError, short_user_errors

    fields = {}
    with short_user_errors():
        if args.device.startswith('cuda') and not torch.cuda.is_available():
            raise UserError(f'The device is {args.device}, but torch finds no CUDA device. Use cpu.')
        pairs = paired(args.models)
        models = [load_model(*pair) for pair in pairs]
        size = tuple(args.size * 2)[:2] if args.size else models[0].size
        for loaded, (_, checkpoint) in track(list(zip(models, pairs)), description='receptive fields'):
            norm = loaded.normalization
            if args.images:
                images = load_images(args.images, size, args.count, loaded.read.bands)
            else:
                images = synthetic_images(size, args.count, loaded.in_channels)
            features = feature_map(loaded.backbone.requires_grad_(False).to(args.device), args.stage)
            inputs = normalize(images, norm.mean, norm.std, norm.channels).to(args.device)
            fields[unique_label(loaded, checkpoint, fields)] = receptive_field(features, inputs)
        which = f'{len(images)} {"" if args.images else "synthetic "}images of {size[0]} x {size[1]} pixels'
        where = 'the last stage' if args.stage == -1 else f'stage {args.stage}'
        file = save(plot_receptive_fields(fields, f'Effective receptive field of {where}, mean of {which}'), args.out)
    table = Table(title=f'area of the smallest square with a share of the contribution, in % of the image; {which}')
    table.add_column('model', overflow='fold')
    for share in SHARES:
        table.add_column(f'{100 * share:g} %', justify='right', no_wrap=True)
    for name, field in fields.items():
        table.add_row(name, *(f'{100 * field.smallest_square(share)[1]:.1f}' for share in SHARES))
    Console().print(table)
    print(f'figure: {file}')


if __name__ == '__main__':
    main()
