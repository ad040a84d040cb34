"""Files for any image size in onnxruntime on a CPU: errors at sizes other than the traced one, and cost.

Each model is exported once with open sizes. Its outputs are compared with PyTorch's at eight sizes, and its time with that of a
file for one size, in turns.

python benchmarks/onnx_open_size.py --out docs/measurements/open_size.md
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from onnx_files import show_page, timed  # noqa: E402

import mmfreq  # noqa: E402, F401  (first: it supplies mmcv._ext)
from mmfreq.apis.loading import load_model  # noqa: E402
from mmfreq.export import export_onnx, verify  # noqa: E402
from mmfreq.export.graphs import build_graph  # noqa: E402
from mmfreq.testing.backbone_contract import randomize_scales_and_filters  # noqa: E402

SEGMENTOR = 'configs/seg/hornet/hornet-tiny-gf_upernet_1xb8-10k_camvid-360x480.py'
SOURCES = ('hornet-tiny-gf', 'gfnet-h-ti', 'dfformer-s18', 'affnet', str(ROOT / SEGMENTOR))
# stored grids; maps smaller than UPerNet's bins; sides not divisible by 32; 2048 on one side
SIZES = ((224, 224), (384, 384), (64, 96), (33, 47), (427, 641), (300, 501), (2048, 96), (64, 2048))
TIMED = ((224, 224), (512, 512))


def images_of(size, channels):
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(sum(size)))


def measure(source, sizes, timed_sizes, rounds, folder):
    """(row of the table of errors, rows of the table of times) of a model."""
    import onnxruntime

    loaded = load_model(source)
    randomize_scales_and_filters(loaded.backbone)  # as built, the filters hardly contribute to the outputs
    graph = build_graph(loaded)
    free = export_onnx(graph, loaded.size, folder / 'open.onnx', dynamic=True, channels=loaded.in_channels, optimized=True)
    assert not free.spectral and list(map(int, free.metadata['size'].strip('[]').split(','))) not in map(list, sizes)
    errors = {}
    for size in sizes:
        found = verify(free.path, free.model, {'images': images_of(size, loaded.in_channels)})
        errors[size] = max(difference.largest for difference in found)
    counted = [free.operators[name] for name in ('Cos', 'Sin')]
    first = [loaded.name, str(sum(free.operators.values())), f'{counted[0]}, {counted[1]}', *(f'{errors[s]:.0e}' for s in sizes)]
    print(first, flush=True)
    rows = []
    for size in timed_sizes:
        fixed = export_onnx(graph, size, folder / 'fixed.onnx', channels=loaded.in_channels, optimized=True)
        sessions = [onnxruntime.InferenceSession(str(e.path), providers=['CPUExecutionProvider']) for e in (free, fixed)]
        seconds = timed(sessions, images_of(size, loaded.in_channels).numpy(), rounds)
        low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.5, 0.75))
        milliseconds = [f'{1e3 * float(np.median(column)):.0f}' for column in seconds.T]
        rows.append([loaded.name, f'{size[0]}x{size[1]}', *milliseconds, f'{middle:.2f}x [{low:.2f}, {high:.2f}]'])
    print(*rows, sep='\n', flush=True)
    return first, rows


def table(header, rows):
    return [f'| {" | ".join(header)} |', f'|{" --- |" * len(header)}', *(f'| {" | ".join(row)} |' for row in rows)]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='page to write (Markdown)')
    parser.add_argument('--archs', nargs='+', default=SOURCES, help='archs and configs')
    parser.add_argument(
        '--size', nargs=2, type=int, action='append', metavar=('H', 'W'), help='replaces the sizes; may be repeated'
    )
    parser.add_argument('--timed', nargs=2, type=int, action='append', metavar=('H', 'W'), help='replaces the sizes for the time')
    parser.add_argument('--rounds', type=int, default=9, help='default: %(default)s')
    args = parser.parse_args(argv)
    sizes = [tuple(size) for size in args.size or SIZES]
    timed_sizes = [tuple(size) for size in args.timed or TIMED]
    with tempfile.TemporaryDirectory() as folder:
        measured = [measure(source, sizes, timed_sizes, args.rounds, Path(folder)) for source in args.archs]
    question = (
        'Is a file with open batch, height and width equal to the model at every size, and what does it cost beside one for '
        'a fixed size?'
    )
    lines = [
        'One image, float32, random weights, models after `mmfreq.optimize`. No size is the traced one.',
        '',
        'Largest difference to PyTorch (before `mmfreq.optimize`) over the largest value, with the numbers of operators and bases:',
        '',
        *table(['model', 'operators', 'Cos, Sin', *(f'{h}x{w}' for h, w in sizes)], [first for first, _ in measured]),
        '',
        f'Milliseconds, medians of {args.rounds} rounds in turns, and the ratio round by round, median [quartiles]:',
        '',
        *table(['model', 'images', 'any size', 'one size', 'any over one'], [row for _, rows in measured for row in rows]),
        '',
    ]
    show_page('Files for any image size in onnxruntime', question, 'onnx_open_size', argv, lines, args.out)


if __name__ == '__main__':
    torch.set_num_threads(2)
    main()
