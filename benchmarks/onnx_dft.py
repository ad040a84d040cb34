"""Matrix products against ONNX's DFT in onnxruntime on a CPU: a model exported both ways and timed in turns.

python benchmarks/onnx_dft.py --out docs/measurements/onnx_cpu.md
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
from mmfreq.export.verify import comparison_inputs  # noqa: E402

ARCHS = ('hornet-tiny-gf', 'gfnet-h-ti', 'dfformer-s18', 'affnet')
SEGMENTOR = 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
SIZES = ((224, 224), (256, 320))


def compare(source, size, rounds, folder):
    """One row of the table."""
    import onnxruntime

    loaded = load_model(source)
    inputs = comparison_inputs(size, loaded.normalization)
    exported = {
        backend: export_onnx(build_graph(loaded), size, folder / f'{backend}.onnx', backend=backend)
        for backend in ('matmul', 'fft')
    }
    errors = [max(d.largest for d in verify(e.path, e.model, inputs)) for e in exported.values()]
    sessions = [onnxruntime.InferenceSession(str(e.path), providers=['CPUExecutionProvider']) for e in exported.values()]
    seconds = timed(sessions, next(iter(inputs.values())).numpy(), rounds)
    low, middle, high = np.quantile(seconds[:, 1] / seconds[:, 0], (0.25, 0.5, 0.75))
    counts = [sum(e.operators.values()) for e in exported.values()]
    megabytes = [e.path.stat().st_size / 2**20 for e in exported.values()]
    transforms = ', '.join(f'{n} {name}' for name, n in exported['fft'].spectral.items())
    assert not exported['matmul'].spectral
    return [
        loaded.name,
        f'{size[0]}x{size[1]}',
        f'{middle:.2f}x [{low:.2f}, {high:.2f}]',
        f'{errors[0]:.0e}, {errors[1]:.0e}',
        f'{counts[0]} ({transforms.replace("DFT", "DFT in the other")})' if transforms else str(counts[0]),
        f'{megabytes[0]:.0f}, {megabytes[1]:.0f}',
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='page to write (Markdown)')
    parser.add_argument('--archs', nargs='+', default=[*ARCHS, str(ROOT / SEGMENTOR)], help='archs and configs')
    parser.add_argument('--size', nargs='+', type=int, help='sides of square images (default: 224 224 and 256 320)')
    parser.add_argument('--rounds', type=int, default=15, help='default: %(default)s')
    args = parser.parse_args(argv)
    sizes = [(side, side) for side in args.size] if args.size else SIZES
    with tempfile.TemporaryDirectory() as folder:
        rows = [compare(source, size, args.rounds, Path(folder)) for source in args.archs for size in sizes]
    question = "Is a graph of real matrix products equal to the model, and faster than one with ONNX's DFT operator?"
    lines = [
        f'{args.rounds} rounds in turns, one image, float32; random weights.',
        '',
        '| model | images | speed over the graph with DFT | error: matrix products, DFT | operators | MiB: matrix products, DFT |',
        '| --- | --- | --- | --- | --- | --- |',
        *(f'| {" | ".join(row)} |' for row in rows),
        '',
        '- speed: seconds of the graph with DFT over those of the graph with matrix products, round by round: median [quartiles].',
        '- error: largest difference to PyTorch over the largest value, of two random inputs and a drawn scene.',
        '',
    ]
    show_page('Exported models in onnxruntime', question, 'onnx_dft', argv, lines, args.out)


if __name__ == '__main__':
    torch.set_num_threads(2)
    main()
