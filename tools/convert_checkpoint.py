"""Convert a published checkpoint to the mmfreq layout, or back. Only names change; optimizer states are dropped.

Examples:
  python tools/convert_checkpoint.py hornet_tiny_gf.pth converted.pth --arch hornet-tiny-gf
  python tools/convert_checkpoint.py checkpoint.pt converted.pth --entry model_state_dict
  python tools/convert_checkpoint.py converted.pth published.pth --invert
"""

import argparse
from functools import partial
from pathlib import Path

import _path  # noqa: F401

import mmfreq


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='checkpoint file, URL or mmfreq://ARCH/TAG, in any published layout')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument('--arch', help='check every name and shape against this arch (default: find the arch by its shapes)')
    parser.add_argument('--invert', action='store_true', help='convert from the mmfreq layout back to the published one')
    parser.add_argument('--entry', help='key of the weights in SRC (default: averaged weights where there are any)')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    args = parser.parse_args(argv)
    if args.invert and args.entry:
        parser.error('--entry selects an entry of a published file; with --invert, SRC is in the mmfreq layout')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.compat.safe_load import read_checkpoint
    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.weights.convert import fitting_archs, note_of, to_mmfreq, to_published, write_checkpoint
    from mmfreq.weights.store import local_file

    with short_user_errors():
        if args.dst.exists() and not args.force:
            raise UserError(f'{args.dst} exists. Use --force to overwrite it, or give another name.')
        if not args.dst.absolute().parent.is_dir():
            raise UserError(f'The folder {args.dst.absolute().parent} does not exist. Create it, or give another name.')
        source = read_checkpoint(local_file(args.src))
        if note_of(source) and not args.invert and Path(args.src).suffix != args.dst.suffix:  # another format, the same names
            print(f'wrote {args.dst} in the same layout, sha256 {write_checkpoint(source, args.dst)}')
            return
        done = to_published(source) if args.invert else to_mmfreq(source, args.arch, args.entry or 'auto')
        converted = source if args.invert else done.checkpoint
        if args.arch:
            arch_report = check_arch(args.arch, converted)
        else:
            builders = {arch: partial(on_meta, mmfreq.build_backbone, arch) for arch in mmfreq.list_archs(done.family)}
            archs = fitting_archs(converted, builders)
            arch_report = f'arch by its shapes: {" or ".join(archs) or "no known one"}'
            if len(archs) == 1 and not args.invert:
                converted['meta']['mmfreq']['arch'] = archs[0]
        digest = write_checkpoint(done.checkpoint, args.dst)
    print(f'{args.src}: {done.layout} layout of {done.family}, {arch_report}')
    print(f'{done.tensors} tensors, {len(done.renamed)} renamed; dropped: {", ".join(done.dropped) or "nothing"}')
    print(f'wrote {args.dst}, sha256 {digest}')


def check_arch(arch, converted):
    """How a file in the mmfreq layout fits an arch, as text; a CheckpointError where it does not."""
    from mmfreq.models._factory import classifier_class
    from mmfreq.weights.fit import choose_entry
    from mmfreq.weights.load import check_fit

    last_layer = choose_entry(converted).state.get(f'{classifier_class(arch).last_layer}.weight')
    if last_layer is None:
        report = check_fit(on_meta(mmfreq.build_backbone, arch), converted)
        model = 'backbone'
    else:
        report = check_fit(on_meta(mmfreq.build_classifier, arch, num_classes=len(last_layer)), converted)
        model = f'classifier with {len(last_layer)} classes'
    resized = f', {len(report.resized)} filters or embeddings of another grid' if report.resized else ''
    return f'fits the {model} of {arch}{resized}'


def on_meta(build, *args, **kwargs):
    """A model without memory for its parameters."""
    import torch

    with torch.device('meta'):
        return build(*args, **kwargs)


if __name__ == '__main__':
    main()
