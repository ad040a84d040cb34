"""Measurements that need a GPU, in less than fifteen minutes; each part writes a page in Markdown.

    python benchmarks/gpu.py --out docs/measurements            # all parts except tune, the most important ones first
    python benchmarks/gpu.py --only spectral --sides 14 28
    python benchmarks/gpu.py --only tune --sides 28
    python benchmarks/gpu.py --device cpu --tiny                # a dry run, without the training of camvid

Parts:
  golden     distances from the golden numbers, one model per family
  training   training steps in bfloat16 autocast against the reference implementation, with memory
  inference  float32 and bfloat16 against the reference implementation
  camvid     mIoU of four families, 800 iterations each on CamVid at full size
  precision  errors of outputs in low precisions, one model per family
  spectral   the spectral operator, float32: backends and fused kernels against torch.fft and the bandwidth of a copy
  irfft2     how the device transforms spectra that are not Hermitian
  tune       launch parameters of the fused kernels, fastest first

Operators are checked before they are timed. Times are from paired rounds: each round runs every candidate once, and ratios are
computed round by round. What does not fit into --seconds is skipped and listed on the page. Kernels are compiled first, in
parallel.
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

from benchmarks.gpu_scores import GOLDEN, camvid, golden  # noqa: E402
from benchmarks.harness.page import command_words, markdown, sentence  # noqa: E402
from benchmarks.harness.tables import Table, error_text, ratio_text  # noqa: E402
from benchmarks.harness.targets import Verdict  # noqa: E402
from benchmarks.harness.timing import Spread, paired_rounds, ratios, seconds_per_call  # noqa: E402
from benchmarks.triton.triton_launch import Launch, cut_up, plan_launch, processors  # noqa: E402
from benchmarks.triton.triton_spectral import fused_filter, run_filter, run_gradients, supported  # noqa: E402
from mmfreq.analysis.latency import check_device, describe_hardware  # noqa: E402
from mmfreq.ops import apply_filter, half_width  # noqa: E402

ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet')
FAMILIES = ('hornet-tiny-gf', 'gfnet-h-ti', 'dfformer-s18', 'cdfformer-s18', 'affnet')
MICRO = ('hornet-micro', 'affnet-micro')
CAMVID = ('hornet-tiny-gf', 'gfnet-h-ti', 'dfformer-s18', 'affnet')  # their configs are in benchmarks/camvid
SIDES = (7, 14, 16, 28, 32, 56, 64, 128)
TRAINING_SPEED, SPECTRAL_SPEED, SHARE = 2.0, 2.0, 0.6  # targets: over the reference, over torch.fft, of a copy
MAX_ERROR = 1e-5  # relative error of an operator that is timed
COMPILE_SECONDS = 240  # limit


class Clock:
    """The remaining time; a unit of work starts only if one as long as the longest before would end in time."""

    def __init__(self, limit: float):
        self.end = time.monotonic() + limit
        self.skipped: list[str] = []

    @property
    def remaining(self) -> float:
        return self.end - time.monotonic()

    def fitting(self, units: Iterator, name: Callable = str) -> Iterator:
        """The units, while there is time."""
        longest = 0.0
        for unit in units:
            if self.remaining < 1.2 * longest or self.remaining <= 0:
                self.skipped.append(name(unit))
                continue
            start = time.monotonic()
            yield unit
            longest = max(longest, time.monotonic() - start)


def torch_fft(x, weight):
    """The operator as in the authors' code."""
    spec = torch.fft.rfft2(x, norm='ortho') * torch.view_as_complex(weight)
    return torch.fft.irfft2(spec, s=x.shape[-2:], norm='ortho')


def operators(x, weight) -> dict[str, Callable]:
    """{name: operator}; torch.fft is the first, the fused one is included only where it is supported."""
    found = {'torch.fft': torch_fft, 'fft': partial(apply_filter, backend='fft'), 'matmul': partial(apply_filter, backend='matmul')}
    return found | ({'fused': fused_filter} if supported(x, weight) else {})


