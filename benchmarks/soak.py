"""A long training with images of changing sizes: do memory, the number of open files, or the time of a step grow?

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--iters 2000] [--out docs/measurements/soak_cpu.md] [--json FILE]

Trains the config of `mmfreq/testing/toy_segmentation.py` (UPerHead on HorNet-micro with global filters) with
`mmfreq.engine.launch`: one or two generated images per step, resized at random so that almost every step has another size, two
worker processes, regular validations at random sizes, and regular checkpoints, of which two are kept.

Time is CPU time of the process (`time.process_time`) between the ends of two steps, so that other processes matter less. The first
and last quarter are compared by steps with about the same number of pixels. On a busy machine the same work takes more CPU time,
so a constant piece of work is timed after every step, and the result is divided by its change. The number of function calls in a
step is compared in the same way: it does not depend on the machine.

A leak is visible in the memory that malloc has allocated. Resident memory also contains freed blocks in holes that blocks of other
sizes do not fit in. Needs Linux with glibc 2.33 or newer.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS, HOOKS

import mmfreq  # noqa: F401
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.launch import train
from mmfreq.testing.toy_segmentation import toy_segmentation_config, toy_segmentor, write_toy_config

SCALES = [(48, 40), (128, 112)]  # ranges of the long and the short sides, drawn for each image
SAMPLES = 100  # measurements of memory and open files in a run
BINS = 10  # of numbers of pixels
MIB = 2**20
SHOWN = {
    'used': 'memory allocated by malloc, MiB',
    'rss': 'resident memory of the process, MiB',
    'workers': 'the same of its data workers, MiB',
    'files': 'open files',
    'tasks': 'threads',
    'checkpoints': 'checkpoints in the work directory',
}


@FUNCTIONS.register_module(force=True)
def one_or_two(samples):
    """Collate batches of one or two images at random (in a worker, whose random numbers are seeded)."""
    return pseudo_collate(samples[: np.random.randint(1, 3)])


@HOOKS.register_module(force=True)
class Meter(Hook):
    """Record the time and function calls of each step and, every `every` steps, the memory and files of the process."""

    priority = 'LOWEST'  # after logging and saving
    notes = None  # records of the last run

    def __init__(self, every):
        self.every = every
        Meter.notes = {'pixels': [], 'size': [], 'cpu': [], 'wall': [], 'calls': [], 'same': [], 'held': []}

    def before_train(self, runner):
        self.begin()

    def begin(self):
        self.calls = 0
        self.last = time.process_time(), time.perf_counter()
        sys.setprofile(self.count)

    def count(self, frame, event, arg):
        self.calls += event in ('call', 'c_call')

    def after_train(self, runner):
        sys.setprofile(None)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        sys.setprofile(None)
        now = time.process_time(), time.perf_counter()
        height, width = (max(image.shape[at] for image in data_batch['inputs']) for at in (1, 2))
        notes = Meter.notes
        notes['pixels'].append(len(data_batch['inputs']) * height * width)
        notes['size'].append((height, width))
        notes['cpu'].append(now[0] - self.last[0])
        notes['wall'].append(now[1] - self.last[1])
        notes['calls'].append(self.calls)
        notes['same'].append(same_work())
        if (runner.iter + 1) % self.every == 0:
            notes['held'].append({'iter': runner.iter + 1, 'checkpoints': len(list(Path(runner.work_dir).glob('*.pth'))), **held()})
        self.begin()


def same_work():
    """CPU time of a constant piece of work, a convolution and a Fourier transform: about a millisecond."""
    start = time.process_time()
    x = torch.ones(1, 16, 48, 48)
    torch.fft.rfft2(torch.nn.functional.conv2d(x, torch.ones(16, 16, 3, 3)))
    return time.process_time() - start


def held():
    """Memory, files and threads of this process, and memory of its workers."""
    workers = [pid for task in os.listdir('/proc/self/task') for pid in _read(f'/proc/self/task/{task}/children').split()]
    return {
        'used': allocated(),
        'rss': resident('self'),
        'workers': sum(resident(pid) for pid in workers),
        'files': len(os.listdir('/proc/self/fd')),
        'tasks': len(os.listdir('/proc/self/task')),
    }


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` (mallinfo(3))."""

    names = ('arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost')
    _fields_ = [(name, ctypes.c_size_t) for name in names]


