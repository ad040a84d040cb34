"""Laws of the doctor: the exit code is the verdict, JSON and table tell the same, and it runs where nothing is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmfreq
from mmfreq import doctor
from mmfreq.compat.stack import Facts, requirements

ROOT = Path(mmfreq.__file__).parents[1]
SICK = Facts(python='3.11.7', versions={'torch': '2.15.0'}, devices={'torch built for CUDA': 'no', 'GPUs': []})
SOUND = Facts(
    python='3.11.7',
    versions={name: line.partition('==')[2] or '80.0' for name, line in requirements().items()} | {'numpy': '2.4.6'},
    fallback=True,
    ops={'nms': True, 'carafe_forward': False},
    devices={'torch built for CUDA': '13.0', 'GPUs': ['a GPU', 'a GPU']},
)


@pytest.fixture
def given(monkeypatch):
    return lambda facts: monkeypatch.setattr(doctor, 'gather', lambda distributions: facts)


@pytest.mark.parametrize('facts, code', [(SICK, 1), (SOUND, 0)])
def test_the_exit_code_is_the_verdict(given, capsys, facts, code):
    given(facts)
    assert doctor.main([]) == code
    table = capsys.readouterr().out
    assert doctor.main(['--json']) == code
    data = json.loads(capsys.readouterr().out)
    assert data['usable'] == (code == 0)
    assert table.rstrip().endswith(data['mend'] or 'nothing to mend')
    assert [finding['name'] for finding in data['findings']][:3] == ['python', 'torch', 'torchvision']


def test_ops_are_listed_as_real_and_stubs(given, capsys):
    given(SOUND)
    doctor.main(['--json'])
    assert json.loads(capsys.readouterr().out)['mmcv_ops'] == {'source': 'mmfreq', 'real': ['nms'], 'stubs': ['carafe_forward']}
    doctor.main([])
    text = capsys.readouterr().out
    assert 'can be called (1, mmfreq): nms' in text and 'raise when called (1): carafe_forward' in text and 'a GPU, a GPU' in text


def test_the_plain_table_tells_what_the_rich_one_tells(given, capsys, monkeypatch):
    given(SICK)
    monkeypatch.setitem(sys.modules, 'rich.console', None)
    doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ['mmdet', 'fail', 'not', 'installed', '->', 'pip', 'install', 'mmdet==3.3.0'] for line in lines)


def test_it_runs_on_the_standard_library_alone():
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); from mmfreq.doctor import main; sys.exit(main(sys.argv[1:]))'
    for arguments in ([], ['--json']):
        command = [sys.executable, '-I', '-S', '-c', code, *arguments]  # -S: no installed packages
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and not done.stderr
    data = json.loads(done.stdout)
    assert {finding['name']: finding['what'] for finding in data['findings']}['torch'] == 'not installed'
    assert all(line.replace('"', '') in data['mend'].replace('"', '') for line in requirements().values())


@pytest.mark.slow
def test_it_judges_this_environment():
    done = subprocess.run([sys.executable, '-m', 'mmfreq.doctor', '--json'], capture_output=True, text=True, cwd=ROOT)
    data = json.loads(done.stdout)
    assert done.returncode == 0 and data['usable'], data['findings']
    assert 'nms' in data['mmcv_ops']['real'] and len(data['mmcv_ops']['real']) + len(data['mmcv_ops']['stubs']) > 80
