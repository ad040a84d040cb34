"""One way to a model with its weights: by the name of an arch, or from a config of any of the three libraries."""

from pathlib import Path

import pytest
import torch

import mmfreq
from mmfreq.apis.loading import load_model
from mmfreq.errors import CheckpointMismatchError, UserError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_an_arch():
    subject = load_model('affnet_micro')
    assert (subject.name, subject.task, subject.size, subject.classes) == ('affnet-micro', 'classification', (256, 256), ())
    assert subject.normalisation.mean == (0, 0, 0) and subject.normalisation.std == (255, 255, 255)
    assert subject.backbone is subject.model and not subject.model.training and not subject.trained


def test_an_archs_backbone_takes_a_classifiers_weights(tmp_path):
    classifier = mmfreq.build_classifier('gfnet-h-micro')
    torch.save(classifier.state_dict(), tmp_path / 'c.pth')
    subject = load_model('gfnet-h-micro', tmp_path / 'c.pth', bare=True)
    assert subject.task == 'features' and subject.trained
    assert torch.equal(subject.model.pos_embed, classifier.pos_embed)


@pytest.mark.parametrize(
    ('config', 'task', 'size', 'classes'),
    [
        ('cls/gfnet/gfnet-ti_8xb128-300e_in1k.py', 'classification', (224, 224), 1000),
        ('seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py', 'segmentation', (128, 128), 6),
        ('det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py', 'detection', (256, 320), 3),
    ],
)
def test_a_config(config, task, size, classes):
    subject = load_model(str(CONFIGS / config))
    assert (subject.task, subject.size, len(subject.classes)) == (task, size, classes)
    assert (subject.normalisation.mean, subject.normalisation.std, subject.normalisation.channels) == (*IMAGENET, 'RGB')
    assert subject.backbone is subject.model.backbone


def test_a_checkpoint_says_what_it_was_trained_with(toy_config, tmp_path):
    model = load_model(str(toy_config)).model
    meta = {'dataset_meta': {'CLASSES': tuple('uvwxyz')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'w.pth')
    subject = load_model(str(toy_config), tmp_path / 'w.pth')
    assert subject.classes == tuple('uvwxyz') and subject.trained
    options = {'model.decode_head.num_classes': 7}
    with pytest.raises(CheckpointMismatchError):
        load_model(str(toy_config), tmp_path / 'w.pth', options)


def test_another_backbone_by_options_leaves_nothing_of_the_old(toy_config):
    options = {'model.backbone.type': 'mmfreq.GFNetPyramid', 'model.backbone.arch': 'gfnet-h-micro'}
    options['model.decode_head.in_channels'] = [16, 24, 32, 48]
    assert load_model(str(toy_config), cfg_options=options).backbone.arch_name == 'gfnet-h-micro'


@pytest.mark.parametrize(
    ('args', 'error', 'message'),
    [
        (('gfnet-h-mikro',), ValueError, 'nearest: gfnet-h-micro'),
        (('none.py',), UserError, r'none\.py'),
        (('gfnet-h-micro', None, {'a': 1}), UserError, 'options.*gfnet-h-micro'),
    ],
)
def test_wrong_ones(args, error, message):
    with pytest.raises(error, match=message):
        load_model(*args)


def test_a_config_of_no_task(tmp_path):
    path = tmp_path / 'c.py'
    path.write_text("model = dict(type='X')\n", encoding='utf-8')
    with pytest.raises(UserError, match=r'default_scope.*None.*mmpretrain, mmseg, mmdet'):
        load_model(str(path))
