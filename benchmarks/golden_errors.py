"""Distances of float32 outputs from the golden numbers, with several instruction sets and numbers of threads.

    python benchmarks/golden_errors.py [--out docs/measurements/golden_errors.md]

Runs every test that compares with a golden number (`mmfreq/testing/golden.py`) once per entry of `RUNS`, in its own process, and
prints the largest distances as a Markdown table. In float64 the rounding of mmfreq vanishes: that column shows the rounding of the
golden files, which were made in float32. Without AVX-512 the first two columns are missing.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmfreq.analysis.latency import describe_hardware  # noqa: E402
from mmfreq.testing.golden import LIMITS  # noqa: E402

# title -> (arguments of tools/run_tests.sh, whether it needs AVX-512)
RUNS = {
    'AVX-512, 1 thread': ((), True),
    'AVX-512, 2 threads': (('--threads', '2'), True),
    'AVX2, 1 thread': (('--cpu', 'avx2'), False),
    'AVX2, 2 threads': (('--cpu', 'avx2', '--threads', '2'), False),
    'SSE4, 1 thread': (('--cpu', 'sse4'), False),
    'float64': (('--golden-dtype', 'float64'), False),
}


def largest_errors(arguments: tuple[str, ...]) -> dict[str, float]:
    """{quantity: largest distance} of the golden tests, run with these arguments.

    Raises:
        RuntimeError: the tests could not be run; a distance above its limit is not an error here.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'report.xml'
        command = ['bash', str(ROOT / 'tools/run_tests.sh'), '-q', '-n', '0', '-m', 'golden', f'--junitxml={report}', *arguments]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if result.returncode not in (0, 1) or not report.is_file():
            output = result.stdout[-3000:] + result.stderr[-3000:]
            raise RuntimeError(f'{" ".join(command)} failed with exit code {result.returncode}:\n{output}')
        errors = {}
        for entry in ElementTree.parse(report).iter('property'):
            quantity = entry.get('name').removeprefix('golden: ')
            errors[quantity] = max(errors.get(quantity, 0.0), float(entry.get('value')))
    return errors


def table(errors: dict[str, dict[str, float]]) -> str:
    """A Markdown table with a row per quantity and a column per run; then the limit, and its ratio to the largest distance."""
    lines = [f'| compared | {" | ".join(errors)} | limit | limit / largest |', '|---' * (len(errors) + 3) + '|']
    for quantity, limit in LIMITS.items():
        found = [run[quantity] for run in errors.values()]
        values = ' | '.join(f'{value:.2e}' for value in found)
        largest = max(run[quantity] for title, run in errors.items() if title != 'float64')
        lines.append(f'| {quantity} | {values} | {limit:.1e} | {limit / largest:.1f} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, help='Markdown file to write; default: print only')
    args = parser.parse_args()
    has_avx512 = 'AVX512' in torch.backends.cpu.get_cpu_capability()
    errors = {}
    for title, (arguments, needs_avx512) in RUNS.items():
        if has_avx512 or not needs_avx512:
            errors[title] = largest_errors(arguments)
            print(f'{title}: done', file=sys.stderr, flush=True)
    text = (
        '# Distances to the published numbers\n\n'
        f'`python benchmarks/golden_errors.py --out docs/measurements/golden_errors.md`, on {describe_hardware("cpu", 2)}. '
        '`tools/run_tests.sh --cpu` emulates AVX2 and SSE4. Relative distances, the largest of all golden tests of a quantity; '
        'the column float64 is the rounding of the golden files themselves. '
        'The limits are those of `mmfreq/testing/golden.py`.\n\n'
        f'{table(errors)}\n'
    )
    print(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
