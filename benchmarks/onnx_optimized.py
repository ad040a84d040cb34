"""Files exported from models as built and from `mmfreq.optimize`d ones: operators, and time in onnxruntime on one CPU thread.

python benchmarks/onnx_optimized.py --out docs/measurements/onnx_optimized.md
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import thread_time

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from onnx_files import show_page, timed  # noqa: E402

import mmfreq  # noqa: E402
from mmfreq.export import export_onnx, verify  # noqa: E402
from mmfreq.testing.backbone_contract import randomize_scales_and_filters  # noqa: E402

ARCHS = ('hornet-tiny-gf', 'gfnet-h-ti', 'gfnet-ti', 'dfformer-s18', 'cdfformer-s18', 'affnet-et')
FORMS = {'plain': False, 'optimized': True}  # argument `optimized` of `export_onnx`


def session_of(path, optimized_path=None):
    """An onnxruntime session with one thread; its own optimized graph is written to `optimized_path`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized_path:
        options.optimized_model_filepath = str(optimized_path)
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def compare(arch, side, rounds, folder):
    """One row of the table, and the operators of which the two files have different numbers."""
    import onnx

    torch.manual_seed(0)
    model = randomize_scales_and_filters(mmfreq.build_classifier(arch)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(('act1.scale', 'act.scale', 'act1.bias', 'act.bias')):  # of StarReLU; onnxruntime removes ones and zeros
            parameter.data += 0.1
    images = torch.randn(1, 3, side, side)
    files = {form: export_onnx(model, (side, side), folder / f'{form}.onnx', optimized=choice) for form, choice in FORMS.items()}
    error = max(difference.largest for file in files.values() for difference in verify(file.path, file.model, {'': images}))
    sessions = [session_of(file.path, folder / f'{form}_in_ort.onnx') for form, file in files.items()]
    times = 1e3 * timed(sessions, images.numpy(), rounds, thread_time)
    low, middle, high = np.quantile(times[:, 0] / times[:, 1], (0.25, 0.5, 0.75))
    protos = [onnx.load(file.path) for file in files.values()]
    megabytes = [sum(tensor.ByteSize() for tensor in proto.graph.initializer) / 2**20 for proto in protos]
    counts = [file.operators for file in files.values()]
    in_ort = [len(onnx.load(folder / f'{form}_in_ort.onnx').graph.node) for form in files]
    medians = np.median(times, 0)
    row = [
        arch,
        *(f'{a}, {b}' for a, b in ([c.total() for c in counts], in_ort)),
        f'{megabytes[0]:.1f}, {megabytes[1]:.1f}',
        f'{medians[0]:.1f}, {medians[1]:.1f}',
        f'{middle:.2f}x [{low:.2f}, {high:.2f}]',
        f'{error:.0e}',
    ]
    return row, difference_of(*counts)


def difference_of(plain: Counter, optimized: Counter) -> str:
    """The operators whose numbers differ, with the change."""
    changes = {name: optimized[name] - plain[name] for name in sorted({*plain, *optimized})}
    return ', '.join(f'{name} {change:+d}' for name, change in changes.items() if change)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='page to write (Markdown)')
    parser.add_argument('--archs', nargs='+', default=ARCHS, help='archs of classifiers')
    parser.add_argument('--size', type=int, default=224, help='side of the images (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=20, help='default: %(default)s')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = [compare(arch, args.size, args.rounds, Path(folder)) for arch in args.archs]
    question = (
        'Does a file exported from `mmfreq.optimize(model)`, the default, have fewer operators and take less time than one '
        'exported with `--plain`?'
    )
    lines = [
        f'{args.rounds} rounds in turns, one image of {args.size}x{args.size}, float32; random weights.',
        'Pairs of numbers are plain, optimized.',
        '',
        '| model | operators in the file | operators in onnxruntime | weights, MiB | CPU ms | speed over plain | error |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        *(f'| {" | ".join(row)} |' for row, _ in found),
        '',
        '- operators in onnxruntime: after its own optimization for this CPU, which fuses operators and adds changes of layout.',
        '- CPU ms: CPU time of the one thread, median; it depends little on other processes, unlike elapsed time.',
        '- speed: ms of the plain file over those of the optimized one, round by round: median [quartiles].',
        '- error: largest difference to PyTorch, relative to the largest value, of both files.',
        '',
        'Operators that `mmfreq.optimize` adds to the file or removes from it:',
        '',
        *(f'- {row[0]}: {changes}.' for row, changes in found),
        '',
    ]
    show_page('Optimized models in exported files', question, 'onnx_optimized', argv, lines, args.out)


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
