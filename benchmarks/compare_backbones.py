"""Train several backbones in one segmentation config from scratch with one recipe, and compare them in a table.

    python benchmarks/compare_backbones.py --out docs/measurements/camvid_token_mixers.md      # CamVid; minutes each on a GPU
    python benchmarks/compare_backbones.py --base configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py \\
        --archs hornet-micro dfformer-micro --iterations 40 --img-size 128                     # toy data, on a CPU

`mmfreq.config.mix` puts each arch into the config; `tools/train.py` trains and validates it. Completed runs in the same folder are
read and not repeated.
"""

import argparse
import json
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import median

import torch

import mmfreq  # first: supplies mmcv._ext where no compiled mmcv is

ROOT = Path(__file__).resolve().parents[1]
BASE = 'configs/seg/hornet/hornet-tiny-gf_upernet_1xb8-10k_camvid-360x480.py'
ARCHS = ('hornet-tiny-gf', 'dfformer-s18', 'gfnet-h-ti', 'affnet')
WARM_UP = 0.05  # share of the iterations
COLUMNS = ('arch', 'parameters, M', 'GMACs', 'mIoU, %', 'pixel accuracy, %', 'last loss', 'time of an iteration', 'memory, GiB')


def recipe(iterations, rate):
    """The recipe for every arch: AdamW without layer decay, linear warm-up, linear decay to 0, no drop path."""
    warm_up = max(1, round(WARM_UP * iterations))
    return {
        'model.backbone.drop_path_rate': 0.0,
        'optim_wrapper.optimizer.lr': rate,
        'optim_wrapper.paramwise_cfg.decay_rate': 1.0,
        'optim_wrapper.clip_grad': {'max_norm': 1.0, 'norm_type': 2},
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 1e-3, 'begin': 0, 'end': warm_up, 'by_epoch': False},
            {'type': 'PolyLR', 'power': 1.0, 'eta_min': 0.0, 'begin': warm_up, 'end': iterations, 'by_epoch': False},
        ],
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'default_hooks.checkpoint.interval': iterations,
        'default_hooks.logger.interval': max(1, iterations // 40),
    }


def train(arch, base, folder, options, img_size, amp):
    """Write the config of the arch, train it unless its run is complete, and return the records of its log."""
    from mmfreq.config.mix import mix

    folder.mkdir(parents=True, exist_ok=True)
    config, work_dir = folder / f'{arch}.py', folder / arch
    config.write_text(mix(base, arch, img_size=img_size, options=options, folder=folder).text, encoding='utf-8')
    if not (records := read_log(work_dir)):
        command = [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir), '--seed', '0']
        subprocess.run(command + ['--amp'] * amp, check=True)
        records = read_log(work_dir)
    return config, records


def read_log(work_dir):
    """Records of the newest run that was validated; [] if there is none."""
    for log in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        records = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
        if any('mIoU' in record for record in records):
            return records
    return []


def row(arch, config, records, reference):
    """The cells of an arch; `reference` is the time of an iteration that is reported as 1."""
    from mmfreq.analysis.flops import build_for_counting, count

    model, _ = build_for_counting(str(config))
    report = count(model, tuple(model.data_preprocessor.size))
    macs = report.macs.conv_matmul + report.macs.fft + report.macs.spectral
    steps = [record for record in records if 'loss' in record]
    (scores,) = [record for record in records if 'mIoU' in record][-1:]
    memory = max((record.get('memory', 0) for record in steps), default=0)
    return (
        f'`{arch}`',
        f'{report.params / 1e6:.1f}',
        f'{macs / 1e9:.2f}',
        f'{scores["mIoU"]:.2f}',
        f'{scores["aAcc"]:.2f}',
        f'{steps[-1]["loss"]:.3f}',
        f'{time_of(records) / reference:.2f}',
        f'{memory / 1024:.1f}' if memory else '-',
    )


def time_of(records):
    """Median time of an iteration over the second half of the run, without data loading."""
    steps = [record for record in records if 'loss' in record]
    return median(record['time'] - record['data_time'] for record in steps[len(steps) // 2 :])


def hardware():
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'{torch.get_num_threads()} CPU cores, no GPU'


def page(args, rows):
    base, precision = Path(args.base).stem, 'mixed precision' if args.amp else 'float32'
    command = shlex.join(['python', 'benchmarks/compare_backbones.py', *sys.argv[1:]])
    lines = [
        f'# {args.title}',
        '',
        f'`{command}`',
        '',
        f'{date.today()}; {hardware()}; torch {torch.__version__}, mmfreq {mmfreq.__version__}; {precision}.',
        f'`{base}` with each backbone in turn, from random weights: {args.iterations} iterations,',
        f'AdamW at {args.lr:g}, seed 0, one run.',
        'GMACs are of one training crop, transforms included; the time of an iteration is relative to the first row.',
        '',
        f'| {" | ".join(COLUMNS)} |',
        f'|{"---|" * len(COLUMNS)}',
        *(f'| {" | ".join(cells)} |' for cells in rows),
    ]
    return '\n'.join(lines) + '\n'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--base', default=BASE, help='a segmentation config, scheduled by iterations (default: %(default)s)')
    parser.add_argument('--archs', nargs='+', default=ARCHS, help='the first one is the reference of the times')
    parser.add_argument('--iterations', type=int, default=1500)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--img-size', type=int, default=384, help='square image size whose grids filters are stored at')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--data', help='data root (default: of the config)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare_backbones'))
    parser.add_argument('--title', default='Token mixers on CamVid, with one recipe')
    parser.add_argument('--out', type=Path, help='also write the table to this file, with the command')
    args = parser.parse_args(argv)
    options = recipe(args.iterations, args.lr)
    if args.data:
        options |= {f'{part}_dataloader.dataset.data_root': args.data for part in ('train', 'val', 'test')}
    base = args.base if Path(args.base).is_file() or '::' in args.base else str(ROOT / args.base)
    runs = {arch: train(arch, base, args.work_dir, options, args.img_size, args.amp) for arch in args.archs}
    reference = time_of(next(iter(runs.values()))[1])
    text = page(args, [row(arch, config, records, reference) for arch, (config, records) in runs.items()])
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
