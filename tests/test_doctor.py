"""The doctor: the exit code is the verdict, JSON and table agree, and it runs where nothing is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmfreq
from mmfreq import doctor
from mmfreq.compat.stack import Facts, requirements

ROOT = Path(mmfreq.__file__).parents[1]
BROKEN = Facts(python='3.11.7', versions={'torch': '2.15.0'}, devices={'torch built for CUDA': 'no', 'GPUs': []})
SUPPORTED = Facts(
    python='3.11.7',
    versions={name: line.partition('==')[2] or '80.0' for name, line in requirements().items()} | {'numpy': '2.4.6'},
    fallback=True,
    ops={'nms': True, 'carafe_forward': False},
    devices={'torch built for CUDA': '13.0', 'GPUs': ['a GPU', 'a GPU']},
)


@pytest.fixture
def use_facts(monkeypatch):
    return lambda facts: monkeypatch.setattr(doctor, 'gather', lambda distributions: facts)


@pytest.mark.parametrize('facts, code', [(BROKEN, 1), (SUPPORTED, 0)])
def test_exit_code_is_the_verdict(use_facts, capsys, facts, code):
    use_facts(facts)
    assert doctor.main([]) == code
    table = capsys.readouterr().out
    assert doctor.main(['--json']) == code
    data = json.loads(capsys.readouterr().out)
    assert data['usable'] == (code == 0)
    assert table.rstrip().endswith(data['fix'] or 'nothing to fix')
    assert [finding['name'] for finding in data['findings']][:3] == ['python', 'torch', 'torchvision']


def test_ops_are_listed_as_available_and_missing(use_facts, capsys):
    use_facts(SUPPORTED)
    doctor.main(['--json'])
    assert json.loads(capsys.readouterr().out)['mmcv_ops'] == {'source': 'mmfreq', 'real': ['nms'], 'stubs': ['carafe_forward']}
    doctor.main([])
    text = capsys.readouterr().out
    assert 'can be called (1, mmfreq): nms' in text and 'raise when called (1): carafe_forward' in text and 'a GPU, a GPU' in text


def test_plain_table_has_the_content_of_the_rich_one(use_facts, capsys, monkeypatch):
    use_facts(BROKEN)
    monkeypatch.setitem(sys.modules, 'rich.console', None)
    doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ['mmdet', 'fail', 'not', 'installed', '->', 'pip', 'install', 'mmdet==3.3.0'] for line in lines)


def test_runs_with_the_standard_library_only():
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); from mmfreq.doctor import main; sys.exit(main(sys.argv[1:]))'
    for arguments in ([], ['--json']):
        command = [sys.executable, '-I', '-S', '-c', code, *arguments]  # -S: no installed packages
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and not done.stderr
    data = json.loads(done.stdout)
    assert {finding['name']: finding['what'] for finding in data['findings']}['torch'] == 'not installed'
    assert all(line.replace('"', '') in data['fix'].replace('"', '') for line in requirements().values())


@pytest.mark.slow
def test_this_environment_is_usable():
    done = subprocess.run([sys.executable, '-m', 'mmfreq.doctor', '--json'], capture_output=True, text=True, cwd=ROOT)
    data = json.loads(done.stdout)
    assert done.returncode == 0 and data['usable'], data['findings']
    assert 'nms' in data['mmcv_ops']['real'] and len(data['mmcv_ops']['real']) + len(data['mmcv_ops']['stubs']) > 80
