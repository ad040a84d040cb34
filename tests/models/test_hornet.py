"""HorNet: published numbers and properties of the family; test_backbone_contract.py has the contract of all backbones."""

import pytest
import torch

import mmfreq
from mmfreq.models.hornet import ARCHS, HorNet
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, worst_error

# 1000-class classifier; dense backbone at the arch's filters; dense backbone with filters stored at 384 (facts of the paper's code)
PARAMS = {
    'hornet-tiny-7x7': (22_409_512, 21_897_408, 21_897_408),
    'hornet-tiny-gf': (22_991_848, 22_479_744, 24_318_848),
    'hornet-small-7x7': (49_528_264, 48_760_608, 48_760_608),
    'hornet-small-gf': (50_401_768, 49_634_112, 52_392_768),
    'hornet-base-7x7': (87_256_680, 86_233_472, 86_233_472),
    'hornet-base-gf': (88_421_352, 87_398_144, 91_076_352),
    'hornet-base-gf-img384': (92_099_560, 91_076_352, 91_076_352),
    'hornet-large-7x7': (194_542_504, 193_008_192, 193_008_192),
    'hornet-large-gf': (196_289_512, 194_755_200, 200_272_512),
    'hornet-large-gf-img384': (201_806_824, 200_272_512, 200_272_512),
}


@pytest.fixture
def micro():
    return contract.randomize_scales_and_filters(HorNet('hornet-micro')).eval()


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('arch', PARAMS)
def test_published_numbers_of_parameters_on_the_meta_device(arch):
    with torch.device('meta'):
        models = mmfreq.build_classifier(arch), mmfreq.build_backbone(arch), mmfreq.build_backbone(arch, img_size=384)
    assert tuple(count(m) for m in models) == PARAMS[arch]


def test_all_published_archs_are_in_the_table():
    assert set(ARCHS) - set(PARAMS) == {'hornet-micro'}
    assert mmfreq.list_archs('hornet') == list(ARCHS)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['hornet__hornet_tiny_gf', 'hornet__hornet_small_7x7'])
@pytest.mark.parametrize('spectral', ['auto', 'matmul'])
def test_golden_stages(name, spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    model = mmfreq.build_backbone(golden['arch'], spectral=spectral).eval()
    assert count(model) == golden['num_params']
    assert {n: list(p.shape) for n, p in model.state_dict().items()} == golden['state_dict']
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    cases = [c for c in golden['cases'] if c['what'] == 'stages']
    assert cases
    for case in cases:
        with torch.no_grad():
            within_limit('hornet outputs', *worst_error(model(*golden_inputs(case)), case['outputs']))


@pytest.mark.slow
def test_golden_gradients(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'hornet__hornet_tiny_gf')
    model = mmfreq.build_backbone(golden['arch']).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    (case,) = (c for c in golden['cases'] if c['what'] == 'gradients')
    outs = model(*golden_inputs(case))
    loss = golden_loss(outs)
    loss.backward()
    within_limit('hornet loss', abs(loss.item() / case['loss'] - 1))
    params = dict(model.named_parameters())
    within_limit('hornet gradients', *worst_error([params[o['name']].grad for o in case['outputs']], case['outputs']))


@pytest.mark.slow
def test_golden_logits(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'hornet__hornet_tiny_7x7_logits')
    model = mmfreq.build_classifier(golden['arch']).eval()
    assert {n: list(p.shape) for n, p in model.state_dict().items()} == golden['state_dict']
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    for case in golden['cases']:
        with torch.no_grad():
            x = model.forward_features(*golden_inputs(case))
            outs = [model.forward_head(x, pre_logits=True), model.forward_head(x)]
        within_limit('hornet outputs', *worst_error(outs, case['outputs']))


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (3,), (1, 3), (-1,), (-4, -2), (0,)])
def test_out_indices(out_indices):
    model = contract.randomize_scales_and_filters(HorNet('hornet-micro', out_indices=out_indices))
    assert model.out_indices == tuple(i % 4 for i in out_indices)
    assert sorted(n for n, _ in model.named_children() if n.startswith('norm')) == [f'norm{i}' for i in model.out_indices]
    contract.check_declared_shapes(model, batch=1)
    contract.check_gradient_for_every_parameter(model)


def test_checkpointing_preserves_outputs_and_gradients():
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = contract.randomize_scales_and_filters(HorNet('hornet-micro', with_cp=with_cp, drop_path_rate=0.3)).train()
        torch.manual_seed(1)
        outs = model(contract.image(2, 3, 64, 64).requires_grad_())
        sum((o * o).sum() for o in outs).backward()
        grads.append([*outs, *(p.grad for p in model.parameters())])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_drop_path_rates_rise_linearly():
    model = HorNet('hornet-tiny-7x7', drop_path_rate=0.4)
    rates = [block.drop_path1.p for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.4 * k / 24 for k in range(25)])
    assert all(type(rate) is float for rate in rates)


def test_filters_are_stored_at_the_grids_of_img_size():
    model = HorNet('hornet-micro', img_size=250)
    shapes = {n: tuple(p.shape[1:3]) for n, p in model.named_parameters() if n.endswith('complex_weight')}
    assert set(shapes.values()) == {(15, 8), (7, 4)}
    assert not any(n.startswith(('stages.0', 'stages.1')) for n in shapes)


def test_filter_resize_and_spectral_apply_to_every_filter(micro):
    x = contract.image(1, 3, 96, 160)
    state = micro.state_dict()
    outs = {}
    for key, kwargs in {
        'published': {},
        'bilinear': dict(filter_resize='bilinear'),
        'kernel': dict(filter_resize='kernel'),
        'matmul': dict(spectral='matmul'),
    }.items():
        model = HorNet('hornet-micro', **kwargs).eval()
        model.load_state_dict(state)
        outs[key] = model(x)[-1]
    torch.testing.assert_close(outs['published'], outs['bilinear'], rtol=0, atol=0)
    torch.testing.assert_close(outs['published'], outs['matmul'], rtol=1e-4, atol=1e-5)
    assert (outs['published'] - outs['kernel']).abs().max() > 1e-3


def test_arch_can_be_a_dict_or_have_underscores():
    fields = dict(base_dim=16, depths=(1, 1, 1, 1), global_filter=(False, True, True, True), img_size=64)
    model = HorNet(fields)
    assert model.arch_name is None and hasattr(model.stages[1][0].gnconv.dwconv, 'complex_weight')
    assert HorNet('hornet_micro').arch_name == 'hornet-micro'


@pytest.mark.parametrize(
    'kwargs,message',
    [
        (dict(arch='hornet-tiny-fg'), 'hornet-tiny-gf'),
        (dict(arch=dict(base_dim=16, depth=(1, 1, 1, 1))), r"\['depth'\].*depths"),
        (dict(out_indices=(0, 4)), r'-4..3, got 4'),
        (dict(frozen_stages=4), 'frozen_stages'),
        (dict(spectral='fftw'), 'fftw'),
        (dict(filter_resize='nearest'), 'nearest'),
    ],
)
def test_invalid_arguments_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HorNet(**{'arch': 'hornet-micro', **kwargs})
    if isinstance(kwargs.get('arch'), str):
        with pytest.raises(ValueError, match=message):
            mmfreq.build_backbone(kwargs['arch'])


def test_unknown_family_raises():
    with pytest.raises(ValueError, match='hornet'):
        mmfreq.list_archs('resnet')
