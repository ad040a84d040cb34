"""The targets of each suite, and whether a measurement reaches them."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.harness.entries import EXTERNAL
from benchmarks.harness.measure import GroupResult, Results, Run
from benchmarks.harness.tables import memory_ratio, size_text
from benchmarks.harness.timing import geometric_mean

MIN_SPEED = 1.0  # of mmfreq, relative to the reference implementation
MAX_RETAINED = 0.5  # of memory_efficient, relative to the reference implementation
LEVER_SPEED, LEVER_MEMORY = 1.1, 0.75  # relative to the form mmfreq: what a lever has to reach for some arch to be kept
MAX_GROWTH = 1.15  # of the time per pixel
# The DFFormer paper claims "near ConvFormer's, far better than attention's" without numbers; these are chosen here.
NEAR_RATIO, FAR_RATIO, HIGH_RESOLUTION = 1.25, 2.0, 1024
CONVOLUTION, ATTENTION = 'convformer_s18', 'caformer_s18'
CLAIMED_FAMILIES = ('dfformer', 'cdfformer')  # families that the claim is about


@dataclass(frozen=True)
class Verdict:
    """A measured ratio and its target, which is a lower bound (`at_least`) or an upper bound."""

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
    """The targets of the suite that the measurements can decide."""
    decide = {'reference': _reference_targets, 'growth': _growth_targets}.get(results.settings.suite, _peer_targets)
    return list(decide(results))


def _reference_targets(results: Results) -> Iterator[Verdict]:
    for size in results.settings.sizes:
        groups = [group for group in results.groups if group.baseline.entry.size == size]
        inference, training = ([g for g in groups if g.baseline.entry.mode == mode] for mode in ('inference', 'training'))
        at = f' at {size_text(size)}'
        yield from _mean_and_lowest(f'inference, mmfreq{at}', _speeds(inference, 'mmfreq'))
        yield from _mean_and_lowest(f'forward and backward, mmfreq{at}', _speeds(training, 'mmfreq'))
        if gains := _speeds(inference, 'optimized', over='mmfreq'):
            name = max(gains, key=gains.get)
            yield Verdict(f'inference, optimized over mmfreq{at}: highest ({name})', gains[name], LEVER_SPEED)
        retained = _retained(training, 'reference')
        if retained:
            what = f'retained for backward by memory_efficient{at}: geometric mean of {len(retained)}'
            yield Verdict(what, geometric_mean(retained.values()), MAX_RETAINED, at_least=False)
        if gains := _retained(training, 'mmfreq'):
            name = min(gains, key=gains.get)
            what = f'retained for backward by memory_efficient over mmfreq{at}: lowest ({name})'
            yield Verdict(what, gains[name], LEVER_MEMORY, at_least=False)


def _speeds(groups: list[GroupResult], form: str, over: str = 'reference') -> dict[str, float]:
    """{arch: speed of a form in float32 relative to another}."""
    pairs = {group.baseline.entry.model.name: (group, *(group.fastest('fp32', f) for f in (form, over))) for group in groups}
    speeds = {name: group.speed(run, base) for name, (group, run, base) in pairs.items() if run and base}
    return {name: speed.median for name, speed in speeds.items() if speed}


def _retained(groups: list[GroupResult], over: str) -> dict[str, float]:
    """{arch: memory that `memory_efficient` retains, relative to another form}."""
    found = {
        group.baseline.entry.model.name: memory_ratio(
            group.fastest('fp32', 'memory_efficient'), group.fastest('fp32', over), 'retained'
        )
        for group in groups
    }
    return {name: ratio for name, ratio in found.items() if ratio}


def _mean_and_lowest(what: str, speeds: dict[str, float]) -> Iterator[Verdict]:
    if speeds:
        yield Verdict(f'{what}: geometric mean of {len(speeds)}', geometric_mean(speeds.values()), MIN_SPEED)
        name = min(speeds, key=speeds.get)
        yield Verdict(f'{what}: lowest ({name})', speeds[name], MIN_SPEED)


def _growth_targets(results: Results) -> Iterator[Verdict]:
    for group in results.groups:
        speed = group.speed(group.runs[-1])
        if speed and group.baseline.entry.model.form not in EXTERNAL:
            sizes = ' to '.join(size_text(run.entry.size) for run in (group.baseline, group.runs[-1]))
            yield Verdict(f'{group.title}: time per pixel from {sizes}', 1 / speed.median, MAX_GROWTH, at_least=False)


def _peer_targets(results: Results) -> Iterator[Verdict]:
    """The claims of the DFFormer paper: near ConvFormer's, far better than CAFormer's at high resolution."""
    for group in results.groups:
        peers = {name: next(iter(group.pick(name)), None) for name in (CONVOLUTION, ATTENTION)}
        for run in group.runs:
            name, form = run.entry.model.name, run.entry.model.form
            if run.seconds and form not in EXTERNAL and name.startswith(CLAIMED_FAMILIES):
                yield from _peer_targets_of(group, run, f'{group.title}: {name}, {form}', **peers)


def _peer_targets_of(
    group: GroupResult, run: Run, what: str, convformer_s18: Run | None, caformer_s18: Run | None
) -> Iterator[Verdict]:
    statistic = 'saved' if run.entry.mode == 'training' else 'peak'
    if convformer_s18:
        yield Verdict(f"{what}: speed over {CONVOLUTION}'s", group.speed(run, convformer_s18).median, 1 / NEAR_RATIO)
        yield Verdict(
            f"{what}: {statistic} memory over {CONVOLUTION}'s",
            memory_ratio(run, convformer_s18, statistic),
            NEAR_RATIO,
            at_least=False,
        )
    if caformer_s18 and max(run.entry.size) >= HIGH_RESOLUTION:
        yield Verdict(f"{what}: speed over {ATTENTION}'s", group.speed(run, caformer_s18).median, FAR_RATIO)
        yield Verdict(
            f"{what}: {statistic} memory over {ATTENTION}'s",
            memory_ratio(run, caformer_s18, statistic),
            1 / FAR_RATIO,
            at_least=False,
        )
