"""All questions about speed on a GPU, answered on one in less than fifteen minutes; a page of Markdown for each.

    python benchmarks/gpu.py --out docs/measurements            # everything
    python benchmarks/gpu.py --only spectral --sides 14 28
    python benchmarks/gpu.py --only tune --sides 28             # how the fused kernels should be launched: not in everything
    python benchmarks/gpu.py --device cpu --tiny                # a dry run

Parts:
  spectral   the spectral operator alone, float32: ours and the fused kernels against torch.fft and the bandwidth of a copy
  irfft2     what the device makes of spectra that are not Hermitian
  precision  how far outputs in low precisions are off, a model of each family
  training   steps in bfloat16 by autocast against the published formulation, and their memory
  inference  float32 and bfloat16 against the published formulation
  tune       launches of the fused kernels, fastest first

What is timed is checked first. Times are of paired rounds: every candidate once in each, ratios round by round. What does not fit
into --seconds is left out, and the page says so. Kernels are compiled in the beginning, all at once.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import partial
from itertools import cycle, product
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.harness.tables import (  # noqa: E402  # noqa: E402
    Table,
    Verdict,
    command_words,
    error,
    markdown,
    times,
)
from benchmarks.harness.timing import Spread, paired_rounds, ratios, seconds  # noqa: E402
from benchmarks.triton.triton_launch import Launch, cut_up, plan_launch, processors  # noqa: E402
from benchmarks.triton.triton_spectral import fused_filter, run_filter, run_gradients, supported  # noqa: E402
from mmfreq.analysis.latency import check_device, describe_hardware  # noqa: E402
from mmfreq.ops import apply_filter, half_width  # noqa: E402

ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet')
FAMILIES = ('hornet-tiny-gf', 'gfnet-h-ti', 'dfformer-s18', 'cdfformer-s18', 'affnet')
MICRO = ('hornet-micro', 'affnet-micro')
SIDES = (7, 14, 16, 28, 32, 56, 64, 128)
TRAINING_SPEED, SPECTRAL_SPEED, SHARE = 2.0, 2.0, 0.6  # targets: over the published formulation, over torch.fft, of a copy
CHECKED = 1e-5  # largest relative error of an operator that is timed
COMPILED_IN = 240  # seconds


class Clock:
    """What is left of the time that was given; a unit of work is begun if it will end in time, if it takes as long as its like."""

    def __init__(self, limit: float):
        self.end = time.monotonic() + limit
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def fitting(self, units: Iterator, name: Callable = str) -> Iterator:
        """The units, as long as there is time."""
        longest = 0.0
        for unit in units:
            if self.left < 1.2 * longest or self.left <= 0:
                self.left_out.append(name(unit))
                continue
            start = time.monotonic()
            yield unit
            longest = max(longest, time.monotonic() - start)


def plain(x, weight):
    """The operator as it is published."""
    spec = torch.fft.rfft2(x, norm='ortho') * torch.view_as_complex(weight)
    return torch.fft.irfft2(spec, s=x.shape[-2:], norm='ortho')


def operators(x, weight) -> dict[str, Callable]:
    """By name; torch.fft is the first, the fused one only where it can be run."""
    found = {'torch.fft': plain, 'fft': partial(apply_filter, backend='fft'), 'matmul': partial(apply_filter, backend='matmul')}
    return found | ({'fused': fused_filter} if supported(x, weight) else {})


def inputs(batch, channels, side, device, seed=0):
    """A map, a filter that is the spectrum of a kernel, so that all agree on it, and a gradient."""
    generator = torch.Generator(device).manual_seed(seed)
    draw = partial(torch.randn, generator=generator, device=device)
    weight = torch.view_as_real(torch.fft.rfft2(draw(channels, side, side))).contiguous()
    return draw(batch, channels, side, side), weight, draw(batch, channels, side, side)


def forward_and_backward(operator, x, weight, grad):
    """Result and gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = operator(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad)


