"""What each option for speed and memory gains: forms of a model in paired rounds, each in its own process.

    python benchmarks/levers.py --out docs/measurements/levers_cpu.md
    python benchmarks/levers.py --archs affnet --sizes 512 --modes inference --before ../old   # also mmfreq of another checkout

Forms: `reference` (the reference implementation in `benchmarks/reference`), `eager` (the model as it is built), `optimize`,
`memory_efficient`, `compile` (`torch.compile`), `compile_blocks`, `compile_optimized` (`torch.compile` of `optimize`),
`compile_frozen` (inductor's freezing: weights are constants), and `before`, the model of another checkout. timm's models have the
forms `eager` and `compile` only. Each round runs every form once, so that a slow moment of the machine affects all of them. Times
are medians over the rounds, as wall clock and as CPU seconds of the process; the speed of a form is the median of the ratios to
`reference` (`eager` for timm's models), round by round. `cold` is the time of the first call, before anything is compiled; `saved`
is the memory that is saved for backward. The memory allocator is the system's default.

Pages of 2026 call the forms `reference` and `eager` by their earlier names `published` and `plain`.
"""

import argparse
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet', 'gfnet-h-ti')
PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')  # of timm
FORMS = {
    'inference': ('reference', 'before', 'eager', 'optimize', 'compile', 'compile_blocks', 'compile_optimized', 'compile_frozen'),
    'training': ('reference', 'before', 'eager', 'memory_efficient', 'compile', 'compile_blocks'),
}


def build(form, arch, size, mode):
    import torch

    torch.manual_seed(0)
    if arch in PEERS:
        import timm

        model = timm.create_model(arch, features_only=True)
    else:
        import mmfreq

        model = mmfreq.build_backbone(arch, **({'memory_efficient': True} if form == 'memory_efficient' else {}))
    model = model.train(mode == 'training')
    if form == 'reference':
        sys.path.insert(0, str(ROOT))
        from benchmarks import reference

        model = reference.twin(model).train(mode == 'training')
    if form in ('optimize', 'compile_optimized'):
        model = mmfreq.optimize(model, size)
    if form in ('compile', 'compile_optimized'):
        model = torch.compile(model)
    if form == 'compile_frozen':
        model = torch.compile(model, options={'freezing': True})
    if form == 'compile_blocks':
        model = mmfreq.compile_blocks(model)
    return model


