"""The targets of each suite, and whether they are reached."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmfreq.analysis.benchmark.cells import memory_ratio, pixels
from mmfreq.analysis.benchmark.results import GroupResult, Results, Run
from mmfreq.analysis.benchmark.subjects import THEIRS
from mmfreq.analysis.benchmark.timing import geometric_mean

LOWEST_SPEED = 1.0  # of ours, against the published formulation
KEPT = 0.5  # by memory_efficient, against the published formulation
LEVER_SPEED, LEVER_MEMORY = 1.1, 0.75  # against ours, somewhere: what a lever has to win to stay
GROWTH = 1.15  # of the time per pixel
# "near ConvFormer's, far better than attention's" has no numbers in the paper; these are ours
NEAR, FAR, HIGH_RESOLUTION = 1.25, 2.0, 1024
CONVOLUTION, ATTENTION = 'convformer_s18', 'caformer_s18'
CLAIMED = ('dfformer', 'cdfformer')  # families of which the paper claims it


@dataclass(frozen=True)
class Verdict:
    """A measured ratio beside its target, which it has to reach from below (`at_least`) or from above."""

    what: str
    value: float
    target: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        relation = 'at least' if self.at_least else 'at most'
        return f'{self.what}: {self.value:.2f}x, target {relation} {self.target:g}x: {"reached" if self.reached else "missed"}'


def verdicts(results: Results) -> list[Verdict]:
    """Those of the suite's targets that can be judged by what was measured."""
    judge = {'published': _published, 'growth': _growth}.get(results.settings.suite, _claims)
    return list(judge(results))


def _published(results: Results) -> Iterator[Verdict]:
    for size in results.settings.sizes:
        groups = [group for group in results.groups if group.baseline.entry.size == size]
        inference, training = ([g for g in groups if g.baseline.entry.mode == mode] for mode in ('inference', 'training'))
        at = f' at {pixels(size)}'
        yield from _mean_and_lowest(f'inference, ours{at}', _speeds(inference, 'ours'))
        yield from _mean_and_lowest(f'forward and backward, ours{at}', _speeds(training, 'ours'))
        if gains := _speeds(inference, 'optimized', over='ours'):
            name = max(gains, key=gains.get)
            yield Verdict(f'inference, optimized over ours{at}: highest ({name})', gains[name], LEVER_SPEED)
        kept = _kept(training, 'published')
        if kept:
            what = f'kept for backward by memory_efficient{at}: geometric mean of {len(kept)}'
            yield Verdict(what, geometric_mean(kept.values()), KEPT, at_least=False)
        if gains := _kept(training, 'ours'):
            name = min(gains, key=gains.get)
            what = f'kept for backward by memory_efficient over ours{at}: lowest ({name})'
            yield Verdict(what, gains[name], LEVER_MEMORY, at_least=False)


def _speeds(groups: list[GroupResult], form: str, over: str = 'published') -> dict[str, float]:
    """Of a form in float32 over another, by arch."""
    pairs = {group.baseline.entry.subject.name: (group, *(group.fastest('fp32', f) for f in (form, over))) for group in groups}
    speeds = {name: group.speed(run, base) for name, (group, run, base) in pairs.items() if run and base}
    return {name: speed.median for name, speed in speeds.items() if speed}


def _kept(groups: list[GroupResult], over: str) -> dict[str, float]:
    """Memory that `memory_efficient` keeps over that of another form, by arch."""
    found = {
        group.baseline.entry.subject.name: memory_ratio(
            group.fastest('fp32', 'memory_efficient'), group.fastest('fp32', over), 'kept'
        )
        for group in groups
    }
    return {name: ratio for name, ratio in found.items() if ratio}


def _mean_and_lowest(what: str, speeds: dict[str, float]) -> Iterator[Verdict]:
    if speeds:
        yield Verdict(f'{what}: geometric mean of {len(speeds)}', geometric_mean(speeds.values()), LOWEST_SPEED)
        name = min(speeds, key=speeds.get)
        yield Verdict(f'{what}: lowest ({name})', speeds[name], LOWEST_SPEED)


def _growth(results: Results) -> Iterator[Verdict]:
    for group in results.groups:
        speed = group.speed(group.runs[-1])
        if speed:
            sizes = ' to '.join(pixels(run.entry.size) for run in (group.baseline, group.runs[-1]))
            yield Verdict(f'{group.title}: time per pixel from {sizes}', 1 / speed.median, GROWTH, at_least=False)


def _claims(results: Results) -> Iterator[Verdict]:
    """The DFFormer paper's: throughput and memory near ConvFormer's, far better than CAFormer's at high resolution."""
    for group in results.groups:
        peers = {name: next(iter(group.pick(name)), None) for name in (CONVOLUTION, ATTENTION)}
        for run in group.runs:
            name, form = run.entry.subject.name, run.entry.subject.form
            if run.seconds and form not in THEIRS and name.startswith(CLAIMED):
                yield from _claims_of(group, run, f'{group.title}: {name}, {form}', **peers)


def _claims_of(group: GroupResult, run: Run, what: str, convformer_s18: Run | None, caformer_s18: Run | None) -> Iterator[Verdict]:
    kind = 'saved' if run.entry.mode == 'training' else 'peak'
    if convformer_s18:
        yield Verdict(f"{what}: speed over {CONVOLUTION}'s", group.speed(run, convformer_s18).median, 1 / NEAR)
        yield Verdict(f"{what}: {kind} memory over {CONVOLUTION}'s", memory_ratio(run, convformer_s18, kind), NEAR, at_least=False)
    if caformer_s18 and max(run.entry.size) >= HIGH_RESOLUTION:
        yield Verdict(f"{what}: speed over {ATTENTION}'s", group.speed(run, caformer_s18).median, FAR)
        yield Verdict(f"{what}: {kind} memory over {ATTENTION}'s", memory_ratio(run, caformer_s18, kind), 1 / FAR, at_least=False)
