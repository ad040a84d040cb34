"""How many seeded faults of mmfreq does a test suite detect? Compares suites, for example before and after a change.

    git clone . ../old && git -C ../old checkout COMMIT
    python benchmarks/mutations.py --seed 0 --count 60 --suite old=../old --suite new=. --out docs/measurements/mutations.md

A mutation (`mutation_sites.py`) changes a line that is equal in the checkouts of all suites. It is applied to a copy of each
checkout, and tests of its package (`tests/<package>`) run there until one fails (`mutation_runs.py`):

- First every test file runs without a mutation, to record which test executes which block of statements, also in processes that
  it starts. Tests that fail without a mutation, and tests longer than `--longest`, are not used.
- With a mutation, the tests that execute its block run first, then the others in the same files; for code that an import executes,
  all tests of the package. Short tests run first, until their recorded times add up to `--budget` seconds.
- A test that ends the process, or takes a minute longer than recorded, has detected the mutation.

Results are appended to `--json`. A second call with the same file runs what is missing, and what depends on a file of mmfreq or of
the tests of the package that has changed. Mutations that no suite detects need a reason in `mutations_reasons.json`.
"""

import argparse
import hashlib
import json
import os
import platform
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutation_runs import LIBRARIES, OPENMMLAB, function_of, preload, record_subprocesses, start_server
from mutation_sites import PACKAGES, choose, mutated, sites_of

sys.path.remove(str(Path(__file__).resolve().parent))

REASONS = Path(__file__).with_name('mutations_reasons.json')
GRACE = 60  # seconds that a test may take beyond the recorded time
SHORT = 3  # seconds
NOT_COPIED = ('.git', '__pycache__', '.mim', '.hypothesis', '.pytest_cache', '.ruff_cache', '.venv*', 'work_dirs', 'data')


