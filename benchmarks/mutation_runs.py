"""Runs of pytest in forked processes, for `mutations.py`: which test executes which block, and which test fails first.

A server process per copy of a checkout imports the libraries once and forks a process for each run. Linux only, because it forks
processes that have imported torch.
"""

import ast
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from mutation_sites import PACKAGES, first_of, is_block

# What is imported once: before the servers start, and by each server, as it depends on mmfreq's finder for `mmcv._ext`
LIBRARIES = 'torch torchvision scipy.stats timm onnx onnxscript matplotlib.figure pytest hypothesis mmengine.runner'
OPENMMLAB = 'mmfreq.registry mmcv.ops mmseg.apis mmdet.apis mmpretrain.apis segmentation_models_pytorch'
START_LIMIT = 180  # seconds until the first test starts


# Which test executes which block


def instrumented(source, file):
    """Syntax tree with a call at the start of every block; line numbers stay."""
    tree = ast.parse(source)
    for node in list(ast.walk(tree)):
        for body in (getattr(node, name, None) for name in ('body', 'orelse', 'finalbody')):
            if is_block(body) and (at := first_of(body)) < len(body):
                call = ast.parse(f'__block__({f"{file}:{body[at].lineno}"!r})').body[0]
                for part in ast.walk(call):
                    ast.copy_location(part, body[at])
                body.insert(at, call)
    return tree


def record_blocks(tree, notes):
    """From now on imports of the packages are instrumented: `notes/blocks` gets lines `block <tab> test`.

    Returns the blocks that have been noted; clear it when another test starts.
    """
    seen, write, pread = set(), os.write, os.pread  # tests replace functions of os
    blocks, current = os.open(notes / 'blocks', os.O_WRONLY | os.O_APPEND | os.O_CREAT), os.open(notes / 'current', os.O_RDONLY)
    torch = sys.modules.get('torch')
    compiling = torch.compiler.is_compiling if torch else bool
    plain = importlib.machinery.SourceFileLoader.get_code
    folders = tuple(f'{tree}/mmfreq/{package}/' for package in PACKAGES)

    def note(block):
        if compiling() or block in seen:
            return
        seen.add(block)
        with contextlib.suppress(OSError):  # a test limits the size of files
            write(blocks, block.encode() + b'\t' + pread(current, 10000, 0) + b'\n')

    def get_code(loader, name):
        path = loader.get_filename(name)
        if not path.startswith(folders):
            return plain(loader, name)
        return compile(instrumented(Path(path).read_bytes(), os.path.relpath(path, tree)), path, 'exec', dont_inherit=True)

    builtins.__block__ = note
    importlib.machinery.SourceFileLoader.get_code = get_code
    return seen


def record_subprocesses(tree, notes):
    """Instrument the Python processes that tests start in this copy, too: they find this file, as the copy is in PYTHONPATH."""
    here = str(Path(__file__).parent)
    (tree / 'sitecustomize.py').write_text(
        f'import sys\nfrom pathlib import Path\nsys.path.insert(0, {here!r})\nimport mutation_runs\nsys.path.remove({here!r})\n'
        f'mutation_runs.record_blocks(Path({str(tree)!r}), Path({str(notes)!r}))\n'
    )


# A run of tests, in a process of its own


def function_of(test):
    """Name of a test without its parameters."""
    return test.partition('[')[0]


def processor_seconds():
    """Of this process and of those that it has waited for; a busy machine does not change it much."""
    return sum(os.times()[:4])


