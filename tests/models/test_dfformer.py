"""DFFormer: published numbers and properties of the family; test_backbone_contract.py has the contract of all backbones."""

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.layers import DynamicFilter, StarReLU
from mmfreq.models._base import Preprocessing
from mmfreq.models.dfformer import (
    ARCHS,
    AFNOMixer,
    DFFormer,
    Downsampling,
    GlobalFilterMixer,
    MetaFormerBlock,
    MlpHead,
    SepConv,
    plain_norm,
)
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, worst_error

# 1000-class classifier at 224; the same without `head` (facts of the paper's code)
PARAMS = {
    'dfformer-s18': (30_324_372, 27_220_652),
    'dfformer-s36': (45_610_656, 42_506_936),
    'dfformer-m36': (65_316_064, 61_677_048),
    'dfformer-b36': (114_989_344, 109_547_832),
    'cdfformer-s18': (30_193_512, 27_089_792),
    'cdfformer-s36': (45_230_658, 42_126_938),
    'cdfformer-m36': (64_433_218, 60_794_202),
    'cdfformer-b36': (113_368_642, 107_927_130),
    'gfformer-s18': (29_639_856, 26_536_136),
    'dfformer-s18-k2': (28_526_004, 25_422_284),
    'dfformer-s18-d8': (28_333_716, 25_229_996),
    'dfformer-s18-gelu': (30_324_300, 27_220_580),
    'dfformer-s18-relu': (30_324_300, 27_220_580),
    'dfformer-s18-afno': (29_864_112, 26_760_392),
}
# dense backbone with filters stored at 512 (Semantic FPN), and at 800 (RetinaNet)
DENSE_PARAMS = {
    'dfformer-s18': (27_456_876, 27_872_484),
    'dfformer-s36': (42_896_088, 43_581_264),
    'dfformer-m36': (62_066_520, 62_751_696),
    'cdfformer-s18': (27_124_704, 27_183_480),
    'cdfformer-s36': (42_192_954, 42_306_162),
    'cdfformer-m36': (60_860_538, 60_973_746),
}
LAYERS = {
    'GlobalFilter': lambda spectral: GlobalFilterMixer(32, (10, 7), spectral=spectral),
    'AFNO2D': lambda spectral: AFNOMixer(32, spectral),
    'SepConv': lambda _: SepConv(32),
    'MetaFormerBlock': lambda spectral: MetaFormerBlock(32, dynamic(spectral), scaled_skips=True),
    'stem': lambda _: Downsampling(3, 32, 7, 4, 2, 'post_norm'),
    'downsample': lambda _: Downsampling(32, 48, 3, 2, 1, 'pre_norm'),
    'MlpHead': lambda _: MlpHead(32, 10),
    'LayerNormGeneral': lambda _: plain_norm(32),
}
# (input, output) is NCHW here and channels-last in the reference implementation
NCHW = {'MetaFormerBlock': (True, True), 'stem': (False, True), 'downsample': (True, True)}
LOGITS = ('dfformer_s18', 'cdfformer_s18', 'dfformer_s18_d8', 'dfformer_s18_relu', 'dfformer_s18_afno')
SEG = {'dfformer_s18_seg': 'dfformer-s18', 'cdfformer_s18_seg': 'cdfformer-s18'}
# one small backbone for each mixer
SMALL = {
    mixer: dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), mixers=(mixer,) * 4) for mixer in ('dynamic', 'conv', 'global', 'afno')
}

each_backend = pytest.mark.parametrize('spectral', ['auto', 'matmul'])


def dynamic(spectral):
    return DynamicFilter(32, 14, spectral=spectral, channels_last=True)


def count(model):
    return sum(p.numel() for p in model.parameters())


def shapes_of(model):
    return {n: list(p.shape) for n, p in model.state_dict().items()}


def small(arch='dfformer-micro', **kwargs):
    """A backbone in eval mode with distinct values in every parameter."""
    model = DFFormer(arch, **kwargs).eval()
    model.load_state_dict(golden_state(shapes_of(model)))
    return model


