"""Writes an ONNX file without Fourier or complex operators, and compares it with the model in onnxruntime.

The graph is for images of one size, and with --dynamic for any number of images of any size. Transforms are products with real
matrices, constant or, with --dynamic, computed from the shape. The input is normalized images; the metadata has the preprocessing,
classes and colors, for docs/onnx_inference.py. The default output is the logits, for a detection config the boxes after NMS.
Needs: pip install "mmfreq[export]"

Examples:
  python tools/export_onnx.py gfnet-h-ti gfnet-h-ti.pth --shape 224 --out gfnet-h-ti.onnx
  python tools/export_onnx.py configs/upernet_hornet_ade20k.py iter_160000.pth --shape 512 --output labels --dynamic-batch
  python tools/export_onnx.py configs/det/affnet/affnet_ssdlite_8xb16-200e_coco-320x320.py epoch_200.pth --score-thr 0.3
  python tools/export_onnx.py hornet-tiny-gf --output features --shape 256 320 --precision fp16
  python tools/export_onnx.py configs/upernet_hornet_ade20k.py iter_160000.pth --output labels --dynamic

It prints the largest and the mean difference for each input and output: relative to the largest value, for boxes to the longer
side of the image, for scores absolute, and for class ids the fraction of pixels that differ.

Exit status: 0 if the file's outputs equal the model's, 1 if they do not, 2 for a wrong command.
"""

import argparse
import sys
import warnings
from pathlib import Path

import _path  # noqa: F401

import mmfreq  # noqa: F401  (before mmseg and mmdet: supplies mmcv._ext where no compiled mmcv is)

# of torchvision and mmseg: a user cannot avoid them, and the losses are not exported
for message in (
    '`create_unbacked_symint` is deprecated',
    '``build_loss`` would be deprecated',
    'Default ``avg_non_ignore`` is False',
):
    warnings.filterwarnings('ignore', message)


def parse_args(argv=None):
    from mmengine.config import DictAction

    from mmfreq.export.onnx_file import BACKENDS, PRECISIONS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='CONFIG_OR_ARCH', help='path of a config, or name of an arch')
    parser.add_argument('checkpoint', nargs='?', help='its weights; by default the file has random weights')
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='N',
        help='H W, or one side (default: of the config, rounded up to multiples of 32, or of the arch)',
    )
    parser.add_argument('--out', type=Path, help='file (default: NAME.onnx in the current folder)')
    outputs = ('logits', 'labels', 'boxes', 'features', 'raw')
    parser.add_argument(
        '--output', choices=outputs, help='logits, classes of pixels, boxes, feature maps, or the raw outputs of a dense head'
    )
    parser.add_argument('--max-per-img', type=int, metavar='N', help="number of boxes (default: the test_cfg's)")
    parser.add_argument('--score-thr', type=float, metavar='X', help="score threshold of boxes (default: the test_cfg's)")
    parser.add_argument('--dynamic-batch', action='store_true', help='allow any number of images (default: one)')
    parser.add_argument(
        '--dynamic', action='store_true', help='allow any number of images of any size; --shape is then only a size to compare at'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32', help='default: %(default)s')
    parser.add_argument('--backend', choices=BACKENDS, default=BACKENDS[0], help="fft: with ONNX's DFT (default: %(default)s)")
    parser.add_argument('--plain', action='store_true', help='export the model without mmfreq.optimize')
    parser.add_argument('--verify', action=argparse.BooleanOptionalAction, default=True, help='compare in onnxruntime')
    parser.add_argument(
        '--picture', dest='image', type=Path, metavar='IMAGE', help='file to compare with (default: a synthetic image)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='K=V', help='changes to the config')
    args = parser.parse_args(argv)
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(f'--shape is H W or one side, got {args.shape}')
    if args.dynamic and args.backend != BACKENDS[0]:
        parser.error(f'--dynamic needs --backend {BACKENDS[0]}, got {args.backend}')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmfreq.apis.loading import load_model
    from mmfreq.errors import UserError, short_user_errors
    from mmfreq.export import export_onnx, verify
    from mmfreq.export.graphs import build_graph
    from mmfreq.export.metadata import metadata_of, notes_of
    from mmfreq.export.verify import comparison_inputs, other_sizes
    from mmfreq.export.verify_boxes import verify_boxes

    with short_user_errors():
        backbone_only = args.output == 'features' and not Path(args.source).is_file()
        loaded = load_model(args.source, args.checkpoint, args.cfg_options, backbone_only)
        size = tuple(args.shape * 2)[:2] if args.shape else loaded.size
        out = args.out or Path(f'{loaded.name}.onnx')
        inputs = comparison_inputs(size, loaded.normalization, args.image, loaded.read)
        graph = build_graph(loaded, args.output, args.max_per_img, args.score_thr)
        has_boxes = 'boxes' in getattr(graph, 'output_names', ())
        if has_boxes and args.dynamic_batch:
            raise UserError('Expected one image for the output boxes, got --dynamic-batch. Remove it.')
        for other in other_sizes(size) if args.dynamic else ():
            found = comparison_inputs(other, loaded.normalization, args.image, loaded.read)
            inputs |= {f'{name}, {other[0]}x{other[1]}': images for name, images in found.items()}
        exported = export_onnx(
            graph,
            size,
            out,
            backend=args.backend,
            precision=args.precision,
            dynamic_batch=args.dynamic_batch,
            dynamic=args.dynamic,
            channels=loaded.in_channels,
            optimized=not args.plain,
            metadata=metadata_of(loaded, args.output, None if args.dynamic else size),
        )
        compare = verify_boxes if has_boxes else verify
        differences = compare(out, exported.model, inputs, args.precision) if args.verify else []
    if not loaded.trained:
        print('note: no checkpoint was given, the weights are random')
    for note in notes_of(loaded):
        print(f'note: {note}')
    print_operators(exported, 'any size' if args.dynamic else f'{size[0]}x{size[1]}')
    for difference in differences:
        print(difference)
    if not all(difference.within for difference in differences):
        sys.exit(f"error: the outputs of {out} differ from the model's")
    if differences:
        print(f'{len(differences)} comparisons with the model in onnxruntime, all within the tolerance')


def print_operators(exported, size):
    from rich.console import Console
    from rich.table import Table

    megabytes = exported.path.stat().st_size / 2**20
    print(f'{exported.path}: {megabytes:.1f} MiB, images of {size}')
    table = Table('operator', 'count')
    for name, count in exported.operators.most_common():
        table.add_row(name, str(count))
    Console().print(table)


if __name__ == '__main__':
    main()
