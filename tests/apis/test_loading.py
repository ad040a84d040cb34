"""`load_model`: by the name of an arch, or from a config of one of the three libraries."""

from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.apis import load_model
from mmfreq.errors import CheckpointMismatchError, UserError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_load_by_arch():
    loaded = load_model('affnet_micro')
    assert (loaded.name, loaded.task, loaded.size, loaded.classes) == ('affnet-micro', 'classification', (256, 256), ())
    assert loaded.normalization.mean == (0, 0, 0) and loaded.normalization.std == (255, 255, 255)
    assert loaded.backbone is loaded.model and not loaded.model.training and not loaded.trained


def test_backbone_only_accepts_a_classifiers_checkpoint(tmp_path):
    classifier = mmfreq.build_classifier('gfnet-h-micro')
    torch.save(classifier.state_dict(), tmp_path / 'c.pth')
    loaded = load_model('gfnet-h-micro', tmp_path / 'c.pth', backbone_only=True)
    assert loaded.task == 'features' and loaded.trained
    assert torch.equal(loaded.model.pos_embed, classifier.pos_embed)


@pytest.mark.parametrize(
    ('config', 'task', 'size', 'classes'),
    [
        ('cls/gfnet/gfnet-ti_8xb128-300e_in1k.py', 'classification', (224, 224), 1000),
        ('seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py', 'segmentation', (128, 128), 6),
        ('det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py', 'detection', (256, 320), 3),
    ],
)
def test_load_by_config(config, task, size, classes):
    loaded = load_model(str(CONFIGS / config))
    assert (loaded.task, loaded.size, len(loaded.classes)) == (task, size, classes)
    assert (loaded.normalization.mean, loaded.normalization.std, loaded.normalization.channels) == (*IMAGENET, 'RGB')
    assert loaded.backbone is loaded.model.backbone


def test_classes_come_from_the_checkpoint(toy_config, tmp_path):
    model = load_model(str(toy_config)).model
    meta = {'dataset_meta': {'CLASSES': tuple('uvwxyz')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'w.pth')
    loaded = load_model(str(toy_config), tmp_path / 'w.pth')
    assert loaded.classes == tuple('uvwxyz') and loaded.trained
    options = {'model.decode_head.num_classes': 7}
    with pytest.raises(CheckpointMismatchError):
        load_model(str(toy_config), tmp_path / 'w.pth', options)


def test_options_can_replace_the_backbone(toy_config):
    options = {'model.backbone.type': 'mmfreq.GFNetPyramid', 'model.backbone.arch': 'gfnet-h-micro'}
    options['model.decode_head.in_channels'] = [16, 24, 32, 48]
    assert load_model(str(toy_config), cfg_options=options).backbone.arch_name == 'gfnet-h-micro'


@pytest.mark.parametrize(
    ('args', 'error', 'message'),
    [
        (('gfnet-h-mikro',), ValueError, 'nearest: gfnet-h-micro'),
        (('none.py',), UserError, r'none\.py'),
        (('gfnet-h-micro', None, {'a': 1}), UserError, '(?i)options.*gfnet-h-micro'),
    ],
)
def test_invalid_arguments(args, error, message):
    with pytest.raises(error, match=message):
        load_model(*args)


def test_config_without_scope(tmp_path):
    path = tmp_path / 'c.py'
    path.write_text("model = dict(type='X')\n", encoding='utf-8')
    with pytest.raises(UserError, match=r'default_scope mmpretrain, mmseg, mmdet.*None'):
        load_model(str(path))
