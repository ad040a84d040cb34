"""docs/adding_a_size.md: its steps, done in a copy of the source tree, give a size that the tests accept."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_adding_a_family import changed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'adding_a_size.md').read_text(encoding='utf-8')
STEP = re.compile(
    r'(?:New file `(?P<new>[^`]+)`|In `(?P<old>[^`]+)`, (?P<where>into `\w+`|the row of the family)'
    r'|At the end of `(?P<end>[^`]+)`):\s+'
    r'```\w+\n(?P<body>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
STEPS = list(STEP.finditer(PAGE))
SCRIPTS = [body for body in re.findall(r'^```python\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL) if 'import mmfreq' in body]
COMMANDS = re.compile(r'^<!-- run by: tests/docs/test_adding_a_size\.py::(\w+) -->\n```bash\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def run(tree, *command):
    """Run a Python command in the copy; returns what it printed."""
    environment = os.environ | {'PYTHONPATH': str(tree), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f'{" ".join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}'
    return done.stdout


def run_block(tree, test):
    """Run the commands of the page that name a test of this file."""
    (block,) = (body for name, body in COMMANDS.findall(PAGE) if name == test)
    return [run(tree, *shlex.split(line.removeprefix('python '))) for line in block.splitlines()]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the source tree with the steps of the page done."""
    tree = tmp_path_factory.mktemp('size')
    skip = shutil.ignore_patterns('__pycache__', '.mim', 'generated', '_build')
    for folder in ('mmfreq', 'tools', 'configs', 'tests', 'docs'):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    for name in ('pyproject.toml', 'model-index.yml', 'model_zoo.md', 'README.md'):
        shutil.copy(ROOT / name, tree / name)
    for step in STEPS:
        path = tree / (step['new'] or step['old'] or step['end'])
        assert path.exists() == (step['new'] is None), path
        text = path.read_text(encoding='utf-8') if path.exists() else ''
        if step['where'] == 'the row of the family':
            start = step['body'].split('` |')[0]
            (row,) = (line for line in text.splitlines() if line.startswith(f'{start}` |') and ' to ' in line)
            text = text.replace(row, step['body'].strip())
        elif step['old']:
            text = changed(text, step['where'], step['body'])
        else:
            text += step['body']
        path.write_text(text, encoding='utf-8')
    return tree


@pytest.fixture(scope='module')
def zoo(tree):
    """What the commands of section 4 print."""
    return run_block(tree, 'test_the_zoo_is_written')


def test_every_block_is_used():
    assert len(STEPS) == 5 and len(SCRIPTS) == 2 and len(COMMANDS.findall(PAGE)) == PAGE.count('```bash') == 2
    assert PAGE.count('\n```\n') == len(STEPS) + len(SCRIPTS) + 2


def test_the_size_is_known_by_its_name(tree):
    code = (
        'import mmfreq, mmfreq.integrations.timm, timm\n'
        "assert 'hornet-nano-gf' in mmfreq.list_archs('hornet')\n"
        "print(timm.create_model('hornet_nano_gf', features_only=True).feature_info.channels())\n"
    )
    assert run(tree, '-c', code).strip().endswith('[48, 96, 192, 384]')


def test_the_scripts_run(tree):
    as_dict, counts = SCRIPTS
    run(tree, '-c', as_dict)
    printed = run(tree, '-c', counts).strip()
    (given,) = (step['body'] for step in STEPS if step['old'] == 'tests/models/test_hornet.py')
    assert printed == '[' + re.search(r'\((.*)\)', given)[1].replace('_', '') + ']'


def test_the_zoo_is_written(tree, zoo):
    page = (tree / 'model_zoo.md').read_text(encoding='utf-8')
    assert '[hornet-nano-gf_32xb128-300e_in1k]' in page and 'Parameters: 8863588' in (
        tree / 'configs/cls/hornet/metafile.yml'
    ).read_text(encoding='utf-8')
    assert '0 of them differ' in zoo[1]


def test_the_checks_pass(tree, zoo):
    (printed,) = run_block(tree, 'test_the_checks_pass')
    assert int(re.search(r'(\d+) passed', printed)[1]) > 30, printed[-500:]
