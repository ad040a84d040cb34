"""benchmarks/filter_resizing.py: every size and policy is tested once, with the sizes and policies that the page names."""

import json

import pytest
from mmengine.config import Config

from mmfreq.errors import UserError
from mmfreq.ops import RESIZE_POLICIES
from mmfreq.zoo.reproduction import fingerprint

LEAF = """\
_base_ = 'mmfreq::seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(360, 270))]))
"""


@pytest.fixture
def resizing(benchmark_script):
    return benchmark_script('filter_resizing')


@pytest.fixture
def config(tmp_path):
    """A config whose test images are 360 wide and 270 high."""
    path = tmp_path / 'small.py'
    path.write_text(LEAF)
    return path


@pytest.fixture
def asked(resizing, config, tmp_path, monkeypatch):
    """(scale, policy, seed) of each test; there are complete runs of the seeds 0 and 1, and mIoU is the number of the test."""
    for seed in (0, 1):
        folder = tmp_path / 'runs' / 'small' / f'seed{seed}'
        folder.mkdir(parents=True)
        version = fingerprint(resizing.Run(config, seed, folder).cfg, 'data')
        (folder / 'scores.json').write_text(json.dumps({'config': version}))
        (folder / 'last_checkpoint').write_text('iter_4.pth')
    asked = []

    def evaluate(config, checkpoint, work_dir, cfg_options):
        cfg = Config.fromfile(config)
        cfg.merge_from_dict({key.replace('pipeline.1.', 'resize.'): value for key, value in cfg_options.items()})
        seed = int(checkpoint.parent.name.removeprefix('seed'))
        asked.append((tuple(cfg.test_dataloader.dataset.resize.scale), cfg.model.backbone.filter_resize, seed))
        assert checkpoint.name == 'iter_4.pth' and cfg.test_dataloader.dataset.data_root == 'data'
        return {'mIoU': float(len(asked)), 'aAcc': 1.0}

    monkeypatch.setattr('mmfreq.engine.launch.evaluate', evaluate)
    return asked


def test_all_policies_that_resize_are_compared(resizing):
    assert {*resizing.POLICIES} == {*RESIZE_POLICIES} - {'none'}


def test_the_page_of_two_seeds(resizing, config, asked, tmp_path):
    arguments = [str(config), '--work-dir', str(tmp_path / 'runs'), '--data', 'data', '--scales', '0.5', '2']
    resizing.main([*arguments, '--out', str(tmp_path / 'pages' / 'page.md')])
    sizes = ((180, 135), (720, 540))
    assert asked == [(size, policy, seed) for seed in (0, 1) for size in sizes for policy in resizing.POLICIES]
    text = (tmp_path / 'pages' / 'page.md').read_text()
    assert '| 0.5 | 135x180 | 1.0, 9.0 | 2.0, 10.0 | 3.0, 11.0 | 4.0, 12.0 |' in text
    assert '| 2 | 540x720 | 5.0, 13.0 |' in text and 'stored for images of 128x128, trained with `bilinear`' in text
    resizing.main([*arguments, '--scales', '2'])
    assert len(asked) == 16  # nothing was tested again
    file = tmp_path / 'runs/small/seed0' / resizing.SIZES
    file.write_text(json.dumps({'config': 'other'}))
    with pytest.raises(SystemExit):
        resizing.main(arguments)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('scale=(360, 270)', 'scale_factor=1.0'), 'one Resize with a scale'),
        (
            ('test_data', "model = dict(backbone=dict(arch='hornet-tiny-7x7'))\ntest_data"),
            'with stored filters in .*, found HorNet',
        ),
    ],
)
def test_configs_without_a_size_or_filters_are_refused(resizing, config, change, message):
    config.write_text(LEAF.replace(*change))
    with pytest.raises(UserError, match=message):
        resizing.stored_filters(config)
        resizing.sizes_of(Config.fromfile(config), (1.0,))
