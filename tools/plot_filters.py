"""Draws what a model has learned in its filters, and what its token mixers compute for an image.

Stored filters (GFNet, HorNet-GF, DFFormer): gain, phase, kernels. For an image: the gated products of gnConv by order (HorNet), the
dynamic filters that DFFormer mixes, and the masks that AFFNet, which stores no filters, computes. By default a few layers of each,
spread over the stages.

Examples:
  python tools/plot_filters.py CONFIG CHECKPOINT
  python tools/plot_filters.py hornet-tiny-gf hornet_tiny_gf.pth --layers 'stages.2' --draw filters --most 6 --out drawn
  python tools/plot_filters.py dfformer-s18 dfformer_s18.pth --draw routing --image photo.jpg
"""

import argparse
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)


def parse_args(argv=None):
    from mmengine.config import DictAction

    from mmfreq.analysis.learned_filters import PLOTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='CONFIG_OR_ARCH', help='path of a config, or name of an arch (its classifier)')
    parser.add_argument('checkpoint', nargs='?', help='with every weight of the model; without it the weights are random')
    parser.add_argument(
        '--layers', default='*', metavar='GLOB', help="of layer names; 'stages.2' is everything below it (default: all, see --most)"
    )
    parser.add_argument(
        '--most', type=int, default=4, metavar='N', help='number of layers for each plot, evenly spread (default: %(default)s)'
    )
    plots = '; '.join(f'{plot}: {description}' for plot, (_, description) in PLOTS.items())
    parser.add_argument('--draw', nargs='+', default=(), choices=PLOTS, help=f'{plots} (default: all that the model has)')
    parser.add_argument('--filters', type=int, default=5, metavar='N', help='the N strongest of a layer (default: %(default)s)')
    parser.add_argument(
        '--grid', nargs=2, type=int, metavar=('H', 'W'), help='resize stored filters for maps of this size (default: as stored)'
    )
    parser.add_argument('--image', help='input of the model (default: a synthetic image)')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help="of the input, in pixels (default: the model's)")
    parser.add_argument('--out', type=Path, help='folder (default: work_dirs/plot_filters/NAME)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='changes to the config')
    return parser.parse_args(argv)


def forward(loaded, images):
    """Run the model on images, as far as possible without boxes or labels."""
    if loaded.task == 'detection':
        return loaded.model.extract_feat(images)
    return loaded.model(images, mode='tensor') if loaded.task == 'segmentation' else loaded.model(images)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.analysis.draw_layers import DrawSettings, draw_layers
    from mmfreq.analysis.images import load_images, normalize, synthetic_images
    from mmfreq.analysis.learned_filters import choose_layers
    from mmfreq.apis.loading import load_model
    from mmfreq.apis.reading import as_rgb
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        loaded = load_model(args.source, args.checkpoint, args.cfg_options)
        chosen = choose_layers(loaded.model, args.draw, args.layers, args.most)
        size = tuple(args.size or loaded.size)
        if args.image:
            images = load_images([args.image], size, 1, loaded.read.bands)
        else:
            images = synthetic_images(size, 1, loaded.in_channels)
        norm = loaded.normalization
        run = partial(forward, loaded, normalize(images, norm.mean, norm.std, norm.channels))
        label = loaded.name if loaded.trained else f'{loaded.name} (random weights)'
        settings = DrawSettings(label, run, as_rgb(images[0]), args.filters, args.grid and tuple(args.grid))
        files, missing = draw_layers(chosen, settings, args.out or Path('work_dirs/plot_filters') / loaded.name)
    print(label)
    for file in files:
        print(f'{file.path}: {file.description}, {", ".join(file.layers)}')
    for plot, choice in chosen.items():
        if choice.available > len(choice.layers):
            selected = f'{len(choice.layers)} of {choice.available} layers'
            print(f'{plot}: {selected}; draw all with --most {choice.available}, or select them with --layers')
    if missing:
        print(f'not drawn, because the model does not call them for an image without labels: {", ".join(missing)}')
    if not loaded.trained:
        print('no checkpoint was given: the weights are random')


if __name__ == '__main__':
    main()
