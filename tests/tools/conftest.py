"""The tools, called in this process or started as from the command line."""

import importlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture(scope='session')
def tool_main():
    """`tool_main(name)`: the `main` of a tool, in a module with a unique name."""

    @cache
    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(TOOLS))
            spec = importlib.util.spec_from_file_location(f'tool_{name}', TOOLS / f'{name}.py')
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return module.main

    return load


@pytest.fixture(scope='module')
def quiet_loggers():
    """Suppress the errors of loggers from earlier runs in this process, whose streams pytest has closed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, 'raiseExceptions', False)
        yield


@pytest.fixture
def call_tool(monkeypatch, capsys):
    """`call_tool(name, *arguments)`: the output of a tool, in lines of 160 characters."""
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv('COLUMNS', '160')

    def call(name, *arguments):
        importlib.import_module(name).main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


@pytest.fixture(scope='session')
def dist_train():
    """Starts `tools/dist_train.sh` as a user does, with CPU processes: see `Job`."""
    jobs = []

    def start(*arguments, **environment):
        jobs.append(Job('dist_train.sh', *arguments, **environment))
        return jobs[-1]

    yield start
    for job in jobs:
        job.end()


class Job:
    """A script of `tools/` in its own process group; its output goes to a file, because a pipe would fill up.

    Args:
        script: its name.
        arguments: of the script.
        environment: variables to set; PYTHONPATH is prepended to the current one.
    """

    def __init__(self, script, *arguments, **environment):
        paths = [str(environment.pop('PYTHONPATH', '')), os.environ.get('PYTHONPATH', '')]
        env = os.environ | {
            'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
            'PYTHONPATH': os.pathsep.join(filter(None, paths)),
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
        }
        self.file = tempfile.TemporaryFile('w+')  # noqa: SIM115 (`end` closes it)
        self.process = subprocess.Popen(
            ['bash', str(TOOLS / script), *map(str, arguments)],
            env=env | {name: str(value) for name, value in environment.items()},
            cwd=TOOLS.parent,
            stdout=self.file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, timeout=600):
        """(exit status, output) of the script."""
        status = self.process.wait(timeout)
        self.file.seek(0)
        return status, self.file.read()

    def end(self):
        """Kill the script if it is still running."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.file.close()
