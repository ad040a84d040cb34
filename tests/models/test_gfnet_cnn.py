"""GFNet-CNN: properties that its documentation states, and that it is labelled as a reconstruction."""

from itertools import permutations

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.layers import GlobalLocalFilter
from mmfreq.models import gfnet
from mmfreq.testing import naming
from mmfreq.weights.rules import describe

ARCHS = [arch for arch in gfnet.CNN_ARCHS if 'micro' not in arch]


def test_documentation_says_that_it_is_a_reconstruction():
    for text in (gfnet.__doc__, gfnet.GFNetCNNBlock.__doc__, gfnet.GFNetCNN.__doc__, gfnet.GFNetCNNClassifier.__doc__):
        assert 'reconstruction' in text
    state = mmfreq.build_backbone('gfnet-cnn-micro').state_dict()
    assert describe(state) == 'GFNet-CNN (our reconstruction)'


@pytest.mark.parametrize('arch', ARCHS)
def test_every_block_has_a_global_local_filter(arch):
    with torch.device('meta'):
        model = mmfreq.build_backbone(arch)
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) == sum(model.arch_depths)
    for stage, grid in zip(model.stages, (56, 28, 14, 7)):
        for block in stage:
            assert type(block.filter) is GlobalLocalFilter and block.filter.grid == (grid, grid)


@pytest.mark.slow
def test_sizes_are_those_of_convnext():
    timm = pytest.importorskip('timm')
    for arch in ARCHS:
        size = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}[arch[-1]]
        with torch.device('meta'):
            convnext = timm.create_model(f'convnext_{size}')
            model = mmfreq.build_backbone(arch)
        assert [info['num_chs'] for info in convnext.feature_info] == list(model.channels)
        assert [len(stage.blocks) for stage in convnext.stages] == list(model.arch_depths)


DESCRIPTIONS = {
    'gfnet-micro': 'GFNet (isotropic)',
    'gfnet-h-micro': 'GFNet-H (pyramid)',
    'gfnet-cnn-micro': 'GFNet-CNN (our reconstruction)',
    'hornet-micro': 'HorNet',
    'dfformer-micro': 'DFFormer',
}


@pytest.mark.parametrize('arch,other', [pair for pair in permutations(DESCRIPTIONS, 2) if 'gfnet' in ''.join(pair)])
def test_error_for_a_file_of_another_model_names_both(arch, other):
    state, model = mmfreq.build_classifier(other).state_dict(), mmfreq.build_backbone(arch)
    for load in (mmfreq.load_weights, lambda model, state: model.load_state_dict(state, strict=False)):
        with pytest.raises(CheckpointError, match=naming(DESCRIPTIONS[other], type(model).__name__)):
            load(model, state)


def test_classifier_file_fills_the_backbone():
    state = mmfreq.build_classifier('gfnet-cnn-micro').state_dict()
    report = mmfreq.load_weights(mmfreq.build_backbone('gfnet-cnn-micro'), state)
    assert report.layout == 'our reconstruction' and set(report.fresh) == {
        f'norm{i}.{p}' for i in range(4) for p in ('weight', 'bias')
    }


@pytest.mark.parametrize('arch', gfnet.CNN_ARCHS)
def test_numbers_of_parameters_are_the_hand_computed_ones(arch):
    sizes = gfnet.CNN_ARCHS[arch]
    total = (3 * 16 + 3) * sizes.dims[0]  # stem: 4x4 convolution with bias, norm
    total += sum(2 * a + 4 * a * b + b for a, b in zip(sizes.dims, sizes.dims[1:]))  # norm, 2x2 convolution
    for dim, depth, grid in zip(sizes.dims, sizes.depths, (56, 28, 14, 7)):
        mixer = dim // 2 * (2 * grid * (grid // 2 + 1) + 9) + 2 * 2 * dim  # half global, half 3x3; two norms
        total += depth * (mixer + 2 * dim * 4 * dim + 5 * dim + dim)  # MLP with biases, layer scale
    with torch.device('meta'):
        backbone, classifier = mmfreq.build_backbone(arch), mmfreq.build_classifier(arch)
    assert sum(p.numel() for p in backbone.parameters()) == total + 2 * sum(sizes.dims)
    assert sum(p.numel() for p in classifier.parameters()) == total + 2 * sizes.dims[-1] + 1000 * (sizes.dims[-1] + 1)


def test_block_is_one_residual_around_filter_mlp_and_layer_scale():
    block = gfnet.GFNetCNNBlock(8, 7)
    assert (block.gamma == 1e-6).all()
    torch.nn.init.constant_(block.gamma, 0.5)
    x = torch.randn(2, 8, 7, 7)
    branch = block.mlp(block.filter(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), x + 0.5 * branch)


def test_classifier_norms_the_mean_and_backbone_norms_each_map():
    classifier, backbone = mmfreq.build_classifier('gfnet-cnn-micro', num_classes=3), mmfreq.build_backbone('gfnet-cnn-micro')
    backbone.load_state_dict(classifier.state_dict())
    x = torch.randn(1, 3, 64, 64)
    raw = classifier.forward_stages(x)
    torch.testing.assert_close(classifier(x), classifier.head(classifier.norm(raw[-1].mean((2, 3)))))
    for i, out in enumerate(backbone(x)):
        torch.testing.assert_close(out, getattr(backbone, f'norm{i}')(raw[i]))