def copy_of(root, folder):
    """(copy of a checkout, folder for notes), with the links to configs that tools/env.sh makes."""
    tree, notes = folder / 'tree', folder / 'notes'
    shutil.copytree(root, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    (tree / 'mmfreq/.mim').mkdir()
    for name in ('configs', 'tools', 'model-index.yml'):
        (tree / 'mmfreq/.mim' / name).symlink_to(f'../../{name}')
    notes.mkdir()
    (notes / 'current').touch()
    return tree, notes


def digest(root, package):
    """Hash of the files that a result depends on."""
    paths = [*root.glob('mmfreq/**/*.py'), *root.glob(f'tests/{package}/**/*.py'), *root.glob('tests/*.py')]
    return hashlib.sha1(b''.join(path.read_bytes() for path in sorted(paths))).hexdigest()[:12]


def long_tests(path, longest):
    """Names of the tests that took longer in an earlier run, from its report of `--junitxml`."""
    long = [case for case in ElementTree.parse(path).iter('testcase') if float(case.get('time')) > longest]
    return {f'{case.get("classname").replace(".", "/")}.py::{case.get("name")}' for case in long}


def file_of(test):
    return test.partition('::')[0]


def short_first(tests, seconds):
    """Three short tests of each file, the other short ones, the rest. Tests of a file stay together, as they share fixtures."""
    files, passes = defaultdict(list), {}
    for test in sorted(tests, key=lambda test: (seconds[test], test)):
        passes[test] = 2 if seconds[test] > SHORT else int(len(files[file_of(test)]) >= 3)
        files[file_of(test)].append(test)
    totals = {file: sum(map(seconds.get, names)) for file, names in files.items()}
    return sorted(tests, key=lambda test: (passes[test], totals[file_of(test)], file_of(test), seconds[test], test))


class Recorded:
    """The tests of a package without a mutation.

    Attributes:
        seconds: {test: CPU seconds} of the tests that are used.
        known: names of all tests.
        failed, long: names of those that are not used.
        blocks: {block: names of tests that execute it, '' for an import before the first test}.
    """

    def __init__(self, records, longest):
        self.seconds, self.known, self.failed, self.long, self.blocks = {}, set(), set(), set(), defaultdict(set)
        for record in records:
            self.long |= {name for name, (seconds, _) in record['tests'].items() if seconds > longest} | set(record['long'])
            self.failed |= {name for name, (_, outcome) in record['tests'].items() if outcome == 'failed'}
            self.known |= set(record['tests']) | self.long
            self.seconds |= {name: seconds for name, (seconds, outcome) in record['tests'].items() if outcome == 'passed'}
            for block, names in record['blocks'].items():
                self.blocks[block].update(names)
        for name in self.long:
            self.seconds.pop(name, None)

    def candidates(self, site):
        """Tests that may detect a mutation, the most promising first."""
        tests, hits = set(self.seconds), self.blocks[site.block]
        if site.at_import or '' in hits:
            near = set().union(*(names for block, names in self.blocks.items() if block.startswith(f'{site.file}:')))
            stages = [near if site.at_import else hits, near, tests]
        else:
            files = {file_of(test) for test in hits}
            stages = [hits, {test for test in tests if file_of(test) in files}]
        ordered = []
        for stage in stages:
            ordered += short_first((stage & tests).difference(ordered), self.seconds)
        return ordered


class Measurement:
    """Copies of the checkouts and their servers, one per worker and suite, and the results so far."""

    def __init__(self, args, work):
        self.args, self.suites, self.servers, self.free = args, dict(args.suite), {}, queue.Queue()
        self.digests = {(suite, package): digest(root, package) for suite, root in args.suite for package in PACKAGES}
        self.lines = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json.exists() else []
        preload('pytest hypothesis' if args.cold else LIBRARIES)
        for worker in range(args.workers):
            self.free.put(worker)
            for suite, root in self.suites.items():
                tree, notes = copy_of(root, work / f'{suite}{worker}')
                self.servers[worker, suite] = tree, notes, start_server(tree, notes, '' if args.cold else OPENMMLAB)

    def end(self):
        for _, _, connection in self.servers.values():
            with suppress(OSError):
                connection.send(None)

    def each(self, function, tasks):
        """Call `function(worker, *task)` for each task, in as many threads as there are workers, and print the progress."""
        started, left = time.monotonic(), [len(tasks)]

        def one(task):
            worker = self.free.get()
            try:
                line = function(worker, *task)
            finally:
                self.free.put(worker)
            left[0] -= 1
            print(f'{time.monotonic() - started:6.0f} s, {left[0]:4} left: {line}', flush=True)

        with ThreadPoolExecutor(self.args.workers) as pool:
            list(pool.map(one, tasks))

    def find(self, kind, suite, package):
        """Lines of the JSON file that are still valid."""
        wanted = {'kind': kind, 'suite': suite, 'package': package}
        if not self.args.keep:
            wanted['digest'] = self.digests[suite, package]
        return [line for line in self.lines if wanted.items() <= line.items()]

    def write(self, kind, suite, package, **facts):
        line = {'kind': kind, 'suite': suite, 'package': package, 'digest': self.digests[suite, package], **facts}
        self.lines.append(line)
        with self.args.json.open('a') as file:
            file.write(json.dumps(line) + '\n')

    # Without mutations

    def record_all(self, packages):
        tasks = []
        for suite, root in self.suites.items():
            for package in packages:
                files = {path.relative_to(root).as_posix() for path in root.glob(f'tests/{package}/**/test_*.py')}
                files -= {line['file'] for line in self.find('record', suite, package)}
                tasks += [(suite, package, file) for file in sorted(files)]
        for tree, notes, _ in self.servers.values():
            record_subprocesses(tree, notes)
        self.each(self.record, sorted(tasks, key=lambda task: PACKAGES.index(task[1])))
        for tree, _, _ in self.servers.values():
            (tree / 'sitecustomize.py').unlink()

    def record(self, worker, suite, package, file):
        """Run a test file; if a test ends the process or takes too long, run the others again without it."""
        *_, server = self.servers[worker, suite]
        tests, blocks = {}, defaultdict(set)
        long = sorted(name for name in self.args.long[suite] if file_of(name) == file)
        while True:
            job = {'files': [file], 'tests': [], 'skip': [*tests, *long], 'record': True}
            server.send({**job, 'limits': {}, 'grace': 2 * self.args.longest})
            events, problem, text = server.recv()
            tests |= {event['done']: (event['seconds'], event['outcome']) for event in events if 'done' in event}
            for line in text.splitlines():
                block, _, test = line.partition('\t')
                blocks[block].add(test)
            running = {event['started'] for event in events if 'started' in event}.difference(tests)
            if not problem or not running:
                break
            long += map(function_of, running)  # with all their parameters: each would cost as much again
        self.write('record', suite, package, file=file, tests=tests, long=long, blocks={key: sorted(blocks[key]) for key in blocks})
        return f'{suite} {file}: {len(tests)} tests, {len(long)} too long, {problem or "complete"}'

    def recorded(self, suite, package):
        records = {line['file']: line for line in self.find('record', suite, package)}
        return Recorded([records[file] for file in records if (self.suites[suite] / file).exists()], self.args.longest)

    # With mutations

    def test_all(self, chosen, sites):
        recorded = {
            (suite, package): self.recorded(suite, package)
            for suite in self.suites
            for package in {site.package for site in chosen}
        }
        tasks = []
        for number, site in enumerate(chosen):
            for suite in self.suites:
                if not any(line['id'] == site.id for line in self.find('result', suite, site.package)):
                    tasks.append((suite, sites[suite][site], number, recorded[suite, site.package]))
        self.each(self.test_mutation, tasks)

    def test_mutation(self, worker, suite, site, number, recorded):
        """Run the tests that may detect a mutation. The first one that fails must pass in the same order without the mutation."""
        candidates = recorded.candidates(site)
        spent = accumulate(recorded.seconds[test] for test in candidates)
        tests = [test for test, seconds in zip(candidates, spent) if seconds <= self.args.budget]
        by, why, unstable, started = '', '', [], time.monotonic()
        while tests:
            with mutated(self.servers[worker, suite][0], site, number):
                by, why = self.first_failure(worker, suite, tests, recorded)
            if by not in tests or self.first_failure(worker, suite, tests[: tests.index(by) + 1], recorded)[0] != by:
                break
            unstable.append(by)
            tests.remove(by)
            by = ''
        facts = {'run': len(tests), 'left': len(candidates) - len(tests), 'seconds': round(time.monotonic() - started, 1)}
        self.write('result', suite, site.package, id=site.id, by=by, why=why, unstable=unstable, **facts)
        return f'{suite} {site.id}: {f"noticed by {by}" if by else "NOT noticed"}, of {len(tests)} tests'

    def first_failure(self, worker, suite, tests, recorded):
        """(test, reason); two empty strings if there is none."""
        job = {'files': list(dict.fromkeys(map(file_of, tests))), 'tests': tests, 'skip': [*recorded.known.difference(tests)]}
        *_, server = self.servers[worker, suite]
        server.send({**job, 'record': False, 'limits': recorded.seconds, 'grace': GRACE})
        events, problem, _ = server.recv()
        for event in events:
            if 'failed' in event:
                return event['failed'], event['why']
        running = next((event['started'] for event in events[::-1] if 'started' in event), 'the start of pytest')
        return (running, problem) if problem else ('', '')


# The page


def code(text):
    return '`' + text.replace('`', "'").replace('|', '\\|') + '`'


def cell(result):
    if result['by']:
        path, _, test = result['by'].partition('::')
        return f'`{Path(path).name}::{test.partition("[")[0]}`' if test else f'import of `{Path(path).name}`'
    if not result['run'] + result['left']:
        return '**no**: no test executes it'
    budget = f', {result["left"]} more are beyond the budget' if result['left'] else ''
    return f'**no**, {result["run"]} tests{budget}'


def commit_of(root):
    """' (commit)' of a checkout other than this one, if it is a git repository."""
    if root == Path.cwd() or not (root / '.git').exists():
        return ''
    command = ['git', '-C', str(root), 'rev-parse', '--short', 'HEAD']
    return f' ({subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()})'


def shown_command(args):
    """The command without paths of this computer."""
    suites = [word for suite, root in args.suite for word in ('--suite', f'{suite}={"." if root == Path.cwd() else f"../{suite}"}')]
    numbers = [] if args.packages == PACKAGES else ['--packages', *args.packages]
    numbers += f'--seed {args.seed} --count {args.count} --budget {args.budget:g} --longest {args.longest:g}'.split()
    return shlex.join(['python', 'benchmarks/mutations.py', *numbers, *suites, '--out', 'docs/measurements/mutations.md'])


def page(measurement, chosen, reasons):
    args = measurement.args
    suites, packages = list(measurement.suites), sorted({site.package for site in chosen})
    results = {
        (suite, site.id): next(line for line in measurement.find('result', suite, site.package)[::-1] if line['id'] == site.id)
        for suite in suites
        for site in chosen
    }
    lines = [
        '# Mutations: what the tests notice',
        '',
        f'`{shown_command(args)}`',
        '',
        f'{date.today()}; {os.cpu_count()} CPU cores ({platform.machine()}), no GPU; torch {version("torch")}; one thread each.',
        f'{len(chosen)} mutations, each in a copy of the checkout. The tests of its package run until one fails: first those that',
        f'execute the changed block, cheap ones first, up to {args.budget:g} s by the times recorded without a mutation.',
        '',
        f'| package | mutations | {" | ".join(f"noticed by {suite}" for suite in suites)} |',
        f'|---|---|{"---|" * len(suites)}',
    ]
    for package in [*packages, 'all']:
        own = [site for site in chosen if package in ('all', site.package)]
        counts = [sum(bool(results[suite, site.id]['by']) for site in own) for suite in suites]
        lines.append(f'| {package} | {" | ".join(map(str, [len(own), *counts]))} |')
    lines.append('')
    for suite in suites:
        all_of = [measurement.recorded(suite, package) for package in packages]
        known, failed, long = (sum(len(getattr(each, name)) for each in all_of) for name in ('known', 'failed', 'long'))
        unused = f'{failed} that fail without a mutation, {long} longer than {args.longest:g} s'
        lines.append(f'- {suite}{commit_of(measurement.suites[suite])}: {known} tests; not used: {unused}.')
    lines += ['', f'| place | kind | change | {" | ".join(suites)} |', f'|---|---|---|{"---|" * len(suites)}']
    for site in chosen:
        cells = [code(site.id), site.kind, f'{code(site.line)} → {code(site.after)}']
        lines.append(f'| {" | ".join(cells + [cell(results[suite, site.id]) for suite in suites])} |')
    noticed = {site.id: [suite for suite in suites if results[suite, site.id]['by']] for site in chosen}
    for title, names in (
        ('Noticed by one suite only', [name for name in noticed if 0 < len(noticed[name]) < len(suites)]),
        ('Noticed by no suite', [name for name in noticed if not noticed[name]]),
    ):
        if names:
            lines += ['', f'## {title}', '']
            lines += [f'- {code(name)}: {reasons.get(name) or ", ".join(noticed[name]) or "**no reason yet**"}' for name in names]
    return '\n'.join(lines) + '\n'


def parse_args(argv=None):
    def pair(text):
        name, _, path = text.partition('=')
        return name, Path(path).resolve()

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--suite', type=pair, action='append', required=True, metavar='NAME=CHECKOUT', help='more than one is compared'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--count', type=int, default=60, help='of mutations, taken from the packages in turn')
    parser.add_argument('--packages', nargs='+', choices=PACKAGES, default=PACKAGES, metavar='PACKAGE', help='only these')
    parser.add_argument(
        '--budget', type=float, default=120, help='seconds of tests for a mutation and suite (default: %(default)g)'
    )
    parser.add_argument(
        '--longest', type=float, default=60, help='seconds; tests that take longer are not used (default: %(default)g)'
    )
    parser.add_argument('--workers', type=int, default=2, help='processes at a time (default: %(default)d)')
    parser.add_argument('--junit', type=pair, action='append', default=[], metavar='NAME=FILE', help='earlier times of a suite')
    parser.add_argument('--json', type=Path, default=Path('work_dirs/mutations.jsonl'), help='what has been found; continued')
    parser.add_argument('--keep', action='store_true', help='take results of --json that a change of files has made old')
    parser.add_argument('--cold', action='store_true', help='import nothing but pytest ahead')
    parser.add_argument('--record', action='store_true', help='only record the tests without mutations')
    parser.add_argument('--out', type=Path, help='write the page here')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    os.environ.update(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.long = defaultdict(set) | {suite: long_tests(path, args.longest) for suite, path in args.junit}
    sites = {suite: sites_of(root) for suite, root in args.suite}
    common = [site for site in set.intersection(*map(set, sites.values())) if site.package in args.packages]
    chosen = choose(common, args.seed, args.count)
    print(f'{len(chosen)} of {len(common)} mutations', flush=True)
    with tempfile.TemporaryDirectory(prefix='mutations_') as work:
        measurement = Measurement(args, Path(work).resolve())
        try:
            measurement.record_all(sorted({site.package for site in chosen}))
            if not args.record:
                measurement.test_all(chosen, sites)
        finally:
            measurement.end()
    if not args.record:
        text = page(measurement, chosen, json.loads(REASONS.read_text()) if REASONS.exists() else {})
        print(text)
        if args.out:
            args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