def inputs(batch, channels, side, device, seed=0):
    """A map, a filter that is the spectrum of a real kernel, so that all operators agree on it, and a gradient."""
    generator = torch.Generator(device).manual_seed(seed)
    draw = partial(torch.randn, generator=generator, device=device)
    weight = torch.view_as_real(torch.fft.rfft2(draw(channels, side, side))).contiguous()
    return draw(batch, channels, side, side), weight, draw(batch, channels, side, side)


def forward_and_backward(operator, x, weight, grad):
    """Result and gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = operator(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad)


def is_correct(operator, channels, side, device) -> bool:
    """Whether result and gradients equal those of float64 on the CPU."""
    args = inputs(2, min(channels, 24), side, device)
    found = forward_and_backward(operator, *args)
    expected = forward_and_backward(torch_fft, *(each.double().cpu() for each in args))
    return all((a.double().cpu() - b).norm() <= MAX_ERROR * b.norm() for a, b in zip(found, expected))


def copy_rate(device, size) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / sorted(seconds_per_call(lambda: target.copy_(source), source.device, 5).wall for _ in range(7))[3]


def spectral_times(operators, batch, channels, side, args) -> dict[tuple[str, bool], list[float]]:
    """Seconds of every round, by operator name and whether with backward; inputs alternate, so that they are not in the cache."""
    size = batch * channels * side**2 * 4
    sets = [inputs(batch, channels, side, args.device, seed) for seed in range(max(1, min(128, args.bytes // size)))]
    calls = {}
    for (name, operator), backward in product(operators.items(), (False, True)):
        next_inputs = cycle(sets)
        if backward:
            calls[name, True] = lambda operator=operator, next_inputs=next_inputs: forward_and_backward(
                operator, *next(next_inputs)
            )
        else:
            calls[name, False] = lambda operator=operator, next_inputs=next_inputs: operator(*next(next_inputs)[:2])
    with torch.no_grad():
        forward = paired_rounds({key: call for key, call in calls.items() if not key[1]}, args.repeats, torch.device(args.device))
    return forward | paired_rounds({key: call for key, call in calls.items() if key[1]}, args.repeats, torch.device(args.device))


def spectral(args, clock) -> tuple[list, list]:
    """Tables and verdicts: maps that use the full memory bandwidth, and batches of eight."""
    compile_ahead(args, clock)
    rate = copy_rate(args.device, 4 * args.bytes)
    tables, verdicts = [], []
    for full in (True, False):
        rows, unit = [], f'maps of {args.bytes / 2**20:.3g} MiB' if full else 'batches of 8'
        for side in clock.fitting(args.sides, lambda side, unit=unit: f'{side}x{side}, {unit}'):
            batch = max(1, args.bytes // (4 * args.channels * side**2)) if full else 8
            candidates = operators(*inputs(1, args.channels, side, args.device)[:2])
            wrong = [name for name, operator in candidates.items() if not is_correct(operator, args.channels, side, args.device)]
            candidates = {name: operator for name, operator in candidates.items() if name not in wrong}
            verdicts += [f'{side}x{side}: {name} is wrong and was not timed' for name in wrong]
            found = spectral_times(candidates, batch, args.channels, side, args)
            row, row_verdicts = spectral_row(found, side, batch, args.channels, rate)
            rows.append(row)
            verdicts += row_verdicts if full and 'fused' in candidates else []
        names = ('torch.fft, ms', 'fft: speed', 'matmul: speed', 'fused: speed')
        columns = [f'{name}{suffix}' for suffix in ('', ', with backward') for name in names]
        shares = ['share of a copy: torch.fft', 'fused', 'fused, with backward']
        tables.append(Table(f'{args.channels} channels, {unit}', ('grid', 'batch', *columns, *shares), tuple(rows)))
    tables.append(Table('copy', ('bandwidth of a copy, GB/s',), ((f'{rate / 1e9:.0f}',),)))
    return tables, verdicts


def spectral_row(found: Mapping, side, batch, channels, rate) -> tuple[tuple[str, ...], list]:
    """Cells and verdicts of one grid."""
    grid, cells, verdicts = f'{side}x{side}', [], []
    for backward in (False, True):
        base = found.get(('torch.fft', backward))
        cells.append(f'{1e3 * Spread.of(base).median:.3g}' if base else '-')
        for name in ('fft', 'matmul', 'fused'):
            other = found.get((name, backward))
            cells.append(ratio_text(ratios(base, other)) if base and other else '-')
            if name == 'fused' and base and other:
                title = f'{grid}, {"forward and backward" if backward else "forward"}: fused over torch.fft'
                verdicts.append(Verdict(title, ratios(base, other).median, SPECTRAL_SPEED))
    pixels, filter_size = 4 * batch * channels * side**2, 8 * channels * side * half_width(side)
    moved = {False: 2 * pixels + filter_size, True: 5 * pixels + 3 * filter_size}  # bytes, if each tensor is read or written once
    for name, backward in (('torch.fft', False), ('fused', False), ('fused', True)):
        found_seconds = found.get((name, backward))
        share = moved[backward] / Spread.of(found_seconds).median / rate if found_seconds else None
        cells.append(f'{100 * share:.0f} %' if share else '-')
        if share and name == 'fused' and not backward:
            reached = 'reached' if share >= SHARE else 'missed'
            verdicts.append(f"{grid}: {100 * share:.0f} % of a copy's bandwidth, target {100 * SHARE:.0f} %: {reached}")
    return (grid, str(batch), *cells), verdicts


def compile_ahead(args, clock) -> None:
    """Compile the kernels of all grids for a GPU in parallel processes, and wait for them."""
    if torch.device(args.device).type == 'cpu' or clock.remaining <= 0:
        return
    command = [sys.executable, __file__, '--compile', '--device', args.device, '--channels', str(args.channels)]
    running = [subprocess.Popen([*command, '--bytes', str(args.bytes), '--sides', str(side)]) for side in args.sides]
    end = time.monotonic() + min(COMPILE_SECONDS, clock.remaining)
    for process in running:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def compile_here(args) -> None:
    """Run each kernel that will be timed once; Triton caches compiled kernels on disk."""
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
    """Measure the reference implementation and mmfreq in each precision."""
    from benchmarks.harness.entries import Entry, Group, conversions
    from benchmarks.harness.measure import measure_group
    from benchmarks.harness.suites import Settings
    from benchmarks.models import model_sources

    model = model_sources().model
    options = {'size': (args.size, args.size), 'mode': mode, 'batch': args.batch}
    entries = [
        Entry(model(arch, form), precision=precision, conversion=conversions(precision, mode)[0], **options)
        for precision, form in product(precisions, ('reference', *forms))
    ]
    settings = Settings(repeats=args.repeats, device=args.device, min_seconds=args.min_seconds)
    return measure_group(Group(f'{arch}, {mode}', tuple(entries)), settings, torch.device(args.device), {})


def against_reference(args, clock, mode, precisions) -> tuple[list, list]:
    """mmfreq relative to the reference implementation in the same precision, arch by arch."""
    rows, verdicts = [], []
    for arch in clock.fitting(args.archs, lambda arch: f'{arch}, {mode}'):
        group = group_of(args, arch, mode, precisions, args.forms)
        for precision, form in product(precisions, args.forms):
            base, run = (next(iter(group.pick(form=each, precision=precision)), None) for each in ('reference', form))
            if not (base and run):
                verdicts += [f'{each.entry.label}: not measured, {each.failure}' for each in group.runs if each.failure]
                continue
            speed = group.speed(run, base)
            peaks = [each.memory.peak / 2**20 for each in (base, run)]
            cells = (f'{1e3 * base.spread.median:.4g}', f'{1e3 * run.spread.median:.4g}', ratio_text(speed))
            memory = (f'{peaks[0]:.0f}', f'{peaks[1]:.0f}', f'{peaks[1] / peaks[0]:.2f}x' if peaks[0] else '-')
            rows.append((arch, form, precision, *cells, *memory, error_text(run.error), error_text(base.error)))
            if mode == 'training' and precision == 'bf16':
                verdicts.append(Verdict(f'{arch}, {form}, training step in bfloat16', speed.median, TRAINING_SPEED))
    header = ('arch', 'form', 'precision', 'reference, ms', 'mmfreq, ms', 'speed', 'peak: reference, MiB', 'mmfreq, MiB', 'ratio')
    title = f'{mode}, batch {args.batch}, {args.size}x{args.size}; errors are relative to the reference in float32 on a CPU'
    return [Table(title, (*header, 'error: mmfreq', 'reference'), tuple(rows))], list(dict.fromkeys(verdicts))


def training(args, clock):
    """Forward and backward; float32 is measured for the errors."""
    return against_reference(args, clock, 'training', ('fp32', 'bf16'))


def inference(args, clock):
    """Forward only."""
    return against_reference(args, clock, 'inference', ('fp32', 'bf16'))


def precision(args, clock) -> tuple[list, list]:
    """Relative errors of outputs, of the worst stage, against the reference implementation in float32 on a CPU."""
    from benchmarks.harness.entries import Call, Entry, build_model, conversions, random_images
    from benchmarks.harness.references import OutputsDifferError, ReferenceModels
    from benchmarks.models import model_sources

    size, rows, notes = min(args.size, 224), [], []
    precisions = ('fp32', 'tf32', 'bf16', 'fp16') if torch.device(args.device).type == 'cuda' else ('fp32', 'bf16', 'fp16')
    columns = [(name, conversion) for name in precisions for conversion in conversions(name, 'inference')]
    for arch in clock.fitting(args.families):
        base, model = (model_sources().model(arch, form) for form in ('reference', 'mmfreq'))
        references = ReferenceModels([Entry(base, (size, size), 'inference', 'fp32')])
        cells = []
        for name, conversion in columns:
            entry = Entry(model, (size, size), 'inference', name, conversion)
            try:
                call = Call(build_model(entry, args.device), random_images(entry.size, 1).to(args.device), entry)
                cells.append(error_text(references.errors(call)[0]))
            except (RuntimeError, OutputsDifferError) as reason:
                cells.append('-')
                notes.append(f'{entry.label}: {str(reason).splitlines()[0]}')
        rows.append((arch, *cells))
    header = ('arch', *(', '.join(filter(None, column)) for column in columns))
    return [Table(f'relative error of outputs, {size}x{size}', header, tuple(rows))], notes


def tune(args, clock) -> tuple[list, list]:
    """Launch parameters of the fused kernels, relative to the planned ones."""
    compile_ahead(args, clock)
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
            if clock.remaining > 60 and works(call):
                calls[launch] = call
        found = paired_rounds(calls, args.repeats, x.device)
        speeds = {launch: ratios(found[planned], taken) for launch, taken in found.items()}
        fastest = sorted(speeds, key=lambda launch: -speeds[launch].median)[:8]
        rows = [(*map(str, launch), ratio_text(speeds[launch]), 'planned' * (launch == planned)) for launch in fastest]
        part = 'gradients' if backward else 'forward'
        title = f'{side}x{side}, {part}, {1e3 * Spread.of(found[planned]).median:.3g} ms as planned'
        tables.append(Table(title, (*Launch._fields, 'speed', ''), tuple(rows)))
    return tables, []


def launches(planned: Launch, batch: int) -> Iterator[Launch]:
    """Launches that differ from the planned one in one parameter, each with several numbers of registers."""
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
    """Whether the launch works; it may need more shared memory than the GPU has."""
    try:
        call()
    except Exception as reason:  # the types depend on the version of Triton
        print(f'skipped: {type(reason).__name__}')
        return False
    return True


METHOD = (
    ' Times are from paired rounds; ratios are computed round by round: median [quartiles], above 1 is faster. A training step is '
    'forward and backward. A share of a copy counts each tensor once, as read or written, relative to the bandwidth of a copy in '
    'the same run.'
)
# name: (title, function, how times are taken)
PARTS = {
    'golden': ('Distances from the golden numbers', golden, ''),
    'training': ('Training steps against the reference implementation', training, METHOD),
    'inference': ('Inference against the reference implementation', inference, METHOD),
    'camvid': ('CamVid at full size', camvid, ''),
    'precision': ('Outputs in low precisions', precision, ''),
    'spectral': ('The spectral operator alone', spectral, METHOD),
    'irfft2': ('Inverse FFT of non-Hermitian spectra', irfft2, ''),
    'tune': ('Launch parameters of the fused kernels', tune, METHOD),
}
DRY_RUN = 'A dry run with small models and sizes: it shows that the program works and is not a measurement.'


def page(title, command, description, tables, verdicts, skipped) -> str:
    """The page in Markdown; a table may already be text."""
    parts = [f'# {title}', f'```bash\n{command}\n```', *[DRY_RUN] * ('--tiny' in command), f'{date.today()}. {description}']
    for table in tables:
        parts += [table] if isinstance(table, str) else [f'**{table.title}**', markdown(table)]
    parts += ['\n'.join(f'- {verdict}' for verdict in verdicts)] * bool(verdicts)
    parts += [f'Skipped, because the time was up: {"; ".join(skipped)}.'] * bool(skipped)
    return '\n\n'.join(parts) + '\n'


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=PARTS, help='default: all but tune')
    parser.add_argument('--seconds', type=float, default=840, help='time limit of the whole run (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='folder for the pages')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--archs', nargs='+', default=ARCHS)
    parser.add_argument('--families', nargs='+', default=FAMILIES, help='archs of the part precision')
    parser.add_argument('--golden', nargs='+', choices=GOLDEN, default=tuple(GOLDEN), help='archs of the part golden')
    configs = [ROOT / f'benchmarks/camvid/{arch}_upernet_1xb8-800_camvid-360x480.py' for arch in CAMVID]
    parser.add_argument('--configs', nargs='+', type=Path, default=configs, help='of the part camvid, with one recipe')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='of the part camvid (default: 0)')
    parser.add_argument('--data', default='data/camvid', help='data root of the part camvid (default: %(default)s)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/gpu_camvid'), help='for the runs of the part camvid')
    parser.add_argument('--forms', nargs='+', default=('mmfreq',), help='mmfreq, compiled (default: mmfreq)')
    parser.add_argument('--sides', nargs='+', type=int, default=SIDES, help='sides of the grids of the spectral operator')
    parser.add_argument('--channels', type=int, default=256)
    parser.add_argument(
        '--bytes', type=int, default=2**28, help='size of a map that uses the full bandwidth (default: %(default)s)'
    )
    parser.add_argument('--size', type=int, default=512, help='side of the images')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=10, help='number of rounds')
    parser.add_argument('--tiny', action='store_true', help='small models and sizes, for a dry run')
    parser.add_argument('--compile', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.min_seconds = 0.2
    args.only = args.only or [part for part in PARTS if part != 'tune' and not (args.tiny and part == 'camvid')]
    if args.tiny:
        small = dict(
            archs=MICRO,
            families=MICRO,
            golden=('affnet-et',),
            sides=(7, 8),
            channels=4,
            bytes=2**14,
            size=64,
            batch=1,
            repeats=2,
            min_seconds=0,
        )
        vars(args).update(small)
    return args


def main(argv=None):
    args = parse_args(argv)
    check_device(args.device)
    if args.compile:
        return compile_here(args)
    clock = Clock(args.seconds)
    command = command_words('benchmarks/gpu.py', sys.argv[1:] if argv is None else argv)
    hardware = sentence(describe_hardware(args.device, torch.get_num_threads()))
    for name in args.only:
        title, part, method = PARTS[name]
        clock.skipped, start = [], time.monotonic()
        text = page(title, command, f'{hardware}.{method}', *part(args, clock), clock.skipped)
        print(f'{text}\n({name}: {time.monotonic() - start:.0f} s, {clock.remaining:.0f} s left)\n', flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f'gpu_{name}.md').write_text(text, encoding='utf-8')
    return None


if __name__ == '__main__':
    main()