def checked(operator, channels, side, device) -> bool:
    """Whether result and gradients are those of float64 on the CPU."""
    args = inputs(2, min(channels, 24), side, device)
    got = forward_and_backward(operator, *args)
    want = forward_and_backward(plain, *(each.double().cpu() for each in args))
    return all((a.double().cpu() - b).norm() <= CHECKED * b.norm() for a, b in zip(got, want))


def copy_rate(device, size) -> float:
    """Bytes per second of a copy on the device, read and written."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / sorted(seconds(lambda: target.copy_(source), source.device, 5) for _ in range(7))[3]


def spectral_times(operators, batch, channels, side, args) -> dict[tuple[str, bool], list[float]]:
    """Seconds of every round, by the operator's name and whether with backward; inputs change, so that none waits in the cache."""
    size = batch * channels * side**2 * 4
    sets = [inputs(batch, channels, side, args.device, seed) for seed in range(max(1, min(128, args.bytes // size)))]
    calls = {}
    for (name, operator), backward in product(operators.items(), (False, True)):
        turn = cycle(sets)
        if backward:
            calls[name, True] = lambda operator=operator, turn=turn: forward_and_backward(operator, *next(turn))
        else:
            calls[name, False] = lambda operator=operator, turn=turn: operator(*next(turn)[:2])
    with torch.no_grad():
        forward = paired_rounds({key: call for key, call in calls.items() if not key[1]}, args.repeats, torch.device(args.device))
    return forward | paired_rounds({key: call for key, call in calls.items() if key[1]}, args.repeats, torch.device(args.device))


def spectral(args, clock) -> tuple[list, list]:
    """Tables and verdicts: maps that fill the memory's bandwidth, and batches of eight."""
    rate = copy_rate(args.device, 4 * args.bytes)
    tables, verdicts = [], []
    for full in (True, False):
        rows, unit = [], f'maps of {args.bytes / 2**20:.3g} MiB' if full else 'batches of 8'
        for side in clock.fitting(args.sides, lambda side, unit=unit: f'{side}x{side}, {unit}'):
            batch = max(1, args.bytes // (4 * args.channels * side**2)) if full else 8
            candidates = operators(*inputs(1, args.channels, side, args.device)[:2])
            wrong = [name for name, operator in candidates.items() if not checked(operator, args.channels, side, args.device)]
            candidates = {name: operator for name, operator in candidates.items() if name not in wrong}
            verdicts += [f'{side}x{side}: {name} is wrong and was not timed' for name in wrong]
            found = spectral_times(candidates, batch, args.channels, side, args)
            row, said = spectral_row(found, side, batch, args.channels, rate)
            rows.append(row)
            verdicts += said if full and 'fused' in candidates else []
        names = ('torch.fft, ms', 'fft: speed', 'matmul: speed', 'fused: speed')
        columns = [f'{name}{what}' for what in ('', ', with backward') for name in names]
        shares = ['share of a copy: torch.fft', 'fused', 'fused, with backward']
        tables.append(Table(f'{args.channels} channels, {unit}', ('grid', 'batch', *columns, *shares), tuple(rows)))
    tables.append(Table('copy', ('bandwidth of a copy, GB/s',), ((f'{rate / 1e9:.0f}',),)))
    return tables, verdicts


def spectral_row(found: Mapping, side, batch, channels, rate) -> tuple[tuple[str, ...], list]:
    """Cells and verdicts of a grid."""
    grid, cells, verdicts = f'{side}x{side}', [], []
    for backward in (False, True):
        base = found.get(('torch.fft', backward))
        cells.append(f'{1e3 * Spread.of(base).median:.3g}' if base else '-')
        for name in ('fft', 'matmul', 'fused'):
            other = found.get((name, backward))
            cells.append(times(ratios(base, other)) if base and other else '-')
            if name == 'fused' and base and other:
                what = f'{grid}, {"forward and backward" if backward else "forward"}: fused over torch.fft'
                verdicts.append(Verdict(what, ratios(base, other).median, SPECTRAL_SPEED))
    pixels, filter_size = 4 * batch * channels * side**2, 8 * channels * side * half_width(side)
    moved = {False: 2 * pixels + filter_size, True: 5 * pixels + 3 * filter_size}  # each tensor read or written once
    for name, backward in (('torch.fft', False), ('fused', False), ('fused', True)):
        times_of = found.get((name, backward))
        share = moved[backward] / Spread.of(times_of).median / rate if times_of else None
        cells.append(f'{100 * share:.0f} %' if share else '-')
        if share and name == 'fused' and not backward:
            reached = 'reached' if share >= SHARE else 'missed'
            verdicts.append(f"{grid}: {100 * share:.0f} % of a copy's bandwidth, target {100 * SHARE:.0f} %: {reached}")
    return (grid, str(batch), *cells), verdicts


def compile_ahead(args) -> None:
    """Have the kernels of all grids compiled by processes of their own, and wait for them."""
    command = [sys.executable, __file__, '--compile', '--device', args.device, '--channels', str(args.channels)]
    running = [subprocess.Popen([*command, '--bytes', str(args.bytes), '--sides', str(side)]) for side in args.sides]
    end = time.monotonic() + COMPILED_IN
    for process in running:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def compile_here(args) -> None:
    """Run what will be timed once; Triton keeps the compiled kernels on disk."""
    for side in args.sides:
        full = max(1, args.bytes // (4 * args.channels * side**2))
        for batch, channels in ((2, min(args.channels, 24)), (8, args.channels), (full, args.channels)):
            x, weight, grad = inputs(batch, channels, side, args.device)
            if supported(x, weight):
                forward_and_backward(fused_filter, x, weight, grad)


def irfft2(args, clock) -> tuple[list, list]:
    """The table of `irfft2_on_devices.py`."""
    from benchmarks.irfft2_on_devices import table

    return [table(args.device)], []


def group_of(args, arch, mode, precisions, forms):
    """The published formulation and ours in each precision, and what came of measuring them."""
    from benchmarks.harness.entries import Entry, Group, Settings, ways
    from benchmarks.harness.measure import measure_group
    from benchmarks.models import makers

    subject = makers().subject
    where = {'size': (args.size, args.size), 'mode': mode, 'batch': args.batch}
    entries = [
        Entry(subject(arch, form), precision=precision, way=ways(precision, mode)[0], **where)
        for precision, form in product(precisions, ('published', *forms))
    ]
    settings = Settings(repeats=args.repeats, device=args.device, at_least=args.at_least)
    return measure_group(Group(f'{arch}, {mode}', tuple(entries)), settings, torch.device(args.device), {})


def against_published(args, clock, mode, precisions) -> tuple[list, list]:
    """Ours over the published formulation in the same precision, arch by arch."""
    rows, verdicts = [], []
    for arch in clock.fitting(args.archs, lambda arch: f'{arch}, {mode}'):
        group = group_of(args, arch, mode, precisions, args.forms)
        for precision, form in product(precisions, args.forms):
            theirs, ours = (next(iter(group.pick(form=each, precision=precision)), None) for each in ('published', form))
            if not (theirs and ours):
                verdicts += [f'{run.entry.label}: not measured, {run.trouble}' for run in group.runs if run.trouble]
                continue
            speed = group.speed(ours, theirs)
            peaks = [run.memory.peak / 2**20 for run in (theirs, ours)]
            cells = (f'{1e3 * theirs.spread.median:.4g}', f'{1e3 * ours.spread.median:.4g}', times(speed))
            memory = (f'{peaks[0]:.0f}', f'{peaks[1]:.0f}', f'{peaks[1] / peaks[0]:.2f}x' if peaks[0] else '-')
            rows.append((arch, form, precision, *cells, *memory, error(ours.error), error(theirs.error)))
            if mode == 'training' and precision == 'bf16':
                verdicts.append(Verdict(f'{arch}, {form}, training step in bfloat16', speed.median, TRAINING_SPEED))
    header = ('arch', 'form', 'precision', 'published, ms', 'ours, ms', 'speed', 'peak: published, MiB', 'ours, MiB', 'ratio')
    title = (
        f'{mode}, batch {args.batch}, {args.size}x{args.size}; errors are relative to the published formulation in float32 on a CPU'
    )
    return [Table(title, (*header, 'error: ours', 'published'), tuple(rows))], list(dict.fromkeys(verdicts))


def training(args, clock):
    """Forward and backward; float32 is there for the errors."""
    return against_published(args, clock, 'training', ('fp32', 'bf16'))


def inference(args, clock):
    """Forward alone."""
    return against_published(args, clock, 'inference', ('fp32', 'bf16'))


def precision(args, clock) -> tuple[list, list]:
    """Relative errors of outputs, of the worst stage, against the published formulation in float32 on a CPU."""
    from benchmarks.harness.entries import Call, Entry, images_of, made, ways
    from benchmarks.harness.measure import OutputsDifferError, References
    from benchmarks.models import makers

    size, rows, said = min(args.size, 224), [], []
    kinds = [kind for kind in ('fp32', 'tf32', 'bf16', 'fp16') if kind != 'tf32' or torch.device(args.device).type == 'cuda']
    columns = [(kind, way) for kind in kinds for way in ways(kind, 'inference')]
    for arch in clock.fitting(args.families):
        subjects = [makers().subject(arch, form) for form in ('published', 'ours')]
        references = References([Entry(subjects[0], (size, size), 'inference', 'fp32')])
        cells = []
        for kind, way in columns:
            entry = Entry(subjects[1], (size, size), 'inference', kind, way)
            try:
                call = Call(made(entry, args.device), images_of(entry.size, 1).to(args.device), entry)
                cells.append(error(references.errors(call)[0]))
            except (RuntimeError, OutputsDifferError) as reason:
                cells.append('-')
                said.append(f'{entry.label}: {str(reason).splitlines()[0]}')
        rows.append((arch, *cells))
    header = ('arch', *(', '.join(filter(None, column)) for column in columns))
    return [Table(f'relative error of outputs, {size}x{size}', header, tuple(rows))], said


def tune(args, clock) -> tuple[list, list]:
    """Other launches of the fused kernels, relative to the planned one."""
    tables = []
    for side, backward in clock.fitting(list(product(args.sides, (False, True))), lambda unit: f'{unit[0]}x{unit[0]}'):
        x, weight, grad = inputs(max(1, args.bytes // (4 * args.channels * side**2)), args.channels, side, args.device)
        if not supported(x, weight):
            continue
        run = partial(run_gradients, x, grad, weight, (2, 3)) if backward else partial(run_filter, x, weight, (2, 3))
        cut = cut_up(*x.shape)
        planned = plan_launch(cut, True, backward, processors(x.device))
        calls = {planned: partial(run, launch=planned)}
        for launch in launches(planned, cut.batch):
            call = partial(run, launch=launch)
            if clock.left > 60 and works(call):
                calls[launch] = call
        found = paired_rounds(calls, args.repeats, x.device)
        speeds = {launch: ratios(found[planned], taken) for launch, taken in found.items()}
        fastest = sorted(speeds, key=lambda launch: -speeds[launch].median)[:8]
        rows = [(*map(str, launch), times(speeds[launch]), 'planned' * (launch == planned)) for launch in fastest]
        what = (
            f'{side}x{side}, {"gradients" if backward else "forward"}, {1e3 * Spread.of(found[planned]).median:.3g} ms as planned'
        )
        tables.append(Table(what, (*Launch._fields, 'speed', ''), tuple(rows)))
    return tables, []


def launches(planned: Launch, batch: int) -> Iterator[Launch]:
    """One thing changed at a time, and registers with all."""
    for registers in (96, 128, 168, 255):
        base = planned._replace(registers=registers)
        yield base
        yield base._replace(stages=3 - base.stages)
        for tiles in (1, 2, 4):
            yield base._replace(tiles=tiles, warps=max(1, planned.warps * tiles // planned.tiles))
        for samples in (planned.samples // 2, planned.samples * 2):
            yield base._replace(samples=max(1, min(batch, samples)))
    yield planned._replace(warps=2 * planned.warps)
    yield planned._replace(precision='tf32')
    yield planned._replace(precision='ieee')


def works(call) -> bool:
    """A launch may want more shared memory than there is."""
    try:
        call()
    except Exception as reason:  # Triton's own, by version
        print(f'left out: {type(reason).__name__}')
        return False
    return True


PARTS = {
    'spectral': ('The spectral operator alone', spectral),
    'irfft2': ('Inverse FFT of non-Hermitian spectra', irfft2),
    'precision': ('Outputs in low precisions', precision),
    'training': ('Training steps against the published formulation', training),
    'inference': ('Inference against the published formulation', inference),
    'tune': ('Launches of the fused kernels', tune),
}
MEANINGS = (
    'Paired rounds; ratios are taken round by round: median [quartiles], above 1 is faster. A training step is forward and '
    'backward. A share of a copy counts each tensor once, as read or as written, over the bandwidth of a copy measured in the same '
    'run.'
)


DRY = 'A dry run with small models and sizes: it shows that the program works; its numbers are no measurement.'


def page(title, command, machine, tables, verdicts, left_out) -> str:
    """Markdown; a table may be text already."""
    parts = [f'# {title}', f'```bash\n{command}\n```', *[DRY] * ('--tiny' in command), f'{date.today()}. {machine}. {MEANINGS}']
    for table in tables:
        parts += [table] if isinstance(table, str) else [f'**{table.title}**', markdown(table)]
    parts += ['\n'.join(f'- {verdict}' for verdict in verdicts)] * bool(verdicts)
    parts += [f'Left out, since the time was up: {"; ".join(left_out)}.'] * bool(left_out)
    return '\n\n'.join(parts) + '\n'


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=PARTS, default=[part for part in PARTS if part != 'tune'])
    parser.add_argument('--seconds', type=float, default=840, help='for everything (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='folder for the pages')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--archs', nargs='+', default=ARCHS)
    parser.add_argument('--families', nargs='+', default=FAMILIES, help='archs of the part precision')
    parser.add_argument('--forms', nargs='+', default=('ours',), help='ours, compiled')
    parser.add_argument('--sides', nargs='+', type=int, default=SIDES, help='of the grids of the spectral operator')
    parser.add_argument('--channels', type=int, default=256)
    parser.add_argument('--bytes', type=int, default=2**28, help='of a map that fills the bandwidth (default: %(default)s)')
    parser.add_argument('--size', type=int, default=512, help='of an image')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=10, help='rounds')
    parser.add_argument('--tiny', action='store_true', help='small models and sizes: shows that it runs')
    parser.add_argument('--compile', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.at_least = 0.2
    if args.tiny:
        small = dict(archs=MICRO, families=MICRO, sides=(7, 8), channels=4, bytes=2**14, size=64, batch=1, repeats=2, at_least=0)
        vars(args).update(small)
    return args


def main(argv=None):
    args = parse_args(argv)
    check_device(args.device)
    if args.compile:
        return compile_here(args)
    clock = Clock(args.seconds)
    if args.device != 'cpu' and {'spectral', 'tune'} & set(args.only):
        compile_ahead(args)
    command = command_words('benchmarks/gpu.py', sys.argv[1:] if argv is None else argv)
    machine = describe_hardware(args.device, torch.get_num_threads())
    for name in args.only:
        title, part = PARTS[name]
        clock.left_out, start = [], time.monotonic()
        text = page(title, command, machine[0].upper() + machine[1:], *part(args, clock), clock.left_out)
        print(f'{text}\n({name}: {time.monotonic() - start:.0f} s, {clock.left:.0f} s left)\n', flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f'gpu_{name}.md').write_text(text, encoding='utf-8')
    return None


if __name__ == '__main__':
    main()
