"""Renames a published checkpoint to ours, or one of ours back; values are untouched, optimizer states are left out.

Examples:
  python tools/convert_checkpoint.py hornet_tiny_gf.pth ours.pth --arch hornet-tiny-gf
  python tools/convert_checkpoint.py checkpoint.pt ours.pth --entry model_state_dict
  python tools/convert_checkpoint.py ours.pth official.pth --invert
"""

import argparse
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='checkpoint file or http(s) address, in any published layout')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument(
        '--arch', help='check that the file fits this arch in every name and shape (default: tell it from the shapes)'
    )
    parser.add_argument('--invert', action='store_true', help='from ours back to the published layout')
    parser.add_argument('--entry', help='entry of SRC to take (default: averaged weights where there are any)')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    args = parser.parse_args(argv)
    if args.invert and args.entry:
        parser.error('--entry chooses among the entries of a published file; with --invert SRC is one of ours')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.compat.safe_load import read_checkpoint
    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.weights.convert import convert_to_official, convert_to_ours, fitting_archs, write_checkpoint

    with short_user_errors():
        if args.dst.exists() and not args.force:
            raise UserError(f'{args.dst} exists already: give --force to overwrite it, or another name')
        if not args.dst.absolute().parent.is_dir():
            raise UserError(f'there is no folder {args.dst.absolute().parent}: make it, or give another name')
        source = read_checkpoint(args.src)
        done = convert_to_official(source) if args.invert else convert_to_ours(source, args.arch, args.entry or 'auto')
        ours = source if args.invert else done.checkpoint
        if args.arch:
            told = check_arch(args.arch, ours)
        else:
            fits = fitting_archs(
                ours, {arch: partial(on_meta, mmfreq.build_backbone, arch) for arch in mmfreq.list_archs(done.family)}
            )
            told = f'arch by its shapes: {" or ".join(fits) or "none of ours"}'
            if len(fits) == 1 and not args.invert:
                ours['meta']['mmfreq']['arch'] = fits[0]
        digest = write_checkpoint(done.checkpoint, args.dst)
    print(f'{args.src}: {done.layout} layout of {done.family}, {told}')
    print(f'{done.tensors} tensors, {len(done.renamed)} renamed; left out: {", ".join(done.left_out) or "nothing"}')
    print(f'wrote {args.dst}, sha256 {digest}')


def check_arch(arch, ours):
    """Words on how a file of ours fits an arch; an error where it does not."""
    from mmfreq.models._factory import classifier_class
    from mmfreq.weights.convert import last_layer_width
    from mmfreq.weights.load import check_fit

    classes = last_layer_width(ours, classifier_class(arch).last_layer)
    if classes:
        report = check_fit(on_meta(mmfreq.build_classifier, arch, num_classes=classes), ours)
        what = f'classifier of {classes} classes'
    else:
        report = check_fit(on_meta(mmfreq.build_backbone, arch), ours)
        what = 'backbone'
    resized = f', {len(report.resized)} filters or embeddings of another grid' if report.resized else ''
    return f'fits the {what} of {arch}{resized}'


def on_meta(build, *args, **kwargs):
    """A model without memory for its parameters."""
    import torch

    with torch.device('meta'):
        return build(*args, **kwargs)


if __name__ == '__main__':
    main()
