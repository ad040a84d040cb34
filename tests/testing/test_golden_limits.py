"""The limits of the golden tests have a margin above the measured distances and stay below what the project promises."""

import re
from pathlib import Path

import pytest

from mmfreq.testing.golden import LIMITS

PAGE = Path(__file__).parents[2] / 'docs/measurements/golden_errors.md'


def test_every_limit_has_a_margin_above_the_measured_distance():
    rows = [line.strip('| ').split(' | ') for line in PAGE.read_text(encoding='utf-8').splitlines() if line.startswith('| ')]
    header, *rows = [row for row in rows if not set(row[0]) <= set('-|')]
    runs = [k for k, title in enumerate(header) if re.search(r'\bthreads?$', title)]
    assert len(runs) >= 3 and any('AVX2' in header[k] for k in runs)
    assert {row[0] for row in rows} == set(LIMITS)
    for row in rows:
        largest = max(float(row[k]) for k in runs)
        assert 1.5 * largest <= LIMITS[row[0]], f'{row[0]}: {largest} was measured, the limit is {LIMITS[row[0]]}'


@pytest.mark.parametrize(('family', 'most'), [('hornet', 4e-6), ('gfnet', 2e-5), ('dfformer', 2e-5), ('affnet', 2e-5)])
def test_limits_of_outputs_are_within_the_promised_ones(family, most):
    assert 0 < LIMITS[f'{family} outputs'] <= most
