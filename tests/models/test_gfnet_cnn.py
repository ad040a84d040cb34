"""GFNet-CNN: what we say of our reconstruction holds, and it is labelled wherever a user meets it."""

import pytest
import torch

import mmfreq
from mmfreq.checkpoint.rules import describe
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.layers import GlobalLocalFilter
from mmfreq.models.backbones import gfnet_cnn
from mmfreq.models.classifiers.gfnet import GFNetCNNClassifier

ARCHS = [arch for arch in gfnet_cnn.ARCHS if 'micro' not in arch]


def test_it_is_labelled():
    for text in (gfnet_cnn.__doc__, gfnet_cnn.GFNetCNN.__doc__, GFNetCNNClassifier.__doc__):
        assert 'our reconstruction' in text.lower()
    state = mmfreq.build_backbone('gfnet-cnn-micro').state_dict()
    assert describe(state) == 'GFNet-CNN (our reconstruction)'


@pytest.mark.parametrize('arch', ARCHS)
def test_every_block_has_a_global_filter_next_to_a_local_convolution(arch):
    with torch.device('meta'):
        model = mmfreq.build_backbone(arch)
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) == sum(model.arch_depths)
    for stage, grid in zip(model.stages, (56, 28, 14, 7)):
        for block in stage:
            assert type(block.filter) is GlobalLocalFilter and block.filter.grid == (grid, grid)


def test_its_sizes_are_those_of_convnext():
    timm = pytest.importorskip('timm')
    for arch in ARCHS:
        size = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}[arch[-1]]
        with torch.device('meta'):
            theirs = timm.create_model(f'convnext_{size}')
            ours = mmfreq.build_backbone(arch)
        assert [info['num_chs'] for info in theirs.feature_info] == list(ours.channels)
        assert [len(stage.blocks) for stage in theirs.stages] == list(ours.arch_depths)


@pytest.mark.parametrize('arch', ['gfnet-micro', 'gfnet-h-micro', 'hornet-micro', 'dfformer-micro'])
def test_files_of_other_models_are_refused_by_name(arch):
    state = mmfreq.build_classifier(arch).state_dict()
    with pytest.raises(CheckpointError, match=describe(state).split(' (')[0]):
        mmfreq.load_weights(mmfreq.build_backbone('gfnet-cnn-micro'), state)


def test_its_classifier_fills_its_backbone():
    state = mmfreq.build_classifier('gfnet-cnn-micro').state_dict()
    report = mmfreq.load_weights(mmfreq.build_backbone('gfnet-cnn-micro'), state)
    assert report.layout == 'our reconstruction' and set(report.fresh) == {
        f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')
    }