@pytest.mark.slow
@pytest.mark.parametrize('arch', PARAMS)
def test_published_numbers_of_parameters_on_the_meta_device(arch):
    with torch.device('meta'):
        model = mmfreq.build_classifier(arch)
        dense = tuple(count(mmfreq.build_backbone(arch, img_size=size)) for size in (512, 800))
    assert (count(model), count(model) - count(model.head)) == PARAMS[arch]
    assert dense == DENSE_PARAMS.get(arch, dense)


def test_all_published_archs_are_in_the_table():
    assert set(ARCHS) - set(PARAMS) == {'dfformer-micro', 'cdfformer-micro'}
    assert mmfreq.list_archs('dfformer') == list(ARCHS)
    assert set(DENSE_PARAMS) < set(PARAMS)


@each_backend
@pytest.mark.parametrize('name', LAYERS)
def test_golden_layers(name, spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'dfformer__{name}')
    layer = LAYERS[name](spectral).eval()
    assert shapes_of(layer) == golden['state_dict']
    layer.load_state_dict(golden_state(golden['state_dict']))
    assert golden['cases']
    for case in golden['cases']:
        with torch.no_grad():
            (x,), (nchw_in, nchw_out) = golden_inputs(case), NCHW.get(name, (False, False))
            out = layer(x.permute(0, 3, 1, 2) if nchw_in else x)
            within_limit('dfformer layers', *worst_error([out.permute(0, 2, 3, 1) if nchw_out else out], case['outputs']))


@pytest.mark.slow
@pytest.mark.parametrize('name', LOGITS)
def test_golden_logits(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'dfformer__{name}')
    model = mmfreq.build_classifier(golden['arch']).eval()
    assert shapes_of(model) == golden['state_dict']
    report = mmfreq.load_weights(model, golden_state(golden['state_dict']))
    assert report.loaded == len(golden['state_dict'])
    assert not (report.renamed or report.resized or report.dropped or report.fresh)
    assert golden['cases']
    for case in golden['cases']:
        with torch.no_grad():
            within_limit('dfformer outputs', *worst_error([model(*golden_inputs(case))], case['outputs']))


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize('name', SEG)
def test_golden_stages(name, spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'dfformer__{name}')
    model = mmfreq.build_backbone(SEG[name], img_size=512, spectral=spectral).eval()
    assert shapes_of(model) == golden['state_dict']
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    check_stages(model, golden['cases'], within_limit)


@pytest.mark.slow
@each_backend
def test_golden_stages_with_filters_resized_at_load_and_in_forward(spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, 'dfformer__dfformer_s18_seg_from224')
    model = mmfreq.build_backbone('dfformer-s18', img_size=512, spectral=spectral).eval()
    assert count(model) == golden['num_params_dense']
    report = mmfreq.load_weights(model, golden_state(golden['state_dict']))
    filters = {n: tuple(p.shape) for n, p in model.named_parameters() if n.endswith('complex_weights')}
    assert {n: new for n, (_, new) in report.resized.items()} == filters and len(filters) == 18
    assert report.resized['stages.0.0.token_mixer.complex_weights'] == ((56, 29, 4, 2), (128, 65, 4, 2))
    assert set(report.fresh) == {f'norm{i}.{leaf}' for i in range(4) for leaf in ('weight', 'bias')}
    assert set(report.dropped) == {n for n in golden['state_dict'] if n.startswith(('norm.', 'head.'))}
    check_stages(model, golden['cases'], within_limit)


def check_stages(model, cases, within_limit):
    assert cases
    for case in cases:
        with torch.no_grad():
            within_limit('dfformer outputs', *worst_error(model(*golden_inputs(case)), case['outputs']))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('name', SEG)
def test_golden_gradients(name, dtype, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'dfformer__{name}')
    model = mmfreq.build_backbone(SEG[name], img_size=512).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    model.to(dtype)
    case = golden['gradients']
    loss = golden_loss(model(*(x.to(dtype) for x in golden_inputs(case))))
    loss.backward()
    within_limit('dfformer loss (absolute)', abs(loss.item() - case['loss']))
    params = dict(model.named_parameters())
    assert case['params']
    for want in case['params']:
        error, name = worst_error([params[want['name']].grad], [want])
        if dtype == torch.float64:  # what remains is the float32 rounding of the golden gradients, stated in the file
            assert error < 1.01 * want['float32_noise'], (name, error)
        else:
            within_limit('dfformer gradients', error, name)


