"""tools/test_stacks.sh on stub interpreters: which Python, what is installed, which tests, and that no failure passes.

Nothing is downloaded. The stubs are those of test_setup_scripts.py; their pytest writes the report that a test asks for.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

from mmfreq.testing.stack_table import read_table
from tests.tools.test_setup_scripts import Machine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HERE = f'{sys.version_info[0]}.{sys.version_info[1]}'
OTHER = '3.10' if HERE != '3.10' else '3.13'
STACKS = f"""\
# a comment
one    {HERE}  core       -r mmfreq/compat/lite.txt torch==2.4.0 numpy<2
two    {HERE}  backbones  -r mmfreq/compat/lite.txt
absent {OTHER}  core       torch
"""
PACKAGE = ('version.py', '__init__.py', 'compat/__init__.py', 'compat/finder.py', 'compat/stack.py')
FAKE_PYTEST = """\
import sys
from pathlib import Path
assert sys.path[1] != 'theirs', sys.path
print('pytest was asked for', *sys.argv[1:])
numbers = Path({state!r}, 'report').read_text().split()
if numbers:
    attributes = ' '.join(f'{{k}}="{{v}}"' for k, v in zip(('tests', 'failures', 'errors', 'skipped'), numbers))
    Path(sys.argv[sys.argv.index('--junitxml') + 1]).write_text(f'<testsuites><testsuite {{attributes}} /></testsuites>')
"""


@pytest.fixture
def machine(tmp_path):
    """A checkout with the table above and a Python of this version, whose environments have torch 2.4.0 and a fake pytest."""
    machine = Machine(tmp_path)
    for name in (*PACKAGE, 'testing/__init__.py', 'testing/stack_table.py'):
        target = machine.root / 'mmfreq' / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / 'mmfreq' / name, target)
    (machine.root / 'mmfreq' / 'doctor.py').write_text(
        f'import sys, pathlib; sys.exit(pathlib.Path({str(machine.state)!r}, "sick").exists())'
    )
    (machine.root / 'tools' / 'stacks.txt').write_text(STACKS)
    (machine.working / 'pytest').mkdir()
    (machine.working / 'pytest' / '__main__.py').write_text(FAKE_PYTEST.format(state=str(machine.state)))
    for name, version in (('torch', '2.4.0'), ('mmcv_lite', '2.1.0')):
        (machine.working / f'{name}-{version}.dist-info').mkdir()
        metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        (machine.working / f'{name}-{version}.dist-info' / 'METADATA').write_text(metadata)
    machine.report = machine.state / 'report'
    machine.report.write_text('9 0 0 2')
    machine.add_python('python3')
    return machine


def rows(text):
    return {line.split(' | ')[0].removeprefix('| '): line for line in text.splitlines() if line.startswith('| ')}


def test_a_stack_is_made_tested_told_and_removed(machine):
    result = machine.run('test_stacks.sh', 'one', PYTHONPATH='theirs')
    assert result.returncode == 0, result.stderr
    assert set(rows(result.stdout)) == {'one'}
    version = '.'.join(map(str, sys.version_info[:3]))
    assert rows(result.stdout)['one'].startswith(f'| one | passed | 7 | 0 | 2 | {version} | 2.4.0 | - | - | mmcv-lite 2.1.0, ')
    assert f'-m venv {machine.cache}/stack-one' in machine.calls
    assert re.search(r'-m pip install .* -r mmfreq/compat/lite.txt torch==2.4.0 numpy<2 pytest$', machine.calls, re.MULTILINE)
    log = (machine.cache / 'stack-one.log').read_text()
    assert 'tests/engine' in log and '-m not slow' in log
    assert not (machine.cache / 'stack-one').exists()


def test_all_are_tested_where_none_is_named_and_one_failure_fails_all(machine):
    result = machine.run('test_stacks.sh')
    assert list(rows(result.stdout)) == ['one', 'two', 'absent']
    assert result.returncode == 1
    assert f'no Python {OTHER}' in rows(result.stdout)['absent']
    assert f'The log: {machine.cache}/stack-absent.log' in result.stderr and 'failed: absent\n' in result.stderr
    assert 'tests/engine' not in (machine.cache / 'stack-two.log').read_text()


@pytest.mark.parametrize('numbers', ['9 1 0 0', '9 0 1 0', '9 0 0 9', ''])
def test_a_failing_stack_fails_and_names_its_log(machine, numbers):
    machine.report.write_text(numbers)
    result = machine.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert rows(result.stdout)['two'].startswith('| two | FAILED |')
    assert f'{machine.cache}/stack-two.log' in result.stderr


def test_what_pip_answers_is_in_the_row(machine):
    (machine.state / 'fail-pip').touch()
    result = machine.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert 'FAILED: not installed: see the log' in rows(result.stdout)['two']
    stub = machine.state / 'venv-python'
    stub.write_text(stub.read_text().replace("echo 'No matching", "echo 'ERROR: No matching"))
    result = machine.run('test_stacks.sh', 'two')
    assert 'FAILED: not installed: ERROR: No matching distribution found for torch' in rows(result.stdout)['two']


def test_a_stack_that_the_doctor_refuses_fails(machine):
    (machine.state / 'sick').touch()
    result = machine.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert 'not usable' in rows(result.stdout)['two'] and 'pytest was asked' not in (machine.cache / 'stack-two.log').read_text()


def test_another_python_is_found_by_pyenv(machine):
    folder = machine.home / 'versions' / f'{OTHER}.7' / 'bin'
    folder.mkdir(parents=True)
    (folder / f'python{OTHER}').write_text(
        f'#!{shutil.which("bash")}\n[ "$1" != -c ] || echo {OTHER}\n[ "$1 $2" != "-m venv" ] || exec "{machine.bin}/python3" "$@"\n'
    )
    (folder / f'python{OTHER}').chmod(0o755)
    machine.add_script('pyenv', f'case "$1" in whence) echo {OTHER}.7 ;; prefix) echo "$HOME/versions/$2" ;; esac')
    machine.add_script(f'python{OTHER}', 'echo "pyenv: command not found" >&2; exit 127')  # a shim
    result = machine.run('test_stacks.sh', 'absent')
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'stack-absent' in machine.calls


def test_the_table_is_written_and_environments_are_kept(machine):
    page = machine.home / 'page.md'
    page.write_text('# Title\n')
    for name in ('one', 'two', 'one'):
        assert machine.run('test_stacks.sh', '--keep', '--out', 'page.md', name).returncode == 0
    assert page.read_text().startswith('# Title\n')
    assert list(read_table(page.read_text())) == ['one', 'two']
    assert (machine.cache / 'stack-one').exists() and (machine.cache / 'stack-two').exists()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [(['three'], "no stack 'three'"), (['--fast'], 'no option --fast'), (['--out'], '--out needs a file')],
)
def test_wrong_arguments_are_explained_before_anything_is_made(machine, arguments, said):
    result = machine.run('test_stacks.sh', *arguments)
    assert result.returncode == 1 and said in result.stderr and not machine.cache.exists()


def test_the_lists_name_what_there_is(machine):
    for name in ('one', 'two'):
        machine.run('test_stacks.sh', name)
    asked = {name: (machine.cache / f'stack-{name}.log').read_text().split() for name in ('one', 'two')}
    core, backbones = ({word for word in words if word.startswith('tests/')} for words in asked.values())
    assert backbones and backbones < core
    assert not [path for path in core if not (ROOT / path).exists()]
