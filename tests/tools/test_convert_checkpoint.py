"""`tools/convert_checkpoint.py`: what it writes, prints and refuses."""

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmfreq
from tests.weights.layouts import classifier_state, dense_state, named, to_mmpretrain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def convert(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    main = importlib.import_module('convert_checkpoint').main
    return lambda *args: main([str(arg) for arg in args])


@pytest.fixture
def source(tmp_path):
    """A file of mmpretrain, with an optimizer."""
    path = tmp_path / 'source.pth'
    torch.save({'state_dict': to_mmpretrain(classifier_state('hornet-micro')), 'optimizer': {'lr': 1.0}, 'epoch': 3}, path)
    return path


def assert_refused(convert, capsys, message, *args):
    with pytest.raises(SystemExit) as ended:
        convert(*args)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith('error: ') and message in err and 'Traceback' not in err
    return err


def test_to_safetensors_and_back(convert, source, tmp_path, capsys):
    first_file, safe, back = (tmp_path / name for name in ('a.pth', 'a.safetensors', 'back.pth'))
    convert(source, first_file, '--arch', 'hornet-micro')
    convert(first_file, safe)
    convert(safe, back)
    assert 'in the same layout' in capsys.readouterr().out
    assert safe.read_bytes()[8:].startswith(b'{') and safe.stat().st_mode == back.stat().st_mode
    first, last = (torch.load(path, weights_only=True) for path in (first_file, back))
    assert first['meta'] == last['meta'] and first['state_dict'].keys() == last['state_dict'].keys()
    assert all(torch.equal(value, last['state_dict'][name]) for name, value in first['state_dict'].items())
    convert(safe, tmp_path / 'published.safetensors', '--invert')
    assert mmfreq.load_weights(mmfreq.build_classifier('hornet-micro', num_classes=7), tmp_path / 'published.safetensors')
    assert_refused(convert, capsys, 'already in the mmfreq layout', first_file, tmp_path / 'again.pth')


@pytest.mark.slow
def test_round_trip_of_files(convert, source, tmp_path, capsys):
    converted, back = tmp_path / 'converted.pth', tmp_path / 'back.pth'
    convert(source, converted, '--arch', 'hornet-micro')
    out = capsys.readouterr().out
    assert 'mmpretrain classifier layout of hornet, fits the classifier with 7 classes of hornet-micro' in out
    state = classifier_state('hornet-micro')
    assert f'{len(state)} tensors, {len(state)} renamed; dropped: optimizer, epoch' in out
    assert hashlib.sha256(converted.read_bytes()).hexdigest() in out
    written = torch.load(converted, weights_only=True)
    assert written.keys() == {'meta', 'state_dict'} and written['meta']['mmfreq']['arch'] == 'hornet-micro'
    model = mmfreq.build_classifier('hornet-micro', num_classes=7)
    assert mmfreq.load_weights(model, converted).renamed == {}
    convert(converted, back, '--invert')
    assert 'arch by its shapes: hornet-micro' in capsys.readouterr().out
    got, want = torch.load(back, weights_only=True), torch.load(source, weights_only=True)
    assert got.keys() == {'state_dict'} and got['state_dict'].keys() == want['state_dict'].keys()
    assert all(torch.equal(got['state_dict'][name], value) for name, value in want['state_dict'].items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['back.pth', 'converted.pth', 'source.pth']


def test_the_arch_is_found_and_noted(convert, tmp_path, capsys):
    whole = {'backbone.' + n: v for n, v in dense_state('gfnet-h-micro').items()} | named(['decode_head.x'])
    torch.save({'state_dict': whole}, tmp_path / 'source.pth')
    convert(tmp_path / 'source.pth', tmp_path / 'converted.pth')
    assert 'official pyramid, whole model layout of gfnet, arch by its shapes: gfnet-h-micro' in capsys.readouterr().out
    assert torch.load(tmp_path / 'converted.pth', weights_only=True)['meta']['mmfreq']['arch'] == 'gfnet-h-micro'
    convert(tmp_path / 'source.pth', tmp_path / 'converted.pth', '--arch', 'gfnet_h_micro', '--force')
    assert 'fits the backbone of gfnet_h_micro' in capsys.readouterr().out


def test_entry_option(convert, tmp_path, capsys):
    state = dense_state('affnet-micro')
    torch.save({'model_state_dict': {n: v + 1 for n, v in state.items()}, 'ema_state_dict': state}, tmp_path / 'source.pt')
    for option, added, dropped in (([], 0, 'model_state_dict'), (['--entry', 'model_state_dict'], 1, 'ema_state_dict')):
        convert(tmp_path / 'source.pt', tmp_path / 'converted.pth', '--force', *option)
        assert f'dropped: {dropped}' in capsys.readouterr().out
        written = torch.load(tmp_path / 'converted.pth', weights_only=True)['state_dict']
        assert all(torch.equal(written[name], value + added) for name, value in state.items())


@pytest.mark.slow
def test_nothing_is_overwritten_unless_forced(convert, source, tmp_path, capsys):
    target = tmp_path / 'converted.pth'
    target.write_text('mine')
    assert_refused(convert, capsys, 'exists. Use --force', source, target)
    assert target.read_text() == 'mine'
    convert(source, target, '--force')
    assert torch.load(target, weights_only=True)['state_dict']


def test_refusals_are_one_line_and_leave_nothing_behind(convert, source, tmp_path, capsys):
    target = tmp_path / 'converted.pth'
    torch.save(to_mmpretrain(classifier_state('hornet-micro')) | named(['surprise']), tmp_path / 'unknown.pth')
    torch.save({'layer1.0.conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    for message, *args in (
        ('knows 1 name(s): surprise', tmp_path / 'unknown.pth', target),
        ('no layout known here', tmp_path / 'resnet.pth', target),
        ('no layout known here', tmp_path / 'resnet.pth', target, '--invert'),
        ('truncated or not a checkpoint', tmp_path / 'broken.pth', target),
        ('There is no checkpoint at', tmp_path / 'absent.pth', target),
        ("Expected the entry 'model'", source, target, '--entry', 'model'),
        ("arch 'hornet-mikro' is unknown", source, target, '--arch', 'hornet-mikro'),
        ('look like HorNet', source, target, '--arch', 'affnet-micro'),
        ('does not exist. Create it', source, tmp_path / 'nowhere' / 'converted.pth'),
    ):
        assert assert_refused(convert, capsys, message, *args).count('\n') == 1
    assert_refused(convert, capsys, 'does not fit HorNetClassifier hornet-tiny-gf', source, target, '--arch', 'hornet-tiny-gf')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['broken.pth', 'resnet.pth', 'source.pth', 'unknown.pth']


def test_a_failed_write_keeps_the_old_file(convert, source, tmp_path, monkeypatch):
    target = tmp_path / 'converted.pth'
    target.write_text('mine')

    def full(_, path):
        Path(path).write_bytes(b'half')
        raise RuntimeError('no space left')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(RuntimeError, match='no space left'):
        convert(source, target, '--force')
    assert target.read_text() == 'mine' and len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_it_runs_as_a_command(source, tmp_path):
    command = [sys.executable, str(ROOT / 'tools/convert_checkpoint.py'), source, tmp_path / 'converted.pth']
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and 'sha256' in done.stdout, done.stderr


def test_entry_and_invert_exclude_each_other(convert, source, capsys):
    with pytest.raises(SystemExit) as ended:
        convert(source, 'x', '--invert', '--entry', 'model')
    assert ended.value.code == 2 and '--entry' in capsys.readouterr().err