@pytest.mark.parametrize('mixer', SMALL)
def test_every_mixer_supports_any_size_and_backend(mixer):
    model = small(SMALL[mixer])
    contract.check_declared_shapes(model, batch=1)
    contract.check_gradient_for_every_parameter(model)
    twin = small(SMALL[mixer], spectral='matmul')
    x = contract.image(1, 3, 75, 117)
    with torch.no_grad():
        for a, b in zip(twin(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_odd_sides_are_rounded_as_the_convolutions_do():
    model = DFFormer('dfformer-micro')
    assert (model.stage_sides(203), model.stage_sides(331)) == ((51, 26, 13, 7), (83, 42, 21, 11))


def test_filters_are_stored_at_the_grids_of_img_size():
    model = DFFormer('cdfformer-micro', img_size=250)
    shapes = {n[: len('stages.i')]: tuple(p.shape) for n, p in model.named_parameters() if n.endswith('complex_weights')}
    assert shapes == {'stages.2': (15, 8, 4, 2), 'stages.3': (7, 4, 4, 2)}


@torch.no_grad()
def test_filter_resize_applies_to_every_filter():
    x = contract.image(1, 3, 96, 160)
    default, published, other = (small(filter_resize=policy)(x) for policy in (None, 'bicubic', 'kernel'))
    for a, b, c in zip(default, published, other):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert (a - c).norm() > 1e-2 * a.norm()


@torch.no_grad()
@pytest.mark.parametrize('arch', ['dfformer-micro', 'cdfformer-micro'])
def test_classifier_supports_the_sizes_of_the_backbone(arch):
    backbone = small(arch)
    model = mmfreq.build_classifier(arch, num_classes=10).eval()
    model.load_state_dict(backbone.state_dict(), strict=False)
    for height, width in contract.SIZES:
        x = contract.image(2, 3, height, width)
        torch.testing.assert_close(model.forward_features(x), backbone.forward_stages(x)[-1], rtol=0, atol=0)
        assert model(x).shape == (2, 10)


@torch.no_grad()
def test_head_pools_first_and_norms_the_hidden_values():
    model = mmfreq.build_classifier('dfformer-micro', num_classes=10, drop_rate=0.5).eval()
    features = contract.image(2, 64, 3, 5)
    hidden = model.head.fc1(model.norm(features.mean((2, 3)))).relu() ** 2
    pre_logits = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pre_logits, torch.nn.functional.layer_norm(hidden, (256,), eps=1e-5))
    torch.testing.assert_close(model.forward_head(features), model.head.fc2(pre_logits), rtol=0, atol=0)
    assert model.get_classifier() is model.head.fc2 and model.head_features == 256
    assert not torch.equal(model.train().forward_head(features, pre_logits=True), pre_logits)  # drop_rate acts in training


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (3, 1), (2, 0), (-1,), (-4, -2), (0,), (1, 1)])
def test_out_indices_select_in_order(out_indices):
    model = DFFormer('cdfformer-micro', out_indices=out_indices).eval()
    assert model.out_indices == tuple(i % 4 for i in out_indices)
    assert {n for n, _ in model.named_children() if n.startswith('norm')} == {f'norm{i}' for i in model.out_indices}
    contract.check_out_indices(small('cdfformer-micro'), model)


