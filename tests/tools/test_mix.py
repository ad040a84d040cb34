"""mix.py as a user calls it: the config alone on the standard output, the rest on the standard error, and mistakes in one line."""

import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

TOOL = Path(__file__).parents[2] / 'tools' / 'mix.py'
UPERNET = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


@pytest.fixture
def mix(monkeypatch, capsys):
    """The tool's `main`; returns what it printed."""
    monkeypatch.syspath_prepend(str(TOOL.parent))
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # of loggers of earlier tests, whose streams pytest has closed
    main = importlib.import_module('mix').main

    def run(*args):
        main([str(arg) for arg in args])
        return capsys.readouterr()

    return run


@pytest.mark.slow
def test_from_an_empty_folder_into_a_file(tmp_path):
    """In a fresh process, with its standard output in a file: only the config may be written there."""
    (tmp_path / 'home').mkdir()
    with open(tmp_path / 'new.py', 'w') as new:
        command = [sys.executable, str(TOOL), UPERNET, 'dfformer-s18']
        done = subprocess.run(command, cwd=tmp_path / 'home', stdout=new, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cfg = Config.fromfile(tmp_path / 'new.py')
    assert cfg.model.backbone.arch == 'dfformer-s18' and cfg.model.decode_head.in_channels == [64, 128, 320, 512]
    assert '\n  model.pretrained: ' in done.stderr
    assert '\n  model.auxiliary_head.in_channels: 1024 -> 320\nNote: ' in done.stderr
    assert list((tmp_path / 'home').iterdir()) == []


def test_options_reach_the_config(mix, tmp_path):
    printed = mix(RETINANET, 'hornet_micro', '--img-size', 64, '--set', 'model.backbone.out_indices=0,2,3', 'model.neck.num_outs=4')
    (tmp_path / 'new.py').write_text(printed.out)
    model = Config.fromfile(tmp_path / 'new.py').model
    assert (model.backbone.arch, model.backbone.img_size, model.backbone.out_indices) == ('hornet-micro', 64, (0, 2, 3))
    assert (model.neck.in_channels, model.neck.num_outs) == ([16, 64, 128], 4)
    assert '\n  model.neck.num_outs: 5 -> 4\n' in printed.err
    assert re.search('Note: .*strides 8, 16, 32 .*4, 16, 32', printed.err)


def test_out_writes_a_leaf_beside_its_base(mix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine').mkdir()
    Path('base.py').write_text(f"_base_ = '{RETINANET}'\n")
    printed = mix('base.py', 'hornet-micro', '--out', 'mine/new.py')
    assert printed.out == '' and printed.err.endswith(' python tools/train.py mine/new.py\n')
    text = Path('mine/new.py').read_text()
    assert text.startswith('# hornet-micro in base.py') and "\n_base_ = '../base.py'\n" in text
    assert Config.fromfile('mine/new.py').model.backbone.type == 'mmfreq.HorNet'


def test_output_of_libraries_is_not_in_the_config(mix, monkeypatch):
    import mmfreq.config.mix as module

    real = module.mix

    def printing(*args, **kwargs):
        print('output of a library')
        return real(*args, **kwargs)

    monkeypatch.setattr(module, 'mix', printing)
    printed = mix(RETINANET, 'hornet-micro')
    assert 'output of a library' in printed.err and printed.out.startswith('# hornet-micro in mmdet::')


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ((UPERNET, 'hornet-tinny-gf'), "'hornet-tinny-gf' is unknown; nearest: hornet-tiny-gf"),
        (('mmseg::upernet/upernet_r50_ade20k.py', 'hornet-micro'), 'nearest: mmseg::upernet/upernet_r'),
        (('none.py', 'hornet-micro'), "'none.py'"),
        ((UPERNET, 'hornet-micro', '--set', 'model.backbone.depth'), "'model.backbone.depth'"),
        ((UPERNET, 'hornet-micro', '--set', 'model.backbone.depth=18'), 'mmfreq.HorNet does not have an argument depth'),
        ((UPERNET, 'hornet-micro', '--img-size', 16), '32, got 16'),
        ((UPERNET, 'hornet-micro', '--out', 'there.py'), 'there.py'),
        ((UPERNET, 'hornet-micro', '--out', 'no/x.py'), '/no'),
        ((UPERNET,), 'the following arguments are required: ARCH'),
    ],
)
def test_errors_are_one_message_and_change_no_file(mix, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.py').write_text('mine')
    with pytest.raises(SystemExit) as end:
        mix(*args)
    printed = capsys.readouterr()
    assert end.value.code == 2 and message in printed.err and printed.out == ''
    assert [path.name for path in tmp_path.iterdir()] == ['there.py'] and (tmp_path / 'there.py').read_text() == 'mine'
