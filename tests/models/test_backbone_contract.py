"""The contract of every backbone, for every arch: what decoders, DDP, pickling and autocast rely on."""

from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from functools import cache
from io import StringIO

import pytest
import torch

import mmfreq
from mmfreq.models._factory import FAMILIES, backbone_class
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing import naming

ARCHS = mmfreq.list_archs()
MICRO = [arch for arch in ARCHS if 'micro' in arch]
# the smallest published size of every backbone class; DFFormer without and with convolutional stages
FULL = ['hornet-tiny-gf', 'gfnet-ti', 'gfnet-h-ti', 'gfnet-cnn-t', 'dfformer-s18', 'cdfformer-s18', 'affnet-et']
# the mixers and activations of DFFormer's ablations, which have no micro arch
ABLATIONS = {
    f'dfformer with {mixer} mixers and {act}': dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), mixers=(mixer,) * 4, act=act)
    for mixer, act in (('global', 'gelu'), ('afno', 'relu'))
}
each_family = pytest.mark.parametrize('family', FAMILIES)


@pytest.fixture(scope='module', params=[*MICRO, *ABLATIONS, *(pytest.param(arch, marks=pytest.mark.slow) for arch in FULL)])
def model(request):
    torch.manual_seed(0)
    if request.param in ABLATIONS:
        return contract.randomize_scales_and_filters(mmfreq.models.dfformer.DFFormer(ABLATIONS[request.param])).eval()
    return contract.randomize_scales_and_filters(mmfreq.build_backbone(request.param)).eval()


@cache
def on_meta(arch):
    """A backbone on the meta device, and the output of its construction."""
    with torch.device('meta'), StringIO() as printed, redirect_stdout(printed), redirect_stderr(printed):
        return mmfreq.build_backbone(arch, drop_path_rate=0.3), printed.getvalue()


def test_every_family_has_a_micro_arch():
    assert set(FAMILIES) == {'hornet', 'gfnet', 'dfformer', 'affnet'}
    assert len(ARCHS) == len(set(ARCHS)) > 40
    assert {backbone_class(arch) for arch in FULL} == {backbone_class(arch) for arch in ARCHS}
    for family, pairs in FAMILIES.items():
        archs = mmfreq.list_archs(family)
        assert archs and sum('micro' in arch for arch in archs) >= len(pairs)


def test_declared_shapes(model):
    contract.check_declared_strides(model)
    contract.check_declared_shapes(model, batch=1)


def test_every_parameter_has_a_gradient_with_and_without_checkpointing(model):
    contract.check_gradient_for_every_parameter(model)
    contract.check_checkpointing(model)


def test_copies(model):
    contract.check_copies(model)


def test_batch_and_memory_format(model):
    contract.check_batch_and_memory_format(model)


def test_bfloat16_autocast(model):
    contract.check_bfloat16_autocast(model)


def test_out_indices_select(model):
    contract.check_out_indices(model, type(model)(model.arch_name or asdict(model.arch), out_indices=(-2, 0)).eval())


@each_family
def test_construction_on_the_meta_device_prints_nothing(family, capsys):
    def check(arch):
        backbone, printed = on_meta(arch)
        with torch.device('meta'):
            classifier = mmfreq.build_classifier(arch, num_classes=7)
        assert printed == ''
        for built in (backbone, classifier):
            assert all(p.is_meta for p in (*built.parameters(), *built.buffers()))
        assert classifier.get_classifier().out_features == 7

    assert not contract.failures(check, mmfreq.list_archs(family))
    assert capsys.readouterr() == ('', '')


@each_family
def test_freezing_covers_stem_stages_and_norms(family):
    def check(arch):
        model, _ = on_meta(arch)
        for model.frozen_stages in (0, 2, 3, -1):
            contract.check_frozen_stages(model.requires_grad_().train())

    assert not contract.failures(check, mmfreq.list_archs(family))


@pytest.mark.parametrize('arch', MICRO)
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 3])
def test_constructor_freezes(arch, frozen_stages):
    contract.check_frozen_stages(mmfreq.build_backbone(arch, frozen_stages=frozen_stages))


@each_family
def test_layer_groups_cover_every_parameter(family):
    def check(arch):
        model, _ = on_meta(arch)
        for decay_type, last in (('stage_wise', 4), ('layer_wise', 12)):
            groups = {name: model.layer_decay_group(name, decay_type) for name, _ in model.named_parameters()}
            assert {g for n, g in groups.items() if not n.startswith('norm')} <= set(range(last + 1))
            assert max(g for g in groups.values() if g is not None) == last and 0 in groups.values()
            assert all(g is None for n, g in groups.items() if n.startswith('norm'))

    assert not contract.failures(check, mmfreq.list_archs(family))


def test_parameters_of_heads_are_in_the_last_group_of_mmpretrain():
    model, _ = on_meta('dfformer-micro')
    assert model.get_layer_depth('backbone.downsample_layers.0.conv.weight', 'backbone.') == (0, 14)
    assert model.get_layer_depth('backbone.stages.3.0.norm1.weight', 'backbone.') == (12, 14)
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (13, 14)


