"""mmpretrain: FrequencyImageClassifier, its own heads with mmfreq backbones, and its HorNet as a reference."""

import pytest
import torch

import mmfreq
from mmfreq.registry import MODELS
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing.golden import golden_state

pytest.importorskip('mmpretrain')
MICRO = [arch for arch in mmfreq.list_archs() if 'micro' in arch]


def build(arch, **kwargs):
    return MODELS.build(dict(type='mmfreq.FrequencyImageClassifier', arch=arch, num_classes=5, **kwargs))


def samples(*labels):
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(label) for label in labels]


@pytest.mark.parametrize('arch', MICRO)
def test_tensor_loss_and_predict(arch):
    model = build(arch).eval()
    x = contract.image(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)
        torch.testing.assert_close(logits, model.backbone(x), rtol=0, atol=0)
        loss = model(x, samples(1, 4), mode='loss')['loss']
        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.tensor([1, 4])))
        predicted = model(x, mode='predict')
        torch.testing.assert_close(torch.stack([p.pred_score for p in predicted]), logits.softmax(1))
        assert [p.pred_label.item() for p in predicted] == logits.argmax(1).tolist()
    with pytest.raises(RuntimeError, match='features'):
        model(x, mode='features')


def test_batch_augmentations_and_soft_labels():
    model = build('gfnet-micro', train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0)]), data_preprocessor=dict(num_classes=1000))
    data = model.data_preprocessor(dict(inputs=contract.image(2, 3, 64, 64), data_samples=samples(0, 3)), training=True)
    scores = torch.stack([s.gt_score for s in data['data_samples']])
    assert scores.shape == (2, 5)  # the width of the head, not of the inherited config
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    loss = model(data['inputs'], data['data_samples'], mode='loss')['loss']
    want = -(scores * model(data['inputs']).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize('arch', MICRO)
def test_published_and_own_files_load_strictly(arch, tmp_path):
    state = golden_state({n: p.shape for n, p in mmfreq.build_classifier(arch, num_classes=5).state_dict().items()})
    torch.save({'model': state}, tmp_path / 'published.pth')
    by_init = build(arch, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'published.pth')))
    by_init.init_weights()
    by_load = build(arch)
    mmfreq.load_weights(by_load, state)
    own = build(arch)
    own.load_state_dict(by_load.state_dict())
    for model in (by_init, by_load, own):
        assert all(torch.equal(value, state[n.removeprefix('backbone.')]) for n, value in model.state_dict().items())


def test_fresh_head_for_another_number_of_classes(tmp_path):
    torch.save(mmfreq.build_classifier('gfnet-micro', num_classes=9).state_dict(), tmp_path / 'nine.pth')
    with pytest.raises(ValueError, match='head'):
        build('gfnet-micro', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'nine.pth'))).init_weights()
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'nine.pth'), fresh=('head.',))
    model = build('gfnet-micro', init_cfg=init_cfg)
    head = model.backbone.head.weight.clone()
    model.init_weights()
    nine = torch.load(tmp_path / 'nine.pth')
    assert torch.equal(model.backbone.head.weight, head) and torch.equal(model.backbone.norm.weight, nine['norm.weight'])
    assert torch.equal(model.backbone.pos_embed, nine['pos_embed'])


@pytest.mark.parametrize('arch', MICRO)
def test_neck_and_head_of_mmpretrain(arch):
    from mmengine.registry import MODELS as ROOT
    from mmengine.registry import DefaultScope

    type_name = type(mmfreq.build_backbone(arch)).__name__
    width = mmfreq.build_backbone(arch).channels[-1]
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type=f'mmfreq.{type_name}', arch=arch, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=width, loss=dict(type='CrossEntropyLoss')),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = ROOT.build(cfg)
    model.loss(contract.image(2, 3, 64, 64), samples(0, 1))['loss'].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def small_arch():
    """hornet-micro as an arch of mmpretrain's HorNet."""
    mixers = [dict(type='DW', kernel_size=7), dict(type='DW', kernel_size=7), dict(type='GF', h=14, w=8), dict(type='GF', h=7, w=4)]
    return dict(base_dim=16, depths=[1, 1, 2, 1], orders=[2, 3, 4, 5], dw_cfg=mixers)


@pytest.fixture
def reference():
    """A small HorNet-GF of mmpretrain with distinct values in every parameter."""
    from mmpretrain.models.backbones import HorNet

    model = HorNet(small_arch(), out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
    model.eval()
    model.load_state_dict(golden_state({n: p.shape for n, p in model.state_dict().items()}))
    return model


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_maps_equal_those_of_mmpretrains_hornet(reference, prefix, within_limit):
    model = mmfreq.build_backbone('hornet-micro').eval()
    report = mmfreq.load_weights(model, {'state_dict': {prefix + n: v for n, v in reference.state_dict().items()}})
    assert 'mmpretrain' in report.layout and report.renamed and not report.fresh
    for size in ((224, 224), (96, 160)):
        x = contract.image(1, 3, *size)
        with torch.no_grad():
            for a, b in zip(model(x), reference(x), strict=True):
                within_limit('hornet outputs', ((a - b).norm() / b.norm()).item())


def test_logits_equal_those_of_mmpretrains_hornet(within_limit):
    from mmengine.registry import MODELS as ROOT
    from mmengine.registry import DefaultScope

    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='HorNet', arch=small_arch()),
        head=dict(type='LinearClsHead', num_classes=7, in_channels=128),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        reference = ROOT.build(cfg).eval()
    reference.load_state_dict(golden_state({n: p.shape for n, p in reference.state_dict().items()}))
    model = mmfreq.build_classifier('hornet-micro', num_classes=7).eval()
    report = mmfreq.load_weights(model, {'state_dict': reference.state_dict()})
    assert 'mmpretrain classifier' in report.layout
    x = contract.image(2, 3, 224, 224)
    with torch.no_grad():
        want = reference.head(reference.extract_feat(x))
        within_limit('hornet outputs', ((model(x) - want).norm() / want.norm()).item())
