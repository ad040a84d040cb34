"""benchmarks/filter_resizing.py: every size and policy is tested once, with the sizes and policies that the page names."""

import json

import pytest
from mmengine.config import Config

from mmfreq.ops import RESIZE_POLICIES

LEAF = """\
model = dict(backbone=dict(type='mmfreq.HorNet', arch='hornet-micro', img_size=128), data_preprocessor=dict(size=(128, 128)))
test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(360, 270))]))
"""


@pytest.fixture
def resizing(benchmark_script):
    return benchmark_script('filter_resizing')


@pytest.fixture
def run(resizing, tmp_path):
    """A run that is complete, of a config whose test images are 360 wide and 270 high."""
    config = tmp_path / 'small.py'
    config.write_text(LEAF)
    (tmp_path / 'last_checkpoint').write_text('iter_4.pth')
    return resizing.Run(config, 0, tmp_path, {'test_dataloader.dataset.data_root': 'data'})


def test_all_policies_that_resize_are_compared(resizing):
    assert {*resizing.POLICIES} == {*RESIZE_POLICIES} - {'none'}


def test_each_size_and_policy_is_tested_once(resizing, run, monkeypatch):
    asked = []

    def evaluate(config, checkpoint, work_dir, cfg_options):
        cfg = Config.fromfile(config)
        cfg.merge_from_dict({key.replace('pipeline.1.', 'resize.'): value for key, value in cfg_options.items()})
        asked.append((cfg.test_dataloader.dataset.resize.scale, cfg.model.backbone.filter_resize))
        assert checkpoint == 'iter_4.pth' and cfg.test_dataloader.dataset.data_root == 'data'
        return {'mIoU': 10.0 * len(asked), 'aAcc': 1.0}

    monkeypatch.setattr('mmfreq.engine.launch.evaluate', evaluate)
    model = resizing.Model('small', run.config, (run, run))
    table = resizing.size_table(model, (0.5, 2.0))
    assert asked == [(size, policy) for size in ((180, 135), (720, 540)) for policy in resizing.POLICIES]
    assert table.rows[0] == ('0.5', '135x180', '10.0, 10.0', '20.0, 20.0', '30.0, 30.0', '40.0, 40.0')
    assert table.rows[1][:3] == ('2', '540x720', '50.0, 50.0')
    assert json.loads((run.folder / resizing.SCORES).read_text())['540x720']['modes'] == 80.0


def test_a_pipeline_without_a_size_is_refused(resizing, run):
    run.config.write_text(LEAF.replace('scale=(360, 270)', 'scale_factor=1.0'))
    with pytest.raises(ValueError, match='one Resize with a scale'):
        resizing.size_table(resizing.Model('small', run.config, (run,)), (1.0,))
