"""What docs/adding_a_family.md says works: its blocks make a family in a copy of the source tree, and its commands run there."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmfreq

pytestmark = pytest.mark.slow

ROOT = Path(mmfreq.__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'adding_a_family.md').read_text(encoding='utf-8')
STEP = re.compile(
    r'(?:New file `(?P<new>[^`]+)`(?:, after the rest)?'
    r'|In `(?P<old>[^`]+)`, (?P<where>among the imports|into `\w+`|before `\w+`)):\s+'
    r'```python\n(?P<body>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
COMMANDS = re.compile(r'^<!-- run by: tests/test_adding_a_family\.py::(\w+) -->\n```bash\n(.*?)^```$', re.MULTILINE | re.DOTALL)
STEPS = list(STEP.finditer(PAGE))
OUTSIDE = ('my_ripples.py', 'my_config.py')
IN_TREE = [step for step in STEPS if step['new'] not in OUTSIDE]
GOLDEN = 'tests/golden/ripplenet__ripplenet_micro.json'


def changed(text, where, body):
    """A source file with a block put among its imports, into the list or dict of a name, or before its assignment."""
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    if where == 'among the imports':
        after = max(node.end_lineno for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
        return ''.join((*lines[:after], body, *lines[after:]))
    name = where.split('`')[1]
    (node,) = (node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == name)
    if where.startswith('before'):
        return ''.join((*lines[: node.lineno - 1], body, *lines[node.lineno - 1 :]))
    end, column = node.value.end_lineno - 1, node.value.end_col_offset - 1  # of the closing bracket
    before = ''.join(lines[:end]) + lines[end][:column]
    comma = '' if before.rstrip().endswith((',', '[', '{')) else ', '
    return f'{before}{comma}{body.strip()}\n{lines[end][column:]}{"".join(lines[end + 1 :])}'


def run(tree, *command):
    """Run a Python command in the copy; returns what it printed."""
    environment = os.environ | {'PYTHONPATH': str(tree), 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f'{" ".join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}'
    return done.stdout


def commands(test):
    """The words of the page's commands that a test of this file runs, without `python`."""
    (block,) = (body for name, body in COMMANDS.findall(PAGE) if name == test)
    found = [shlex.split(line) for line in block.splitlines()]
    assert found and all(words[0] == 'python' for words in found)
    return [words[1:] for words in found]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the source tree with the blocks of the page in it."""
    tree = tmp_path_factory.mktemp('family')
    skip = shutil.ignore_patterns('__pycache__', '.mim', '*.html', 'det', 'cls')
    for folder in ('mmfreq', 'tools', 'configs', 'tests/golden'):
        shutil.copytree(ROOT / folder, tree / folder, ignore=skip)
    (tree / 'tests/models').mkdir()
    for name in (
        'pyproject.toml',
        'tests/conftest.py',
        'tests/short_runs.py',
        'tests/test_imports.py',
        'tests/models/test_backbone_contract.py',
    ):
        shutil.copy(ROOT / name, tree / name)
    for step in IN_TREE:
        path = tree / (step['new'] or step['old'])
        assert path.exists() == bool(step['old']), path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = changed(path.read_text(encoding='utf-8'), step['where'], step['body']) if step['old'] else step['body']
        path.write_text(text, encoding='utf-8')
    return tree


@pytest.fixture(scope='module')
def golden(tree):
    """The golden file, made as the page says."""
    make, _ = commands('test_what_the_page_runs')
    run(tree, *make)
    return tree / GOLDEN


def test_every_block_is_taken():
    assert PAGE.count('```python') == len(STEPS) and PAGE.count('```bash') == len(COMMANDS.findall(PAGE))
    assert len(IN_TREE) == 10 and len(STEPS) == 12


def test_tests_that_the_page_names_exist():
    named = re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', PAGE)
    assert len(named) == 5
    for path, function in (*named, ('tests/models/test_backbone_contract.py', 'test_every_family_has_a_micro_arch')):
        assert f'def {function}(' in (ROOT / path).read_text(encoding='utf-8') and function in PAGE


def test_what_the_page_runs(tree, golden):
    _, check = commands('test_what_the_page_runs')
    told = run(tree, *check)
    passed = int(re.search(r'(\d+) passed', told)[1])
    assert passed > 25 and 'skipped' not in told, told[-500:]


def test_another_number_fails_the_golden_test(tree, golden):
    """A published code that scales its filters otherwise is noticed."""
    whole = golden.read_text()
    table = json.loads(whole)
    assert 'complex_weight' in ''.join(table['state_dict']) and golden.stat().st_size < 50_000
    table['outputs'][3]['samples'] = [1.001 * value for value in table['outputs'][3]['samples']]
    golden.write_text(json.dumps(table))
    try:
        with pytest.raises(AssertionError, match='stage3'):
            run(tree, '-m', 'pytest', '-q', 'tests/models/test_ripplenet.py')
    finally:
        golden.write_text(whole)


def test_it_is_known_by_its_name(tree):
    code = (
        'import mmfreq, torch, mmfreq.integrations.timm, timm\n'
        "assert mmfreq.list_archs('ripplenet') == ['ripplenet-micro', 'ripplenet-t']\n"
        "model = mmfreq.build_classifier('ripplenet-micro', num_classes=5)\n"
        'report = mmfreq.load_weights(mmfreq.build_backbone("ripplenet-micro", img_size=384), {"model": model.state_dict()})\n'
        "assert report.resized and report.layout == 'official' and any('head.' in name for name in report.dropped)\n"
        'try:\n'
        "    mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), model.state_dict())\n"
        'except ValueError as error:\n'
        "    assert 'RippleNet' in str(error), error\n"
        'else:\n'
        '    raise AssertionError\n'
        "print(timm.create_model('ripplenet_micro', features_only=True).feature_info.channels())\n"
    )
    assert run(tree, '-c', code).strip().endswith('[16, 24, 32, 48]')


@pytest.mark.slow
def test_the_config_trains(tree):
    make, train = commands('test_the_config_trains')
    run(tree, *make, '--train', '4', '--val', '2')
    options = (
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
        'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0',
    )
    run(tree, *train, '--cfg-options', *options)
    (work,) = (tree / 'work_dirs').iterdir()
    assert 'ripplenet' in work.name and (work / 'iter_1.pth').is_file()


def test_in_a_project_of_your_own(tmp_path):
    """The backbone's block with the two changes that the end of the page tells, in a folder of its own."""
    source = STEPS[0]['body']
    for old, new in re.findall(r'^- `([^`]+)` becomes\s+`([^`]+)`', PAGE, re.MULTILINE):
        assert source.count(old) == 1
        source = source.replace(old, new)
    bodies = {step['new']: step['body'] for step in STEPS if step['new'] in OUTSIDE}
    (tmp_path / 'my_ripples.py').write_text(f'{source}\n\n{bodies["my_ripples.py"]}')
    (tmp_path / 'my_config.py').write_text(bodies['my_config.py'])
    code = (
        'import mmfreq, torch\n'
        'from mmengine.config import Config\n'
        'from mmengine.registry import MODELS, init_default_scope\n'
        "cfg = Config.fromfile('my_config.py')\n"
        "init_default_scope('mmseg')\n"
        'model = MODELS.build(cfg.model.backbone).eval()\n'
        'model.load_state_dict(model.state_dict())\n'
        'print([tuple(out.shape[1:]) for out in model(torch.zeros(1, 3, 64, 96))])\n'
    )
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith('[(16, 16, 24), (24, 8, 12), (32, 4, 6), (48, 2, 3)]')
