"""Is int8 worth it? mIoU and time of one segmentor in onnxruntime as float32, float16 and int8.

python benchmarks/int8.py CONFIG CHECKPOINT --out docs/measurements/int8_cpu.md

int8 is onnxruntime's static quantization: QDQ nodes, one scale per output channel of a weight, calibrated on training images of the
config without augmentation. The files are run in turns on each validation image, with one thread.
"""

import argparse
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter

os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from runtime_list import session  # noqa: E402
from runtimes import processor  # noqa: E402

import mmfreq  # noqa: E402, F401  (first: it supplies mmcv._ext)

KINDS = {  # row -> operators that are quantized; None: no quantization
    'float32': None,
    'fp16 file': None,
    'int8: convolutions': ['Conv'],
    'int8: convolutions and Gemm': ['Conv', 'Gemm'],
    'int8: all that onnxruntime quantizes': [],
}


def samples(config, loader, count=None):
    """Images as the model gets them, and their labels, of a data loader of the config with the pipeline of the test."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS, MODELS

    init_default_scope('mmseg')
    dataset = dict(config[loader].dataset, pipeline=config.test_dataloader.dataset.pipeline)
    dataset = DATASETS.build(dataset)
    prepare = MODELS.build(config.model.data_preprocessor).eval()
    chosen = range(len(dataset)) if count is None else np.linspace(0, len(dataset) - 1, count).astype(int)
    for i in chosen:
        sample = dataset[int(i)]
        batch = prepare({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}, False)
        yield batch['inputs'].numpy(), sample['data_samples'].gt_sem_seg.data[0]


def write_files(config, checkpoint, calibration, folder):
    """{row: path}."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from mmfreq.apis.loading import load_model
    from mmfreq.export import export_onnx
    from mmfreq.export.graphs import build_graph

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.images = iter(calibration)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {'images': image}

    graph = build_graph(load_model(config, checkpoint), 'logits')
    size = calibration[0].shape[2:]
    files = {kind: folder / f'{i}.onnx' for i, kind in enumerate(KINDS)}
    export_onnx(graph, size, files['float32'], optimized=True)
    export_onnx(graph, size, files['fp16 file'], optimized=True, precision='fp16')
    quant_pre_process(str(files['float32']), str(folder / 'prepared.onnx'))
    for kind, operators in KINDS.items():
        if operators is not None:
            quantize_static(
                str(folder / 'prepared.onnx'),
                str(files[kind]),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                op_types_to_quantize=operators or None,
            )
    return files


def mean_iou(matrix):
    """Mean over the classes that occur, from a confusion matrix (labels, predictions)."""
    hits, total = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return float((hits[total > 0] / total[total > 0]).mean())


def evaluate(files, data, classes):
    """{row: (mIoU, seconds of each image)}."""
    runs = {kind: session(path) for kind, path in files.items()}
    matrices = {kind: np.zeros((classes, classes)) for kind in runs}
    seconds = {kind: [] for kind in runs}
    for images, labels in data:
        known = (labels < classes).numpy()
        for kind, run in runs.items():
            start = perf_counter()
            (logits,) = run(images)
            seconds[kind].append(perf_counter() - start)
            full = torch.nn.functional.interpolate(torch.from_numpy(logits), labels.shape, mode='bilinear', align_corners=False)
            pairs = labels.numpy()[known] * classes + full.argmax(1)[0].numpy()[known]
            matrices[kind] += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return {kind: (mean_iou(matrices[kind]), np.array(seconds[kind])) for kind in runs}


def page(found, files, args, count, size, command):
    """The Markdown page."""
    from benchmarks.harness.page import sentence
    from mmfreq.analysis.latency import describe_hardware

    base = found['float32'][1]
    rows = [
        f'| {kind} | {100 * score:.2f} | {np.median(seconds / base):.2f} | {files[kind].stat().st_size / 2**20:.1f} |'
        for kind, (score, seconds) in found.items()
    ]
    import onnxruntime

    lines = [
        '# int8 in onnxruntime',
        '',
        'Is a quantized segmentor faster on a CPU, and what does it cost in mIoU?',
        '',
        '<!-- not run here: needs CamVid and a checkpoint; tests/benchmarks/test_int8.py::test_a_toy_segmentor -->',
        '```bash',
        command,
        '```',
        '',
        f'{date.today()}. {sentence(describe_hardware("cpu", 1))}; {processor()}; onnxruntime {onnxruntime.__version__}.',
        f'One thread, {count} validation images of {size[0]}x{size[1]}, in turns; {args.calibration} training images for the',
        'calibration. Times are medians over the images of wall time relative to float32 on the same image.',
        '',
        '| file | mIoU, % | time relative to float32 | MiB |',
        '| --- | --- | --- | --- |',
        *rows,
        '',
        *([args.note, ''] if args.note else []),
    ]
    return '\n'.join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--calibration', type=int, default=32, metavar='N', help='training images (default: %(default)s)')
    parser.add_argument('--images', type=int, metavar='N', help='validation images (default: all)')
    parser.add_argument('--note', help='a sentence for the page, such as how the checkpoint was trained')
    parser.add_argument('--out', type=Path, help='page to write (Markdown)')
    args = parser.parse_args(argv)
    from mmengine.config import Config

    from benchmarks.harness.page import command_words

    command = command_words('benchmarks/int8.py', sys.argv[1:] if argv is None else argv)
    config = Config.fromfile(args.config)
    calibration = [images for images, _ in samples(config, 'train_dataloader', args.calibration)]
    data = list(samples(config, 'val_dataloader', args.images))
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(args.config, args.checkpoint, calibration, Path(folder))
        found = evaluate(files, data, config.model.decode_head.num_classes)
        text = page(found, files, args, len(data), data[0][0].shape[2:], command)
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
