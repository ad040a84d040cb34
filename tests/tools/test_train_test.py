"""train.py and test.py as a user calls them: output, exit status, and that invalid input loses nothing."""

import re

import cv2
import pytest
import torch

import mmfreq  # noqa: F401
from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.testing.toy_segmentation import write_toy_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quiet_loggers')]


@pytest.fixture(scope='module')
def tools(tool_main, quiet_loggers):
    """The two tools' `main`, by name."""
    return {name: tool_main(name) for name in ('train', 'test')}


@pytest.fixture(scope='module')
def run(tools, tmp_path_factory):
    """A trained run: folder with data/, toy.py, and work/ after two iterations."""
    folder = tmp_path_factory.mktemp('run')
    write_toy_ade20k(folder / 'data', train=4, val=2, size=(64, 64), seed=0)
    config = write_toy_config(folder / 'toy.py', folder / 'data')
    tools['train']([config, '--work-dir', str(folder / 'work'), '--seed', '3'])
    return folder


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def refused(main, argv, capsys):
    """The message of a call that must end with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in argv])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message[message.index('error: ') :]


def test_training_saves_a_checkpoint_with_its_seed(run):
    assert (run / 'work' / 'last_checkpoint').read_text().endswith('iter_2.pth')
    assert torch.load(run / 'work' / 'iter_2.pth', weights_only=True)['meta']['seed'] == 3


def test_resume_with_and_without_a_path(tools, run, tmp_path):
    path = run / 'work' / 'iter_2.pth'
    argv = [run / 'toy.py', '--work-dir', tmp_path, '--resume', path, '--cfg-options', 'train_cfg.max_iters=3']
    tools['train']([str(arg) for arg in argv])
    assert torch.load(tmp_path / 'iter_3.pth', weights_only=True)['meta']['iter'] == 3
    tools['train']([*map(str, argv[:3]), '--resume', '--cfg-options', 'train_cfg.max_iters=4'])
    assert torch.load(tmp_path / 'iter_4.pth', weights_only=True)['meta']['iter'] == 4


def test_baseline_prints_the_summary_line(tools, run, tmp_path, capsys):
    out, show = tmp_path / 'out', tmp_path / 'show'
    argv = [run / 'toy.py', run / 'work' / 'iter_2.pth', '--work-dir', tmp_path / 'w', '--baseline', '--tta']
    tools['test']([str(arg) for arg in [*argv, '--out', out, '--show-dir', show]])
    printed = capsys.readouterr().out.strip().splitlines()
    line = re.fullmatch(r'mIoU (\d+\.\d\d), constant predictor (\d+\.\d\d), ratio (\d+\.\d)', printed[-1])
    assert line and float(line[3]) == pytest.approx(float(line[1]) / float(line[2]), abs=0.06)
    assert sum(name in row for row in printed for name in ('ground', 'stripes')) >= 2
    assert len(list(out.glob('val_*.png'))) == len(list(show.glob('*.png'))) == 2
    assert {int(value) for path in out.iterdir() for value in cv2.imread(str(path), 0).ravel()} <= set(range(1, 7))


def break_data(run, tmp_path):
    return ['--work-dir', tmp_path / 'w', '--cfg-options', 'val_dataloader.dataset.data_root=data/none']


def break_checkpoint(run, tmp_path):
    whole = (run / 'work' / 'iter_2.pth').read_bytes()
    (tmp_path / 'short.pth').write_bytes(whole[:-1000])
    return ['--work-dir', tmp_path / 'w', '--resume', tmp_path / 'short.pth']


def other_family(run, tmp_path):
    torch.save({'state_dict': {'layer1.0.conv1.weight': torch.ones(1)}}, tmp_path / 'resnet.pth')
    return ['--work-dir', tmp_path / 'w', '--cfg-options', f'load_from={tmp_path / "resnet.pth"}']


BAD_TRAINING = {
    'missing data root': (break_data, r'val_dataloader\.dataset\.data_root=.*looked at /'),
    'truncated checkpoint': (break_checkpoint, r'short\.pth'),
    'another family': (other_family, r'resnet\.pth.*ResNet.*layer1\.0\.conv1\.weight'),
    'nothing to resume': (lambda run, tmp: ['--work-dir', tmp / 'w', '--resume'], r'--resume found no folder .*/w'),
    'no such checkpoint': (lambda run, tmp: ['--work-dir', tmp / 'w', '--resume', 'no.pth'], r"'no\.pth' does not exist"),
    'another config': (
        lambda run, tmp: ['--work-dir', run / 'work', '--cfg-options', 'model.decode_head.channels=8'],
        r'of another config.*channels is 16 there and 8 here',
    ),
    'classes': (
        lambda run, tmp: ['--work-dir', tmp / 'w', '--cfg-options', 'model.decode_head.num_classes=5'],
        r'has 6 classes, but model\.decode_head has num_classes=5',
    ),
    'unknown arch': (
        lambda run, tmp: ['--work-dir', tmp / 'w', '--cfg-options', 'model.backbone.arch=hornet-mikro'],
        r"'hornet-mikro' is unknown; nearest: hornet-micro",
    ),
    'no label': (
        lambda run, tmp: [
            *['--work-dir', tmp / 'w', '--cfg-options', 'train_dataloader.dataset.data_prefix.seg_map_path=annotations/validation'],
        ],
        r'4 of the 4 images have no label: .*train_00000\.jpg.*Expected the label of .*annotations/validation/train_00000\.png',
    ),
    'labels': (
        lambda run, tmp: [
            *['--work-dir', tmp / 'w', '--cfg-options', 'train_dataloader.dataset.reduce_zero_label=False'],
            *['train_dataloader.dataset.pipeline.1.reduce_zero_label=False'],
        ],
        r'train_0000\d\.png has the labels 6 .*reduce_zero_label',
    ),
}


@pytest.mark.parametrize('dry', [False, True])
@pytest.mark.parametrize('case', BAD_TRAINING)
def test_invalid_training_input_is_refused_and_loses_nothing(tools, run, tmp_path, capsys, case, dry):
    arguments, pattern = BAD_TRAINING[case]
    argv = [run / 'toy.py', *['--dry-run'][: int(dry)], *arguments(run, tmp_path)]
    before = content(run)
    message = refused(tools['train'], argv, capsys)
    assert re.search(pattern, message, re.DOTALL), message
    assert content(run) == before
    assert not list((tmp_path / 'w').glob('*.pth'))


def test_dry_run_writes_nothing(tools, run, tmp_path, capsys):
    before = content(run)
    tools['train']([str(arg) for arg in [run / 'toy.py', '--work-dir', tmp_path / 'w', '--dry-run', '--seed', '3']])
    assert 'Dry run: everything was built, nothing was trained' in capsys.readouterr().out
    assert content(run) == before and not (tmp_path / 'w').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is an accelerator')
def test_amp_without_an_accelerator(tools, run, tmp_path, capsys):
    assert '--amp needs an accelerator' in refused(tools['train'], [run / 'toy.py', '--work-dir', tmp_path, '--amp'], capsys)


@pytest.mark.parametrize(
    ('arguments', 'pattern'),
    [
        (['no.pth'], r"The checkpoint 'no\.pth' does not exist: looked for /"),
        (['WORK', '--cfg-options', 'test_dataloader.dataset.data_root=none'], r'test_dataloader\.dataset\.data_root='),
        (['WORK', '--tta', '--cfg-options', 'tta_pipeline=None'], 'does not define tta_pipeline'),
    ],
)
def test_invalid_testing_input_is_refused_and_loses_nothing(tools, run, tmp_path, capsys, arguments, pattern):
    argv = [run / 'work' / 'iter_2.pth' if arg == 'WORK' else arg for arg in arguments]
    before = content(run)
    message = refused(tools['test'], [run / 'toy.py', *argv, '--work-dir', tmp_path / 'w'], capsys)
    assert re.search(pattern, message), message
    assert content(run) == before and not (tmp_path / 'w').exists()


def test_missing_config_file(tools, tmp_path, capsys):
    assert 'looked for /' in refused(tools['train'], ['none.py'], capsys)
    assert 'looked for /' in refused(tools['test'], ['none.py', 'none.pth'], capsys)