@each_family
def test_drop_path_rates_are_python_floats_and_rise(family):
    def check(arch):
        rates = [m.p for m in on_meta(arch)[0].modules() if type(m).__name__ == 'StochasticDepth']
        assert rates and all(type(rate) is float for rate in rates)
        assert rates == sorted(rates) and rates[0] == 0 and rates[-1] == pytest.approx(0.3)

    assert not contract.failures(check, mmfreq.list_archs(family))


@pytest.mark.parametrize('arch', MICRO)
def test_frozen_stages_are_deterministic_in_training_mode(arch):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch, drop_path_rate=0.9, frozen_stages=3)).train()
    x = contract.image(4, 3, 64, 64)
    for a, b in zip(model(x), model(x)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize('arch', MICRO)
def test_arguments_are_checked_and_backends_agree(arch):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    twin = mmfreq.build_backbone(arch, spectral='matmul').eval()
    twin.load_state_dict(model.state_dict())
    x = contract.image(1, 3, 96, 160)
    with torch.no_grad():
        for a, b in zip(twin(x), model(x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for wrong in (
        dict(spectral='fftw'),
        dict(filter_resize='nearest'),
        dict(frozen_stages=4),
        dict(out_indices=(4,)),
        dict(img_size=16),
    ):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values()))).strip('(),')):
            mmfreq.build_backbone(arch, **wrong)


@pytest.mark.parametrize('arch', MICRO)
def test_wrong_channels_and_small_images_raise(arch):
    model = mmfreq.build_backbone(arch, in_channels=4)
    assert len(model(contract.image(2, 4, 64, 64))) == 4
    with pytest.raises(ValueError, match=naming(4, '(1, 3, 64, 64)')):
        model(contract.image(1, 3, 64, 64))
    with pytest.raises(ValueError, match=naming('32x32', '31x64')):
        model(contract.image(1, 4, 31, 64))


@pytest.mark.parametrize('arch', MICRO)
def test_arch_can_be_a_dict_of_its_fields(arch):
    cls = backbone_class(arch)
    with torch.device('meta'):
        by_fields = cls(asdict(cls.ARCHS[arch]))
        with pytest.raises(ValueError, match='no_such_field'):
            cls({'no_such_field': 1})
    shapes = {n: p.shape for n, p in by_fields.state_dict().items()}
    assert shapes == {n: p.shape for n, p in on_meta(arch)[0].state_dict().items()} and by_fields.arch_name is None


@pytest.mark.parametrize('arch', MICRO)
def test_registered_type_is_found_from_every_scope(arch):
    from mmengine.registry import MODELS, DefaultScope

    cls = backbone_class(arch)
    for scope in ('mmseg', 'mmdet', 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
            assert type(MODELS.build(dict(type=f'mmfreq.{cls.__name__}', arch=arch))) is cls


@pytest.mark.parametrize('arch', MICRO)
def test_classifier_features_head_and_reset(arch):
    model = contract.randomize_scales_and_filters(mmfreq.build_classifier(arch, num_classes=5)).eval()
    x = contract.image(2, 3, 64, 96)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.ndim == 4 and model(x).shape == (2, 5)
        torch.testing.assert_close(model.forward_head(features), model(x), rtol=0, atol=0)
        pre = model.forward_head(features, pre_logits=True)
        assert pre.shape == (2, model.head_features)
        torch.testing.assert_close(model.get_classifier()(pre), model(x), rtol=0, atol=0)
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pre, rtol=0, atol=0)
        model.reset_classifier(3)
        assert model(x).shape == (2, 3) and model.num_classes == 3


@pytest.mark.parametrize('arch', MICRO)
@pytest.mark.parametrize('dtype,tolerance', [(torch.bfloat16, 0.03), (torch.float16, 0.01), (torch.float64, 1e-5)])
def test_converted_model_returns_its_dtype(arch, dtype, tolerance):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    x = contract.image(1, 3, 64, 96)
    with torch.no_grad():
        want = model(x)
        got = model.to(dtype)(x.to(dtype))
    for a, b in zip(got, want):
        assert a.dtype == dtype and (a.float() - b).norm() / b.norm() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['hornet-micro', 'affnet-micro'])
def test_checkpointing_compiles_and_counts_batches_once(arch):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch, with_cp=True, out_indices=(0, 2))).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = contract.image(2, 3, 64, 64)
    found = []
    for run in (model, torch.compile(model, backend='aot_eager')):
        model.load_state_dict(state)
        model.zero_grad()
        outs = run(x)
        sum((o * contract.image(*o.shape)).sum() for o in outs).backward()
        weight = next(p for p in model.parameters() if p.ndim == 4)
        found.append([*outs, weight.grad.clone(), *(buffer.clone() for buffer in model.buffers())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
