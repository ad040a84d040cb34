"""AFFNet: published numbers and properties of the family; test_backbone_contract.py has the contract of all backbones."""

import pytest
import torch

import mmfreq
from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.models.affnet import ARCHS
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, worst_error

# classifier; without conv_1x1_exp and fc, which is the dense backbone (facts of the paper's code)
PARAMS = {'affnet-et': (1_436_264, 775_168), 'affnet-t': (2_654_232, 1_736_240), 'affnet': (5_568_696, 4_298_576)}
GOLDEN = {'affnet__affnet_et': 'affnet-et', 'affnet__affnet_t': 'affnet-t'}


def loaded(builder, name, golden, **kwargs):
    model = builder(GOLDEN[name], **kwargs).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    return model


@pytest.mark.parametrize('arch', PARAMS)
def test_published_numbers_of_parameters_on_the_meta_device(arch):
    with torch.device('meta'):
        models = mmfreq.build_classifier(arch), mmfreq.build_backbone(arch)
    assert tuple(sum(p.numel() for p in m.parameters()) for m in models) == PARAMS[arch]
    assert len(models[0].state_dict()) == 416


def test_all_published_archs_are_in_the_table():
    assert set(ARCHS) - set(PARAMS) == {'affnet-micro'}


@pytest.mark.slow
@pytest.mark.parametrize('spectral', ['auto', 'matmul'])
@pytest.mark.parametrize('name', GOLDEN)
def test_golden_stages_and_logits(name, spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    backbone = loaded(mmfreq.build_backbone, name, golden, spectral=spectral)
    classifier = loaded(mmfreq.build_classifier, name, golden, spectral=spectral)
    assert {n: list(p.shape) for n, p in classifier.state_dict().items()} == golden['state_dict']
    cases = [c for c in golden['cases'] if c['what'] in ('stages', 'logits') and not c['training']]
    assert len(cases) >= 1
    for case in cases:
        x = golden_inputs(case)
        with torch.no_grad():
            outs = backbone(*x) if case['what'] == 'stages' else [classifier(*x)]
            within_limit('affnet outputs', *worst_error(outs, case['outputs']))
            if case['what'] == 'stages':
                stem = classifier.conv_1(*x)
                others = [stem, classifier.layer_1(stem), classifier.forward_features(*x)]
                within_limit('affnet outputs', *worst_error(others, case['other_outputs']))


def test_golden_inner_modules(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__affnet_et')
    model = loaded(mmfreq.build_backbone, 'affnet__affnet_et', golden)
    (case,) = (c for c in golden['cases'] if c['what'] == 'module')
    outs = {}
    for want in case['outputs']:
        hook = lambda _, __, out, name=want['name']: outs.update({name: out})  # noqa: E731
        model.get_submodule(want['name']).register_forward_hook(hook)
    with torch.no_grad():
        model(*golden_inputs(case))
    within_limit('affnet outputs', *worst_error([outs[o['name']] for o in case['outputs']], case['outputs']))


def test_golden_gradients(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__affnet_et')
    model = loaded(mmfreq.build_backbone, 'affnet__affnet_et', golden)
    (case,) = (c for c in golden['cases'] if c['what'] == 'gradients')
    loss = golden_loss(model(*golden_inputs(case)))
    loss.backward()
    within_limit('affnet loss', abs(loss.item() / case['loss_value'] - 1))
    params = dict(model.named_parameters())
    within_limit('affnet gradients', *worst_error([params[o['name']].grad for o in case['outputs']], case['outputs']))


@pytest.mark.parametrize('with_cp', [False, True])
def test_golden_training_mode_and_running_statistics(with_cp, golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__affnet_et')
    model = loaded(mmfreq.build_backbone, 'affnet__affnet_et', golden, with_cp=with_cp).train()
    (case,) = (c for c in golden['cases'] if c['training'])
    outs = model(*(x.requires_grad_() for x in golden_inputs(case)))
    golden_loss(outs).backward()  # the recomputation of with_cp must not count the batch twice
    state = model.state_dict()
    within_limit('affnet outputs', *worst_error(outs, case['outputs']))
    within_limit('affnet outputs', *worst_error([state[o['name']] for o in case['other_outputs']], case['other_outputs']))
    assert {int(v) for n, v in state.items() if n.endswith('num_batches_tracked')} == {1}


def test_golden_encoder_at_stride_16(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__affnet_et_deeplabv3')
    (case,) = golden['cases']
    model = mmfreq.build_backbone('affnet-et', output_stride=16, out_indices=(3,)).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    with torch.no_grad():
        within_limit('affnet outputs', *worst_error(model(*golden_inputs(case)), case['outputs'][:1]))
    assert case['outputs'][0]['name'] == 'encoder.layer_5'


@pytest.mark.parametrize(
    'output_stride,strides,changed',
    [(32, (4, 8, 16, 32), {}), (16, (4, 8, 16, 16), {'layer_5': ((1, 1), (1, 1))}),
     (8, (4, 8, 8, 8), {'layer_4': ((1, 1), (1, 1)), 'layer_5': ((1, 1), (2, 2))})],
)  # fmt: skip
def test_output_stride_changes_only_these_convolutions(output_stride, strides, changed):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone('affnet-micro', output_stride=output_stride)).eval()
    plain = mmfreq.build_backbone('affnet-micro')
    assert model.strides == strides
    assert {n: p.shape for n, p in model.state_dict().items()} == {n: p.shape for n, p in plain.state_dict().items()}
    contract.check_declared_strides(model)
    contract.check_declared_shapes(model)
    found = {}
    for (name, conv), (_, other) in zip(model.named_modules(), plain.named_modules()):
        if isinstance(conv, torch.nn.Conv2d) and (conv.stride, conv.dilation) != (other.stride, other.dilation):
            found[name.removesuffix('.0.block.conv_3x3.block.conv')] = (conv.stride, conv.dilation)
    assert found == changed


def test_unknown_output_stride_or_activation_raises():
    with pytest.raises(ValueError, match=naming(32, 16, 8, 4)):
        mmfreq.build_backbone('affnet-micro', output_stride=4)
    with pytest.raises(ValueError, match=naming('act', 'tanh', 'silu', 'relu', 'gelu')):
        mmfreq.build_backbone('affnet-micro', act='tanh')


@pytest.mark.parametrize('act', ['relu', 'gelu'])
def test_act_replaces_every_activation(act):
    model = contract.randomize_scales_and_filters(mmfreq.build_classifier('affnet-micro', act=act)).eval()
    assert not [m for m in model.modules() if isinstance(m, torch.nn.SiLU)]
    assert {m.act for m in model.modules() if isinstance(m, AdaptiveFrequencyFilter)} == {act}
    silu = mmfreq.build_classifier('affnet-micro').eval()
    silu.load_state_dict(model.state_dict())
    x = contract.image(1, 3, 64, 96)
    assert (silu(x) - model(x)).norm() > 1e-3 * silu(x).norm()
    torch.testing.assert_close(mmfreq.optimize(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_frozen_batch_norms_do_not_update_statistics():
    model = mmfreq.build_backbone('affnet-micro', frozen_stages=1).train()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    model(contract.image(2, 3, 64, 64))
    changed = {n.split('.')[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {'layer_4', 'layer_5'}


def test_dropout_is_before_the_last_layer():
    model = mmfreq.build_classifier('affnet-micro', num_classes=3)
    assert model.classifier.dropout.p == 0.1
    assert mmfreq.build_classifier('affnet-micro', drop_rate=0.0).classifier.dropout.p == 0
    model.train()
    features = torch.ones(2, model.head_features, 2, 2)
    assert (model.forward_head(features, pre_logits=True) == 0).any()


def test_head_has_at_most_960_features():
    with torch.device('meta'):
        widths = [mmfreq.build_classifier(arch).head_features for arch in PARAMS]
    assert widths == [576, 768, 960]


def test_checkpointing_preserves_gradients_and_statistics():
    found = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = contract.randomize_scales_and_filters(
            mmfreq.build_backbone('affnet-micro', with_cp=with_cp, drop_path_rate=0.5)
        ).train()
        torch.manual_seed(1)
        for seed in range(2):
            outs = model(contract.image(2, 3, 64, 96 + 32 * seed).requires_grad_())
            sum((o * o).sum() for o in outs).backward()
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.1} and {int(norm.num_batches_tracked) for norm in norms} == {2}
        found.append([*outs, *(p.grad for p in model.parameters()), *model.buffers()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_initial_values_are_those_of_the_reference_implementation():
    model = mmfreq.build_classifier('affnet-micro')
    fc = model.classifier.fc
    bound = (6 / (fc.in_features + fc.out_features)) ** 0.5
    assert 0.99 * bound < fc.weight.abs().max() <= bound and not fc.bias.any()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
            assert module.eps == 1e-5 and (module.weight == 1).all() and not module.bias.any(), name
        if isinstance(module, torch.nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            assert module.bias is None and 0.8 * bound < module.weight.abs().max() <= bound, name
    mixers = [m for m in model.modules() if isinstance(m, AdaptiveFrequencyFilter)]
    assert len(mixers) == 3
    for part in ('w1', 'b1', 'w2', 'b2'):
        assert torch.cat([getattr(m, part).flatten() for m in mixers]).std().item() == pytest.approx(0.02, rel=0.2), part


def test_spectral_and_drop_path_apply_to_every_block():
    model = mmfreq.build_backbone('affnet-et', spectral='matmul', drop_path_rate=0.4)
    assert {m.spectral for m in model.modules() if isinstance(m, AdaptiveFrequencyFilter)} == {'matmul'}
    rates = [block.drop_path.p for stage in model.stages[1:] for block in list(stage[1].global_rep)[:-1]]
    assert rates == pytest.approx([0.4 * k / 8 for k in range(9)])


def test_block_with_drop_path_rate_one_is_the_identity():
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone('affnet-micro', drop_path_rate=1.0)).train()
    block = model.layer_5[1].global_rep[0]
    x = torch.randn(2, 32, 5, 4)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    assert not torch.allclose(block.eval()(x), x)


def test_img_size_and_filter_resize_have_no_effect():
    plain = contract.randomize_scales_and_filters(mmfreq.build_backbone('affnet-micro')).eval()
    other = mmfreq.build_backbone('affnet-micro', img_size=512, filter_resize='modes').eval()
    other.load_state_dict(plain.state_dict())
    for size in ((64, 64), (200, 328), (33, 47)):
        x = contract.image(1, 3, *size)
        for a, b in zip(other(x), plain(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_sides_are_rounded_up():
    model = mmfreq.build_backbone('affnet-micro')
    assert (model.stage_sides(200), model.stage_sides(328)) == ((50, 25, 13, 7), (82, 41, 21, 11))
    assert mmfreq.build_backbone('affnet-micro', output_stride=16).stage_sides(200) == (50, 25, 13, 13)
    assert mmfreq.build_backbone('affnet-micro', output_stride=8).stage_sides(200) == (50, 25, 25, 25)