class Watcher:
    """pytest plugin: keeps and sorts the tests of a job, and writes events to a file, one JSON object a line."""

    def __init__(self, job, notes, seen):
        self.job, self.notes, self.seen, self.since, self.outcome = job, notes, seen, 0.0, 'passed'
        self.events = os.open(notes / 'events', os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def event(self, _write=os.write, **facts):
        _write(self.events, json.dumps(facts).encode() + b'\n')

    def current(self, name):
        (self.notes / 'current').write_text(name)
        self.seen.clear()

    def pytest_collection_modifyitems(self, items):
        """Wanted tests in their order, then those with names that the unchanged checkout does not have."""
        wanted, skipped = {name: place for place, name in enumerate(self.job['tests'])}, set(self.job['skip'])
        items[:] = [item for item in items if item.nodeid in wanted or not {item.nodeid, function_of(item.nodeid)} & skipped]
        items.sort(key=lambda item: wanted.get(item.nodeid, len(wanted)))

    def pytest_sessionstart(self):
        if torch := sys.modules.get('torch'):
            torch.set_num_threads(1)

    def pytest_collectreport(self, report):
        if report.failed:
            self.event(failed=report.nodeid, why='cannot be collected')

    def pytest_runtest_logstart(self, nodeid):
        self.current(nodeid)
        self.since, self.outcome = processor_seconds(), 'passed'
        self.event(started=nodeid)

    def pytest_runtest_logreport(self, report):
        if report.outcome != 'passed' and self.outcome != 'failed':
            self.outcome = report.outcome
        if report.failed:
            crash = getattr(report.longrepr, 'reprcrash', None)
            self.event(failed=report.nodeid, why=str(crash.message if crash else report.longrepr)[:300])
        if report.when == 'teardown':
            self.current('')
            self.event(done=report.nodeid, seconds=round(processor_seconds() - self.since, 3), outcome=self.outcome)


def run_pytest(tree, notes, job):
    """In the forked process; does not return."""
    import pytest

    end_with_parent()
    os.setsid()
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(os.devnull if number == 0 else notes / 'output', mode), number)
    os.dup2(1, 2)
    watcher = Watcher(job, notes, record_blocks(tree, notes) if job['record'] else set())
    options = ['-q', '-p', 'no:cacheprovider', f'--rootdir={tree}', f'--basetemp={notes / "tmp"}']
    options += [] if job['record'] else ['-x']
    if importlib.util.find_spec('hypothesis'):
        options.append('--hypothesis-seed=0')
    os._exit(int(pytest.main([*options, *job['files']], plugins=[watcher])))


def attempt(tree, notes, job):
    """Run a job in a forked process.

    Returns what the watcher noted; what was wrong with the process: '' or 'does not end' or 'ends with status N'; and, if the job
    says `record`, lines `block <tab> test`.
    """
    for name in ('events', 'blocks', 'current'):
        (notes / name).write_text('')
    gc.freeze()  # the forked process shares what has been imported, and does not search it for garbage
    pid = os.fork()
    if not pid:
        try:
            run_pytest(tree, notes, job)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    events, since, problem, code = [], time.monotonic(), '', None
    while code is None:
        time.sleep(0.05)
        ended, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        lines = (notes / 'events').read_text().splitlines(keepends=True)
        if len(lines) > len(events) or code is not None:
            events, since = [json.loads(line) for line in lines if line.endswith('\n')], time.monotonic()
        test = events[-1].get('started') if events else None
        limit = job['limits'].get(test, 0) + job['grace'] if test else START_LIMIT
        if not problem and time.monotonic() - since > limit:
            os.killpg(pid, signal.SIGKILL)
            problem = 'does not end'
    end_strays(tree)
    for folder in (tree / '.hypothesis', notes / 'tmp'):
        shutil.rmtree(folder, ignore_errors=True)
    if not problem and code not in (0, 1, 5):  # passed, failed, nothing to run
        problem = f'ends with status {code}'
    return events, problem, (notes / 'blocks').read_text() if job['record'] else ''


def end_strays(tree):
    """End processes that tests of this copy have started and left behind."""
    mark = f'PYTHONPATH={tree}'.encode()
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if mark in (folder / 'environ').read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


def end_with_parent():
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def preload(names):
    for name in names.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def serve(tree, notes, connection, names):
    """Import what takes long and is not mutated, then do jobs until None comes."""
    end_with_parent()
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if path != str(Path(__file__).parent))]
    os.environ.update(PYTHONPATH=str(tree), PYTHONHASHSEED='0')
    preload(names)
    loaded = [name for name in sys.modules if name.startswith(tuple(f'mmfreq.{package}' for package in PACKAGES))]
    assert not loaded, f'imported before the mutation: {loaded}'
    while job := connection.recv():
        connection.send(attempt(tree, notes, job))


def start_server(tree, notes, names):
    """A connection that takes a job and answers as `attempt` does; None ends the server.

    A job: `files`; `tests`, wanted, in order; `skip`, not wanted (a function: whatever its parameters); `record`, the executed
    blocks of all tests; `limits` {test: seconds} and `grace`, the seconds that a test may take longer.
    """
    here, there = multiprocessing.Pipe()
    if os.fork():
        return here
    try:
        serve(tree, notes, there, names)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