def serve(form, arch, size, mode, precision, threads):
    """Print the time of the first call and the saved memory; then, for each line read, wall and CPU seconds of a call."""
    import torch

    torch.set_num_threads(threads)
    model = build(form, arch, size, mode)
    x = torch.randn(1, 3, size, size)

    def forward():
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16'):
            return model(x)

    def call():
        wall, cpu = time.perf_counter(), time.process_time()
        if mode == 'inference':
            with torch.no_grad():
                forward()
        else:
            sum(out.float().mean() for out in forward()).backward()
            model.zero_grad()
        return time.perf_counter() - wall, time.process_time() - cpu

    cold, _ = call()
    saved = saved_bytes(forward, x, model) if mode == 'training' else 0
    call()
    print(json.dumps({'cold': cold, 'saved': saved}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(call()), flush=True)


def saved_bytes(forward, x, model):
    """Memory that a forward pass allocates and that is alive after it, without parameters and outputs."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    allocated = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in tree_leaves(out):
                if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes():
                    allocated[t.untyped_storage().data_ptr()] = StorageWeakRef(t.untyped_storage()), t.untyped_storage().nbytes()
            return out

    try:
        with Watch():
            outs = forward()
    except Exception:  # compiled code does not support dispatch modes
        return None
    gc.collect()
    others = {t.untyped_storage().data_ptr() for t in (x, *tree_leaves(outs), *model.parameters())}
    return sum(n for at, (storage, n) in allocated.items() if not storage.expired() and at not in others)


class Worker:
    """A process that runs one form."""

    def __init__(self, form, case, threads, before):
        root = before if form == 'before' else ROOT
        self.cache = tempfile.TemporaryDirectory()
        env = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': str(threads), 'TORCHINDUCTOR_CACHE_DIR': self.cache.name}
        command = [sys.executable, str(Path(__file__).resolve()), '--serve', json.dumps([form, *case, threads])]
        self.process = subprocess.Popen(command, env=env, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self.read()
        self.times = []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f'{self.process.args[-1]} failed with exit code {self.process.wait()}.')
        return json.loads(line)

    def turn(self):
        self.process.stdin.write('go\n')
        self.process.stdin.flush()
        self.times.append(self.read())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.cache.cleanup()


def measure(case, args):
    """{form: measurements} of one arch, size, mode and precision."""
    arch, _, mode, _ = case
    forms = [form for form in FORMS[mode] if form in args.forms and (form != 'before' or args.before)]
    if arch in PEERS:
        forms = [form for form in forms if form in ('eager', 'compile')]
    workers = {form: Worker(form, case, args.threads, args.before) for form in forms}
    for _ in range(args.rounds):
        for worker in workers.values():
            worker.turn()
    for worker in workers.values():
        worker.close()
    base = workers.get('reference') or next(iter(workers.values()))
    return {
        form: {
            **worker.facts,
            'wall': statistics.median(wall for wall, _ in worker.times),
            'cpu': statistics.median(cpu for _, cpu in worker.times),
            'wall_speed': statistics.median(b / w for (b, _), (w, _) in zip(base.times, worker.times)),
            'cpu_speed': statistics.median(b / w for (_, b), (_, w) in zip(base.times, worker.times)),
        }
        for form, worker in workers.items()
    }


def row(case, form, facts, base):
    saved = facts['saved'] and base['saved'] and f'{facts["saved"] / 2**20:.0f} MiB ({facts["saved"] / base["saved"]:.2f}x)'
    arch, size, mode, precision = case
    cells = (
        arch,
        size,
        mode,
        precision,
        form,
        f'{facts["wall"]:.3f} s',
        f'{facts["wall_speed"]:.2f}x',
        f'{facts["cpu_speed"]:.2f}x',
    )
    return '| ' + ' | '.join(map(str, (*cells, f'{facts["cold"]:.1f} s', saved or ''))) + ' |'


def summary(results, size, precision):
    """Speeds relative to the reference implementation, wall clock / CPU seconds, with a row per model; lines of Markdown."""
    archs = [arch for arch in dict.fromkeys(case[0] for case in results) if arch not in PEERS]
    columns = {}
    for mode in FORMS:
        found = {arch: results.get((arch, size, mode, precision), {}) for arch in archs}
        for form in FORMS[mode]:
            if form != 'reference' and all(form in each for each in found.values()):
                pairs = [(each[form]['wall_speed'], each[form]['cpu_speed']) for each in found.values()]
                columns[f'{mode}: `{form}`'] = with_mean(pairs, lambda pair: f'{pair[0]:.2f}x / {pair[1]:.2f}x')
            if mode == 'training' and all(each.get(form, {}).get('saved') for each in found.values()) and form != 'reference':
                shares = [(each[form]['saved'] / each['reference']['saved'],) for each in found.values()]
                columns[f'saved by `{form}`'] = with_mean(shares, lambda share: f'{share[0]:.2f}x')
    lines = [f'| {size}x{size}, {precision} | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    for i, name in enumerate([*archs, 'geometric mean']):
        lines.append(f'| {name} | ' + ' | '.join(cells[i] for cells in columns.values()) + ' |')
    return lines


def with_mean(rows, text):
    """Cells of tuples, and of their geometric mean."""
    return [text(row) for row in (*rows, tuple(map(statistics.geometric_mean, zip(*rows))))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--archs', nargs='+', default=(*ARCHS, *PEERS))
    parser.add_argument('--sizes', nargs='+', type=int, default=(224, 512))
    parser.add_argument('--modes', nargs='+', choices=FORMS, default=tuple(FORMS))
    parser.add_argument('--precisions', nargs='+', choices=('fp32', 'bf16'), default=('fp32',))
    all_forms = sorted({form for forms in FORMS.values() for form in forms})
    parser.add_argument('--forms', nargs='+', choices=all_forms, default=all_forms, help='ratios to `reference` or the first')
    parser.add_argument('--before', type=Path, help='checkout whose mmfreq is the form `before`')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, help='also write the page to this Markdown file')
    parser.add_argument('--serve', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(*json.loads(args.serve))
    import torch

    lines = [
        '# Gains of the options for speed and memory',
        '',
        f'`python benchmarks/levers.py {shlex.join(sys.argv[1:])}`',
        '',
        f'{date.today()}; {args.threads} threads of a CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}); '
        f'torch {torch.__version__}; batch of one; medians of {args.rounds} rounds; speeds are ratios to the first form of each.',
        '',
        '| model | side | mode | dtype | form | wall clock | speed | speed in CPU seconds | first call | saved for backward |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    print('\n'.join(lines), flush=True)
    results = {}
    for case in product(args.archs, args.sizes, args.modes, args.precisions):
        found = results[case] = measure(case, args)
        base = next(iter(found.values()))
        for form, facts in found.items():
            lines.append(row(case, form, facts, base))
            print(lines[-1], flush=True)
    if 'reference' in args.forms:
        caption = 'Speed relative to `reference`, wall clock / CPU seconds, and memory saved for backward relative to `reference`:'
        lines += ['', caption]
        for size, precision in product(args.sizes, args.precisions):
            lines += ['', *summary(results, size, precision)]
    if args.out:
        args.out.write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
