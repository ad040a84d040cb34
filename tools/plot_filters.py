"""Draws what a model has learned in its filters and what its token mixers do with a picture.

Stored filters (GFNet, HorNet-GF, DFFormer): gain, phase, kernels. Over a picture: the gated products of gnConv by order (HorNet),
the dynamic filters that DFFormer mixes, the masks that AFFNet, which stores no filters, computes. Without options a few layers of
each, spread over the stages.

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

    from mmfreq.analysis.learned_filters import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='CONFIG_OR_ARCH', help='path of a config, or name of an arch (its classifier)')
    parser.add_argument('checkpoint', nargs='?', help='with every weight of the model; without one the weights are random')
    parser.add_argument(
        '--layers', default='*', metavar='GLOB', help="of layers' names; 'stages.2' is all below it (default: all, see --most)"
    )
    parser.add_argument(
        '--most', type=int, default=4, metavar='N', help='layers of each kind, evenly spread (default: %(default)s)'
    )
    kinds = '; '.join(f'{kind}: {words}' for kind, (_, words) in KINDS.items())
    parser.add_argument('--draw', nargs='+', default=(), choices=KINDS, help=f'{kinds}; default: all that the model has')
    parser.add_argument('--filters', type=int, default=5, metavar='N', help='the N strongest of a layer (default: %(default)s)')
    parser.add_argument(
        '--grid', nargs=2, type=int, metavar=('H', 'W'), help='stored filters as they act on maps of this size (default: as stored)'
    )
    parser.add_argument('--image', metavar='PICTURE', help='to run the model on (default: a drawn scene)')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help="of it, in pixels (default: the model's)")
    parser.add_argument('--out', type=Path, help='folder (default: work_dirs/plot_filters/NAME)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='changes to the config')
    return parser.parse_args(argv)


def pass_through(subject, images):
    """The model on images, as far as it goes without boxes or labels."""
    if subject.task == 'detection':
        return subject.model.extract_feat(images)
    return subject.model(images, mode='tensor') if subject.task == 'segmentation' else subject.model(images)


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.analysis.draw_layers import View, draw_layers
    from mmfreq.analysis.images import drawn_scenes, load_images, normalised
    from mmfreq.analysis.learned_filters import choose_layers
    from mmfreq.apis.loading import load_model
    from mmfreq.errors import short_user_errors

    with short_user_errors():
        subject = load_model(args.source, args.checkpoint, args.cfg_options)
        choices = choose_layers(subject.model, args.draw, args.layers, args.most)
        size = tuple(args.size or subject.size)
        pictures = load_images([args.image], size, 1) if args.image else drawn_scenes(size, 1)
        seen = subject.normalization
        run = partial(pass_through, subject, normalised(pictures, seen.mean, seen.std, seen.channels))
        label = subject.name if subject.trained else f'{subject.name} (random weights)'
        out = args.out or Path('work_dirs/plot_filters') / subject.name
        drawn, missed = draw_layers(choices, View(label, run, pictures[0], args.filters, args.grid and tuple(args.grid)), out)
    print(label)
    for file in drawn:
        print(f'{file.path}: {file.what}, {", ".join(file.layers)}')
    for kind, choice in choices.items():
        if choice.of > len(choice.layers):
            print(f'{kind}: {len(choice.layers)} of {choice.of} layers; --most {choice.of} draws all, --layers chooses')
    if missed:
        print(f'not drawn, as the model does not call them on a picture alone: {", ".join(missed)}')
    if not subject.trained:
        print('no checkpoint was given: these are random weights')


if __name__ == '__main__':
    main()
