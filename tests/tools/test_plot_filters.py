"""plot_filters.py draws layers of an arch or a config: the files, the printed text, and the errors."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import mmfreq


@pytest.fixture
def plot_filters(call_tool):
    return partial(call_tool, 'plot_filters')


def check_files(folder, names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for path in folder.iterdir():
        assert np.asarray(Image.open(path).convert('RGB')).std() > 10, path


@pytest.mark.slow
def test_default_draws_and_prints_layers_of_every_stage(plot_filters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = plot_filters('hornet-micro')
    filters = [f'filters_stages.{name}.gnconv.dwconv.png' for name in ('2.0', '2.1', '3.0')]
    check_files(tmp_path / 'work_dirs/plot_filters/hornet-micro', [*filters, 'gating.png'])
    assert 'gating: 4 of 5 layers; draw all with --most 5' in text and 'the weights are random' in text
    assert 'work_dirs/plot_filters/hornet-micro/filters_stages.3.0.gnconv.dwconv.png: gain, phase' in text


@pytest.mark.slow
def test_config_with_a_checkpoint_and_an_image(plot_filters, tmp_path, toy_config):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmseg')
    from mmengine.model.utils import revert_sync_batchnorm

    torch.save(
        {'state_dict': revert_sync_batchnorm(MODELS.build(Config.fromfile(toy_config).model)).state_dict()}, tmp_path / 'w.pth'
    )
    cv2.imwrite(str(tmp_path / 'photo.png'), np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8))
    options = (
        '--image',
        tmp_path / 'photo.png',
        '--size',
        64,
        96,
        '--layers',
        'stages.3',
        '--out',
        tmp_path / 'out',
        '--filters',
        2,
    )
    text = plot_filters(toy_config, tmp_path / 'w.pth', *options)
    check_files(tmp_path / 'out', ['filters_backbone.stages.3.0.gnconv.dwconv.png', 'gating.png'])
    assert 'random' not in text and '--most' not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'plot', 'file', 'layer'),
    [
        ('affnet_micro', 'masks', 'masks.png', 'layer_5.1.global_rep.0.filter'),
        ('dfformer-micro', 'routing', 'routing_stages.3.0.token_mixer.png', 'stages.3.0.token_mixer'),
    ],
)
def test_plots_of_a_synthetic_image(plot_filters, tmp_path, arch, plot, file, layer):
    text = plot_filters(arch, '--draw', plot, '--out', tmp_path / 'out', '--most', 1, '--size', 64, 64)
    check_files(tmp_path / 'out', [file])
    assert layer in text and f'{plot}: 1 of' in text


@pytest.mark.slow
def test_layers_that_are_not_called_are_named(plot_filters, tmp_path):
    """Without labels a detector runs only up to its neck."""
    config = Path(mmfreq.__file__).parents[1] / 'configs/det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
    conv_cfg = 'model.rpn_head.conv_cfg.type=mmfreq.GnConv'
    options = ('model.rpn_head.type=mmfreq.RPNHead', conv_cfg)
    text = plot_filters(
        config, '--draw', 'gating', '--size', 64, 64, '--out', tmp_path / 'out', '--most', 9, '--cfg-options', *options
    )
    check_files(tmp_path / 'out', ['gating.png'])
    assert 'not drawn, because the model does not call them for an image without labels: rpn_head' in text


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('hornet-mikro',), 'nearest: hornet-micro'),
        (('hornet-micro', '--layers', 'stages.7'), "matches 'stages.7'. There are stages.2.0.gnconv.dwconv"),
        (('hornet-tiny-7x7', '--draw', 'filters'), 'has no stored filters'),
        (('dfformer-s18-afno',), 'Choose a model of another family'),
        (('hornet-micro', '--image', 'gone.png'), 'gone.png does not exist'),
        (('hornet-micro', '--grid', '0', '4'), 'at least 1x1'),
        (('hornet-micro', '--filters', '0'), 'at least 1'),
        (('hornet-micro', '--size', '16', '64'), 'at least 32'),
        (('hornet-micro', 'gone.pth'), 'gone.pth'),
    ],
)
def test_errors_are_one_line_with_status_2(plot_filters, args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        plot_filters(*args)
    assert end.value.code == 2 and message in capsys.readouterr().err
