"""The command line of few_gpus.py: streams, files and errors."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

import mmfreq

ROOT = Path(mmfreq.__file__).parents[1]
HEADLINE = ROOT / 'configs/upernet_hornet_ade20k.py'


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    main = importlib.import_module('few_gpus').main
    return lambda *args: main([str(arg) for arg in args])


def test_out_writes_a_file(run, tmp_path, capsys):
    out = tmp_path / 'upernet_2xb2.py'
    run(HEADLINE, 2, '--out', out)
    printed = capsys.readouterr()
    assert printed.out == ''
    first = next(line for line in printed.err.splitlines() if '8 GPUs x 2 images' in line)  # before, and now
    assert '2 GPUs x 2 images x 4 accumulated' in first and '16' in first and f'# {first}' in out.read_text().splitlines()
    assert '  optim_wrapper.accumulative_counts: (none) -> 4' in printed.err.splitlines()
    assert re.search(r'SyncBN.* 4 .* 16 ', printed.err)
    assert printed.err.splitlines()[-1].endswith(f' tools/dist_train.sh {out} 2')
    cfg = Config.fromfile(out)
    assert cfg.optim_wrapper.accumulative_counts == 4 and cfg.train_cfg.max_iters == 640000
    assert cfg.model == Config.fromfile(HEADLINE).model


@pytest.mark.slow
def test_only_the_config_is_printed_to_standard_output(tmp_path):
    """In a fresh process, with a model whose constructors write to the log."""
    config = ROOT / 'configs/cls/hornet/hornet-large-gf_32xb64-300e_in1k.py'
    command = [sys.executable, ROOT / 'tools/few_gpus.py', config, '1', '--images', '32', '--scale-lr', 'linear']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('# hornet-large-gf_32xb64-300e_in1k on 1 GPU') and 'tools/few_gpus.py' in done.stdout
    (tmp_path / 'new.py').write_text(done.stdout)
    cfg = Config.fromfile(tmp_path / 'new.py')
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(4e-3 * 64 / 4096) and cfg.auto_scale_lr.base_batch_size == 64
    assert done.stderr.splitlines()[-1].endswith(' python tools/train.py FILE')


@pytest.mark.slow
@pytest.mark.parametrize(
    'config', ['det/hornet/hornet-tiny-gf_mask-rcnn_8xb2-1x_coco.py', 'seg/dfformer/dfformer-s18_fpn_8xb4-40k_ade20k-512x512.py']
)
def test_on_one_gpu(run, config, tmp_path, capsys):
    base = ROOT / 'configs' / config
    images = Config.fromfile(base).train_dataloader.batch_size
    run(base, 1)
    (tmp_path / 'one.py').write_text(capsys.readouterr().out)
    cfg = Config.fromfile(tmp_path / 'one.py')
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (images, 8)
    assert cfg.model == Config.fromfile(base).model


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ((HEADLINE, 3), '1, 2, 4, 8, 16'),
        ((HEADLINE, 4, '--images', 3), '1, 2, 4'),
        ((HEADLINE, 1, '--images', 1), 'decode_head.psp_modules.0.1.bn gets an input of (1, 512, 1, 1)'),
        (('none.py', 2), 'none.py'),
        ((ROOT / 'configs/_base_/schedules/adamw_1x.py', 2), 'model, train_dataloader'),
        ((HEADLINE, 2, '--out', 'no/folder/new.py'), 'no/folder'),
    ],
)
def test_errors_are_short_and_write_nothing(run, args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(*args)
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.err.startswith('error: ') and message in printed.err and 'Traceback' not in printed.err
    assert printed.out == '' and not list(tmp_path.iterdir())


def test_single_images_on_several_gpus(run, capsys):
    """Synchronized norms see the images of both."""
    run(HEADLINE, 2, '--images', 1)
    assert 'train_dataloader = dict(batch_size=1)' in capsys.readouterr().out


def test_an_existing_file_is_not_changed(run, tmp_path, capsys):
    (tmp_path / 'mine.py').write_text('mine = True\n')
    with pytest.raises(SystemExit):
        run(HEADLINE, 2, '--out', tmp_path / 'mine.py')
    assert 'mine.py' in capsys.readouterr().err and (tmp_path / 'mine.py').read_text() == 'mine = True\n'


@pytest.mark.parametrize('wrong', [(HEADLINE,), (HEADLINE, 'two'), (HEADLINE, 2, '--scale-lr', 'cubic')])
def test_usage(run, wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*wrong)
    assert ended.value.code == 2 and 'usage:' in capsys.readouterr().err