@torch.no_grad()
def test_output_norms_do_not_affect_later_stages():
    model, x = small(), contract.image(1, 3, 64, 96)
    raw, before = model.forward_stages(x), model(x)
    for i, out in enumerate(before):
        torch.testing.assert_close(out, getattr(model, f'norm{i}')(raw[i].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=0, atol=0)
    model.norm1.weight.zero_()
    for i, (a, b) in enumerate(zip(model(x), before)):
        assert torch.equal(a, b) == (i != 1)


def test_drop_path_rates_rise_linearly():
    with torch.device('meta'):
        model = DFFormer('dfformer-s18', drop_path_rate=0.2)
    for name in ('drop_path1', 'drop_path2'):
        rates = [getattr(block, name).p for stage in model.stages for block in stage]
        assert rates == pytest.approx([0.2 * k / 17 for k in range(18)])


@torch.no_grad()
def test_dropped_branch_leaves_the_scaled_skip():
    block = MetaFormerBlock(32, dynamic('auto'), drop_path=1.0, scaled_skips=True)
    block.load_state_dict(golden_state(shapes_of(block)))
    x = contract.image(2, 32, 5, 6)
    scale = (block.res_scale1.scale * block.res_scale2.scale).view(-1, 1, 1)
    torch.testing.assert_close(block.train()(x), x * scale)
    assert not torch.allclose(block.eval()(x), block.train()(x))


def test_only_the_last_two_stages_have_scaled_skips():
    model = DFFormer('dfformer-micro')
    scaled = {n.rpartition('.res_scale')[0] for n, _ in model.named_parameters() if 'res_scale' in n}
    assert scaled == {'stages.2.0', 'stages.2.1', 'stages.3.0'}


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 3])
def test_frozen_stages(frozen_stages):
    model = DFFormer('dfformer-micro', frozen_stages=frozen_stages)
    patterns = ('downsample_layers.{}', 'stages.{}', 'norm{}')
    contract.check_frozen(model, tuple(pattern.format(i) for i in range(frozen_stages + 1) for pattern in patterns))


def test_checkpointing_preserves_outputs_and_gradients():
    contract.check_checkpointing(small('cdfformer-micro', drop_path_rate=0.3))


@pytest.mark.parametrize('act', ['gelu', 'relu'])
def test_act_does_not_change_the_routing(act):
    model = DFFormer(dict(depths=(1, 1, 1, 1), dims=(16, 16, 16, 16), act=act))
    stars = {n for n, m in model.named_modules() if isinstance(m, StarReLU)}
    assert stars == {f'stages.{i}.0.token_mixer.reweight.act' for i in range(4)}


def test_initial_values_are_published():
    torch.manual_seed(0)
    model = mmfreq.build_classifier('dfformer-s18')
    seen = set()
    for name, param in model.named_parameters():
        if param.ndim > 1:
            assert param.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith('bias'):
            assert (param == 0).all(), name
        else:
            assert name.endswith(('scale', 'weight')) and (param == 1).all(), name
        seen.add(param.ndim > 1)
    assert seen == {True, False}


def test_classification_file_fills_the_built_stages_and_the_rest_is_reported():
    state = golden_state(shapes_of(mmfreq.build_classifier('dfformer-micro')))
    model = DFFormer('dfformer-micro', out_indices=(1,))
    report = mmfreq.load_weights(model, state)
    assert {n for n in report.dropped if n.startswith('stages.')} == {n for n in state if n.startswith(('stages.2', 'stages.3'))}
    assert set(report.fresh) == {'norm1.weight', 'norm1.bias'} and not report.resized
    filled = model.state_dict()
    assert report.loaded == len(filled) - 2
    assert all(torch.equal(filled[n], state[n]) for n in filled if n not in report.fresh)


def test_gfformer_filters_are_resized_at_load():
    model = DFFormer(SMALL['global'], img_size=128)
    report = mmfreq.load_weights(model, golden_state(shapes_of(DFFormer(SMALL['global']))))
    assert report.resized['stages.3.0.token_mixer.complex_weights'] == ((7, 4, 80, 2), (4, 3, 80, 2))
    assert len(report.resized) == 5


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('dfformer-s18-k2', r'complex_weights'),
        ('cdfformer-s18', r'dwconv'),
        ('hornet-tiny-gf', 'HorNet'),
    ],
)
def test_files_of_other_archs_raise(source, message):
    with torch.device('meta'):
        state, model = mmfreq.build_classifier(source).state_dict(), mmfreq.build_backbone('dfformer-s18')
    with pytest.raises(CheckpointError, match=message):
        mmfreq.load_weights(model, state)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='dfformer-s81'), 'dfformer-s18'),
        (dict(arch=SMALL['dynamic'] | dict(mixers=('attention',) * 4)), 'attention.*dynamic, conv, global, afno'),
        (dict(arch=SMALL['dynamic'] | dict(act='silu')), 'silu.*star_relu'),
        (dict(arch=SMALL['afno'] | dict(dims=(18, 32, 32, 32))), '8.*18'),
    ],
)
def test_invalid_archs_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DFFormer(**kwargs)


def test_published_preprocessing():
    assert DFFormer.published_preprocessing('cdfformer-m36') == Preprocessing(size=224, resize=224, interpolation='bicubic')