def allocated():
    """Memory in blocks that malloc has allocated and that are not freed, in MiB."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallInfo
    now = mallinfo()
    return (now.uordblks + now.hblkhd) / MIB


def resident(pid):
    """Resident memory of a process in MiB, from its mappings (`status` has per-thread approximations)."""
    return next(int(line.split()[1]) / 1024 for line in _read(f'/proc/{pid}/smaps_rollup').splitlines() if line.startswith('Rss'))


def _read(path):
    return Path(path).read_text(encoding='utf-8')


def soak(folder, iters):
    """Train for `iters` steps with all files in `folder`, and return the records."""
    write_toy_ade20k(folder / 'data', train=16, val=4, size=(64, 64), seed=0)
    resize = {'type': 'RandomResize', 'scale': SCALES, 'resize_type': 'mmseg.Resize', 'keep_ratio': False}
    changes = toy_segmentation_config(folder / 'data', iters)
    model, train_loader, val_loader = toy_segmentor(norm='GN'), changes['train_dataloader'], changes['val_dataloader']
    model['data_preprocessor'] |= {'size': None, 'size_divisor': 1}  # batches are padded to their largest image
    model['backbone']['drop_path_rate'] = 0.1
    load, annotations, pack = train_loader['dataset']['pipeline']
    changing = [{'type': 'RandomFlip', 'prob': 0.5}, {'type': 'PhotoMetricDistortion'}, pack]
    train_loader['dataset']['pipeline'] = [load, annotations, resize, *changing]
    val_loader['dataset']['pipeline'] = [load, resize, annotations, pack]
    train_loader |= {'num_workers': 2, 'persistent_workers': True, 'collate_fn': {'type': 'one_or_two'}}
    hooks = changes['default_hooks']
    hooks['logger']['interval'] = 50
    hooks['checkpoint'] |= {'interval': max(iters // 10, 1), 'max_keep_ckpts': 2}
    config = write_toy_config(
        folder / 'soak.py',
        folder / 'data',
        max_iters=iters,
        model=model,
        train_dataloader=train_loader,
        val_dataloader=val_loader,
        default_hooks=hooks,
        train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': iters, 'val_interval': max(iters // 8, 1)},
        custom_hooks=[{'type': 'Meter', 'every': max(iters // SAMPLES, 1)}],
    )
    train(config, work_dir=folder / 'work')
    return Meter.notes


def slowing(pixels, times):
    """Median time, or number of calls, of a step in the last quarter over that in the first; median over `BINS` bins of pixels."""
    pixels, times = np.array(pixels), np.array(times)
    quarter = len(pixels) // 4
    first, last = slice(None, quarter), slice(-quarter, None)
    edges = np.quantile(pixels, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, pixels)
    pairs = [(times[first][bins[first] == k], times[last][bins[last] == k]) for k in range(BINS)]
    return median(np.median(b) / np.median(a) for a, b in pairs if len(a) and len(b))


def figures(notes):
    """Figures of a run: the slowing of steps, and memory and files after a warm-up (a quarter), at the end, and their maxima.

    Values after the warm-up and at the end are medians over an eighth of the run, because memory depends on the size of a step.
    """
    count = len(notes['held'])
    early, late = notes['held'][count // 4 : count // 4 + count // 8], notes['held'][-(count // 8) :]
    found = {
        'iters': len(notes['pixels']),
        'sizes': len(set(map(tuple, notes['size']))),
        'cpu': slowing(notes['pixels'], notes['cpu']),
        'wall': slowing(notes['pixels'], notes['wall']),
        'calls': slowing(notes['pixels'], notes['calls']),
        'same': slowing([1] * len(notes['same']), notes['same']),
    }
    for name in SHOWN:
        values = [each[name] for each in notes['held']]
        found[name] = {
            'early': median(each[name] for each in early),
            'late': median(each[name] for each in late),
            'early most': max(values[: count // 2]),
            'late most': max(values[count // 2 :]),
        }
    return found


def page(found, command):
    lines = [
        '# Soak: a training of changing sizes',
        '',
        'Do memory, open files or the time of a step grow in a long training whose images change their size at every step?',
        '',
        '<!-- run by: tests/engine/test_soak.py::test_nothing_grows_in_a_long_training -->',
        '```bash',
        command,
        '```',
        '',
        f'{os.cpu_count()} processor cores, no GPU; torch {torch.__version__}, one thread. {found["iters"]} steps of one or two '
        f'images, {found["sizes"]} different sizes of batches, two data workers.',
        '',
        '| value | start of the second quarter | end | maximum of the first half | maximum of the second half |',
        '| --- | --- | --- | --- | --- |',
    ]
    for name, title in SHOWN.items():
        row = found[name]
        shown = (f'{row[key]:.1f}' if 'MiB' in title else f'{row[key]:g}' for key in ('early', 'late', 'early most', 'late most'))
        lines.append(f'| {title} | ' + ' | '.join(shown) + ' |')
    lines += [
        '',
        'The first two columns are medians over an eighth of the run. Memory of the workers includes pages that they share.',
        '',
        f'A step of the last quarter takes {found["cpu"]:.3f} times the CPU time of a step of the first quarter with about as many '
        f'pixels, and a constant piece of work {found["same"]:.3f} times: the ratio is {found["cpu"] / found["same"]:.3f}. '
        f'The wall-clock time changed by a factor of {found["wall"]:.3f}, on a machine with other processes. A step of the last '
        f'quarter makes {found["calls"]:.3f} times the function calls.',
    ]
    return '\n'.join(lines) + '\n'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iters', type=int, default=2000)
    parser.add_argument('--out', type=Path, help='also write the page to this file')
    parser.add_argument('--json', type=Path, help='also write figures and records to this file')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        notes = soak(Path(folder), args.iters)
    found = figures(notes)
    text = page(found, f'OMP_NUM_THREADS=1 python benchmarks/soak.py --iters {args.iters} --out soak_cpu.md')
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')
    if args.json:
        args.json.write_text(json.dumps({'figures': found, 'notes': notes}), encoding='utf-8')


if __name__ == '__main__':
    main()
