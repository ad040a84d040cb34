"""get_flops.py prints the counts of archs and configs; its errors are one line."""

import re
from functools import partial
from pathlib import Path

import pytest

import mmfreq

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'


@pytest.fixture
def get_flops(call_tool):
    return partial(call_tool, 'get_flops')


def value(text, row):
    return re.search(rf'{re.escape(row)} +│ +([\d.]+ ?[GMk]?) │', text).group(1).strip()


def test_arch_at_its_published_size(get_flops):
    text = get_flops('hornet-tiny-gf')
    assert '1x3x224x224' in text
    assert value(text, 'parameters') == '22.99 M' and value(text, 'conv + matmul') == '3.89 G' and value(text, 'FFT') == '14.40 M'
    assert 'multiply-adds by module' not in text


def test_options_for_backend_shape_and_modules(get_flops):
    fft, matmul = (get_flops('gfnet_h_micro', '--shape', 64, 96, '--spectral', b, '--per-module') for b in ('fft', 'matmul'))
    assert '1x3x64x96' in fft and 'blocks.0' in fft and 'as GFNet, HorNet' in fft
    assert value(fft, 'conv + matmul') == value(matmul, 'conv + matmul') and value(fft, 'FFT') != value(matmul, 'FFT')


def test_headline_config_has_the_published_count(get_flops):
    text = get_flops(CONFIGS / 'upernet_hornet_ade20k.py', '--spectral', 'fft', '--cfg-options', 'model.backbone.with_cp=True')
    assert '1x3x512x2048' in text and value(text, 'parameters') == '54.63 M' and value(text, 'conv + matmul') == '923.55 G'


def test_classification_config(get_flops):
    text = get_flops(CONFIGS / 'cls/affnet/affnet-et_8xb128-300e_in1k-256.py')
    assert '1x3x256x256' in text and value(text, 'parameters') == '1.44 M'


def test_replacing_the_backbone_by_options_removes_all_old_fields(get_flops, tmp_path):
    """As in training; merging only would pass `depth` of the ResNet to the new backbone."""
    config = tmp_path / 'c.py'
    lines = ("_base_ = 'mmseg::_base_/models/upernet_r50.py'", "default_scope = 'mmseg'", 'crop_size = (64, 64)')
    config.write_text('\n'.join(lines), encoding='utf-8')
    options = ('model.backbone.type=mmfreq.GFNetPyramid', 'model.backbone.arch=gfnet-h-micro')
    heads = ('model.decode_head.in_channels=[16,24,32,48]', 'model.auxiliary_head.in_channels=32')
    printed = get_flops(config, '--per-module', '--depth', 1, '--cfg-options', *options, *heads)
    want = sum(p.numel() for p in mmfreq.build_backbone('gfnet-h-micro').parameters())
    assert re.search(r'backbone +│ GFNetPyramid +│ +([\d.]+) k', printed).group(1) == f'{want / 1e3:.2f}'


@pytest.mark.slow
def test_latency_is_measured_if_requested(get_flops):
    printed = get_flops('gfnet-h-micro', '--shape', 64, '--latency')
    milliseconds, runs = re.search(r'latency: ([\d.]+) ms for one image, median of (\d+), .*cores?', printed).groups()
    assert 0 < float(milliseconds) < 3000 and int(runs) > 1
    assert 'latency' not in get_flops('gfnet-h-micro', '--shape', 64)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('hornet-tinny-gf',), 'nearest: hornet-tiny-gf'),
        (('configs/none.py',), 'no config file configs/none.py'),
        (('hornet-micro', '--cfg-options', 'a=1'), '--cfg-options are for configs'),
        (('hornet-micro', '--shape', 0), 'must be the side of an image'),
        (('hornet-micro', '--shape', 16), '32x32'),
        (('hornet-micro', '--shape', 64, '--latency', '--device', 'cuda:77'), 'no CUDA device'),
    ],
)
def test_errors_are_one_line_with_status_2(get_flops, args, message, capsys):
    with pytest.raises(SystemExit) as end:
        get_flops(*args)
    assert end.value.code == 2 and message in capsys.readouterr().err
