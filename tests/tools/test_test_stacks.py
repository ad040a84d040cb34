"""tools/test_stacks.sh on stub interpreters: which Python, what is installed, which tests, and that no failure passes.

Nothing is downloaded. The stubs are those of test_setup_scripts.py; their pytest writes the report that a test asks for.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

from mmfreq.testing.stack_table import read_table
from tests.tools.test_setup_scripts import FakeHost

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
PACKAGE = (
    'version.py',
    '__init__.py',
    *(f'compat/{name}.py' for name in ('__init__', 'after_import', 'finder', 'stack')),
    'weights/__init__.py',
    'weights/loaders.py',
)
FAKE_PYTEST = """\
import sys
from pathlib import Path
assert sys.path[1] != 'other', sys.path
print('pytest was asked for', *sys.argv[1:])
numbers = Path({state!r}, 'report').read_text().split()
if numbers:
    attributes = ' '.join(f'{{k}}="{{v}}"' for k, v in zip(('tests', 'failures', 'errors', 'skipped'), numbers))
    Path(sys.argv[sys.argv.index('--junitxml') + 1]).write_text(f'<testsuites><testsuite {{attributes}} /></testsuites>')
"""


@pytest.fixture
def host(tmp_path):
    """A checkout with the table above and a Python of this version, whose environments have torch 2.4.0 and a fake pytest."""
    host = FakeHost(tmp_path)
    for name in (*PACKAGE, 'testing/__init__.py', 'testing/stack_table.py'):
        target = host.root / 'mmfreq' / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / 'mmfreq' / name, target)
    (host.root / 'mmfreq' / 'doctor.py').write_text(
        f'import sys, pathlib; sys.exit(pathlib.Path({str(host.state)!r}, "sick").exists())'
    )
    (host.root / 'tools' / 'stacks.txt').write_text(STACKS)
    (host.working / 'pytest').mkdir()
    (host.working / 'pytest' / '__main__.py').write_text(FAKE_PYTEST.format(state=str(host.state)))
    for name, version in (('torch', '2.4.0'), ('mmcv_lite', '2.1.0')):
        (host.working / f'{name}-{version}.dist-info').mkdir()
        metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        (host.working / f'{name}-{version}.dist-info' / 'METADATA').write_text(metadata)
    host.report = host.state / 'report'
    host.report.write_text('9 0 0 2')
    host.add_python('python3')
    return host


def rows(text):
    return {line.split(' | ')[0].removeprefix('| '): line for line in text.splitlines() if line.startswith('| ')}


def test_a_stack_is_made_tested_reported_and_removed(host):
    result = host.run('test_stacks.sh', 'one', PYTHONPATH='other')
    assert result.returncode == 0, result.stderr
    assert set(rows(result.stdout)) == {'one'}
    version = '.'.join(map(str, sys.version_info[:3]))
    assert rows(result.stdout)['one'].startswith(f'| one | passed | 7 | 0 | 2 | {version} | 2.4.0 | - | - | mmcv-lite 2.1.0, ')
    assert f'-m venv {host.cache}/stack-one' in host.calls
    assert re.search(r'-m pip install .* -r mmfreq/compat/lite.txt torch==2.4.0 numpy<2 pytest$', host.calls, re.MULTILINE)
    log = (host.cache / 'stack-one.log').read_text()
    assert 'tests/engine' in log and '-m not slow' in log
    assert not (host.cache / 'stack-one').exists()


def test_all_are_tested_where_none_is_named_and_one_failure_fails_all(host):
    result = host.run('test_stacks.sh')
    assert list(rows(result.stdout)) == ['one', 'two', 'absent']
    assert result.returncode == 1
    assert f'no Python {OTHER}' in rows(result.stdout)['absent']
    assert f'The log: {host.cache}/stack-absent.log' in result.stderr and 'failed: absent\n' in result.stderr
    assert 'tests/engine' not in (host.cache / 'stack-two.log').read_text()


@pytest.mark.parametrize('numbers', ['9 1 0 0', '9 0 1 0', '9 0 0 9', ''])
def test_a_failing_stack_fails_and_names_its_log(host, numbers):
    host.report.write_text(numbers)
    result = host.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert rows(result.stdout)['two'].startswith('| two | FAILED |')
    assert f'{host.cache}/stack-two.log' in result.stderr


def test_what_pip_answers_is_in_the_row(host):
    (host.state / 'fail-pip').touch()
    result = host.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert 'FAILED: not installed: see the log' in rows(result.stdout)['two']
    stub = host.state / 'venv-python'
    stub.write_text(stub.read_text().replace("echo 'No matching", "echo 'ERROR: No matching"))
    result = host.run('test_stacks.sh', 'two')
    assert 'FAILED: not installed: ERROR: No matching distribution found for torch' in rows(result.stdout)['two']


def test_a_stack_that_the_doctor_refuses_fails(host):
    (host.state / 'sick').touch()
    result = host.run('test_stacks.sh', 'two')
    assert result.returncode == 1
    assert 'not usable' in rows(result.stdout)['two'] and 'pytest was asked' not in (host.cache / 'stack-two.log').read_text()


def test_another_python_is_found_by_pyenv(host):
    folder = host.home / 'versions' / f'{OTHER}.7' / 'bin'
    folder.mkdir(parents=True)
    (folder / f'python{OTHER}').write_text(
        f'#!{shutil.which("bash")}\n[ "$1" != -c ] || echo {OTHER}\n[ "$1 $2" != "-m venv" ] || exec "{host.bin}/python3" "$@"\n'
    )
    (folder / f'python{OTHER}').chmod(0o755)
    host.add_script('pyenv', f'case "$1" in whence) echo {OTHER}.7 ;; prefix) echo "$HOME/versions/$2" ;; esac')
    host.add_script(f'python{OTHER}', 'echo "pyenv: command not found" >&2; exit 127')  # a shim
    result = host.run('test_stacks.sh', 'absent')
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'stack-absent' in host.calls


def test_the_table_is_written_and_environments_are_kept(host):
    page = host.home / 'page.md'
    page.write_text('# Title\n')
    for name in ('one', 'two', 'one'):
        assert host.run('test_stacks.sh', '--keep', '--out', 'page.md', name).returncode == 0
    assert page.read_text().startswith('# Title\n')
    assert list(read_table(page.read_text())) == ['one', 'two']
    assert (host.cache / 'stack-one').exists() and (host.cache / 'stack-two').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(['three'], "no stack 'three'"), (['--fast'], 'unknown option --fast'), (['--out'], '--out requires a file')],
)
def test_wrong_arguments_are_explained_before_anything_is_made(host, arguments, message):
    result = host.run('test_stacks.sh', *arguments)
    assert result.returncode == 1 and message in result.stderr and not host.cache.exists()


def test_the_lists_name_what_there_is(host):
    for name in ('one', 'two'):
        host.run('test_stacks.sh', name)
    asked = {name: (host.cache / f'stack-{name}.log').read_text().split() for name in ('one', 'two')}
    core, backbones = ({word for word in words if word.startswith('tests/')} for words in asked.values())
    assert backbones and backbones < core
    assert not [path for path in core if not (ROOT / path).exists()]
