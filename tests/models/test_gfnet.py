"""GFNet, GFNet-H: published numbers and properties of the family; test_backbone_contract.py has the contract of all backbones."""

import pytest
import torch

import mmfreq
from mmfreq.layers import GlobalFilter, StoredFilter
from mmfreq.models.gfnet import ARCHS, GFNetBlock, GFNetCNNBlock
from mmfreq.models.gfnet import PYRAMID_ARCHS as PYRAMIDS
from mmfreq.ops import resize_filter, resize_tokens
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, reference_input, worst_error

# classifier; without head; without final norm too (the dense backbone); classifier stored at 384 (facts of the paper's code)
PARAMS = {
    'gfnet-ti': (7_511_784, 7_254_784, 7_254_272, 8_837_864),
    'gfnet-xs': (15_985_768, 15_600_768, 15_600_000, 17_974_888),
    'gfnet-s': (24_869_608, 24_484_608, 24_483_840, 27_933_928),
    'gfnet-b': (43_120_616, 42_607_616, 42_606_592, 47_206_376),
    'gfnet-h-ti': (15_085_096, 14_572_096, 14_571_072, 18_452_008),
    'gfnet-h-s': (32_162_632, 31_393_632, 31_392_096, 37_213_000),
    'gfnet-h-b': (53_744_200, 52_975_200, 52_973_664, 61_405_768),
}
MODELS = ['gfnet__gfnet-ti', 'gfnet__gfnet-h-ti', 'gfnet__gfnet-h-ti__img128', 'gfnet__gfnet-h-ti__img64_scaled']
MODELS += ['gfnet__gfnet-ti__transfer256', 'gfnet__gfnet-h-ti__transfer256']
WITH_GRADIENTS = ['gfnet__gfnet-ti__img96_gradients', 'gfnet__gfnet-h-ti__img96_gradients']
MICRO = ['gfnet-micro', 'gfnet-h-micro', 'gfnet-cnn-micro']


def count(model):
    return sum(p.numel() for p in model.parameters())


def state_of(golden):
    return golden_state(golden['state_dict'], golden.get('scale'))


def build(builder, golden, **kwargs):
    model = builder(golden['arch'], img_size=golden.get('img_size_to', golden['kwargs']['img_size']), **kwargs).eval()
    return model, mmfreq.load_weights(model, state_of(golden))


@pytest.mark.parametrize('arch', PARAMS)
def test_published_numbers_of_parameters_on_the_meta_device(arch):
    with torch.device('meta'):
        headless, at_384 = (mmfreq.build_classifier(arch, **kwargs) for kwargs in (dict(num_classes=0), dict(img_size=384)))
        models = mmfreq.build_classifier(arch), headless, mmfreq.build_backbone(arch), at_384
    assert tuple(count(m) for m in models) == PARAMS[arch]


def test_all_published_archs_are_in_the_tables():
    assert {*ARCHS, *PYRAMIDS} - set(PARAMS) == {'gfnet-micro', 'gfnet-h-micro'}


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS + WITH_GRADIENTS)
def test_golden_stages_norm_and_logits(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    backbone, _ = build(mmfreq.build_backbone, golden)
    classifier, report = build(mmfreq.build_classifier, golden)
    shapes = golden.get('state_dict_to') or golden['state_dict']
    own = {n: list(p.shape) for n, p in classifier.state_dict().items()}
    assert {n: own[n] for n in shapes} == shapes and report.loaded == len(own) == len(golden['state_dict'])
    contents = []
    for case in golden['cases']:
        x = golden_inputs(case)
        contents.append(case['what'])
        with torch.no_grad():
            outs = [*backbone(*x), classifier.forward_features(*x)] if case['what'] == 'stages' else [classifier(*x)]
        within_limit('gfnet outputs', *worst_error(outs, case['outputs']))
    assert {'stages', 'logits'} == set(contents)


@pytest.mark.parametrize('name', ['gfnet__gfnet-ti', 'gfnet__gfnet-h-ti__img64_scaled'])
def test_golden_stages_with_matmul_backend(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    model, _ = build(mmfreq.build_backbone, golden, spectral='matmul')
    case = golden['cases'][0]
    with torch.no_grad():
        within_limit('gfnet outputs', *worst_error(model(*golden_inputs(case)), case['outputs'][:4]))


@pytest.mark.parametrize('name', WITH_GRADIENTS)
def test_golden_gradients(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    case = golden['gradients']
    model, _ = build(mmfreq.build_classifier, golden)
    x = golden_inputs(case)[0]
    loss = golden_loss(model.forward_stages(x) if case['outputs'] != ['logits'] else [model(x)])
    loss.backward()
    within_limit('gfnet loss', abs(loss.item() / case['loss'] - 1))
    params = dict(model.named_parameters())
    within_limit('gfnet gradients', *worst_error([params[o['name']].grad for o in case['params']], case['params']))


@pytest.mark.parametrize('name', ['gfnet__gfnet-ti__transfer256', 'gfnet__gfnet-h-ti__transfer256'])
def test_golden_resized_parameters(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    model, report = build(mmfreq.build_classifier, golden)
    params = dict(model.named_parameters())
    within_limit('gfnet outputs', *worst_error([params[o['name']] for o in golden['resized']], golden['resized']))
    assert set(report.resized) == {n for n in params if n.endswith('complex_weight') or n == 'pos_embed'}


def test_golden_filter(golden_folder, within_limit):
    cases = read_golden(golden_folder, 'gfnet__GlobalFilter')['cases']
    assert len(cases) == 4
    for case in cases:
        layer = GlobalFilter(case['dim'], tuple(case['grid']), 'bicubic', channels_last=True)
        layer.load_state_dict(golden_state(case['state_dict']))
        tokens = golden_inputs(case)[0].requires_grad_()
        out = layer(tokens.unflatten(1, case['grid'])).flatten(1, 2)
        golden_loss([out]).backward()
        within_limit('gfnet gradients', *worst_error([out, layer.complex_weight.grad, tokens.grad], case['outputs']))


def test_golden_block(golden_folder, within_limit):
    cases = read_golden(golden_folder, 'gfnet__Block')['cases']
    assert {case['type'] for case in cases} == {'Block', 'BlockLayerScale'}
    for case in cases:
        block = GFNetBlock(case['dim'], tuple(case['grid']), layer_scale=1.0 if case['type'] == 'BlockLayerScale' else None)
        block.load_state_dict(golden_state(case['state_dict'], case['scale']))
        tokens = golden_inputs(case)[0].requires_grad_()
        x = tokens.unflatten(1, case['grid']).permute(0, 3, 1, 2)
        out, branch = (y.flatten(2).transpose(1, 2) for y in (block(x), block(x) - x))
        golden_loss([out]).backward()
        grads = {f'grad_{name}': param.grad for name, param in block.named_parameters()} | {'grad_input': tokens.grad}
        got = {'out': out, 'branch': branch, **grads}
        within_limit('gfnet gradients', *worst_error([got[o['name']] for o in case['outputs']], case['outputs']))


@pytest.mark.parametrize('arch', ['gfnet-micro', 'gfnet-h-micro'])
def test_resizing_in_forward_equals_resizing_at_load(arch):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    x = contract.image(1, 3, 320, 320)
    other = mmfreq.build_backbone(arch, img_size=320).eval()
    assert mmfreq.load_weights(other, model.state_dict()).resized
    with torch.no_grad():
        for a, b in zip(model(x), other(x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_published_resizing_for_a_non_square_grid():
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone('gfnet-micro')).eval()
    size = (5, 9)
    x = model.patch_embed(contract.image(1, 3, 16 * 5 + 3, 16 * 9 + 7))
    positions = torch.nn.functional.interpolate(
        model.pos_embed.transpose(1, 2).reshape(1, 32, 14, 14), size=size, mode='bicubic', align_corners=False
    )
    torch.testing.assert_close(model.with_positions(x), x + positions)
    weight = model.blocks[0].filter.complex_weight
    resized = torch.nn.functional.interpolate(
        weight.flatten(2).permute(2, 0, 1)[None], size=(5, 5), mode='bicubic', align_corners=True
    )
    want = resized[0].permute(1, 2, 0).unflatten(2, (32, 2))
    torch.testing.assert_close(model.blocks[0].filter.filter_for(size), want)


def test_resize_tokens_preserves_constants_and_the_stored_grid():
    tokens = torch.full((1, 49, 3), 2.5)
    torch.testing.assert_close(resize_tokens(tokens, (5, 12)), torch.full((1, 60, 3), 2.5))
    assert resize_tokens(tokens, (7, 7)) is tokens
    with pytest.raises(ValueError, match=naming('square', 50)):
        resize_tokens(torch.zeros(1, 50, 3), (7, 7))


def test_quarters_of_the_isotropic_models():
    ends = {'gfnet-ti': [2, 5, 8, 11], 'gfnet-b': [3, 7, 11, 18]}
    for arch, want in ends.items():
        with torch.device('meta'):
            model = mmfreq.build_backbone(arch)
        assert [sum(model.arch_depths[: i + 1]) - 1 for i in range(4)] == want
        assert [model.block_position(f'blocks.{i}.gamma')[0] for i in want] == [0, 1, 2, 3]
        assert len(mmfreq.build_backbone('gfnet-micro', out_indices=(0, 1)).blocks) == 2


def test_block_is_one_residual_with_a_scaled_branch():
    block = GFNetBlock(8, 7, layer_scale=0.5)
    x_bhwc = torch.randn(2, 7, 7, 8)
    plain = block.mlp(block.norm2(block.filter(block.norm1(x_bhwc))))
    torch.testing.assert_close(block(x_bhwc.permute(0, 3, 1, 2)), (x_bhwc + 0.5 * plain).permute(0, 3, 1, 2))


def test_stored_grids_are_floors_of_img_size():
    isotropic = mmfreq.build_backbone('gfnet-micro', img_size=250)
    assert isotropic.blocks[0].filter.grid == (15, 15) and isotropic.pos_embed.shape == (1, 15 * 15, 32)
    model = mmfreq.build_backbone('gfnet-h-micro', img_size=250)
    assert [blocks[0].filter.grid for blocks in model.blocks] == [(62, 62), (31, 31), (15, 15), (7, 7)]
    assert model.pos_embed.shape == (1, 62 * 62, 16)


def test_filters_from_224_are_resized_by_the_published_rule():
    state = mmfreq.build_classifier('gfnet-h-micro').state_dict()
    for size in (96, 250, 384, 512):
        model = mmfreq.build_backbone('gfnet-h-micro', img_size=size)
        mmfreq.load_weights(model, state)
        for stage, grid in enumerate((56, 28, 14, 7)):
            name = f'blocks.{stage}.0.filter.complex_weight'
            want = resize_filter(state[name], (grid * (size // 4) // 56,) * 2, 'bicubic', (0, 1))
            torch.testing.assert_close(model.state_dict()[name], want)


def test_norm_is_before_the_mean_and_not_between_stages():
    model = mmfreq.build_classifier('gfnet-h-micro', num_classes=3)
    raw = model.forward_stages(contract.image(1, 3, 64, 64))
    features = model.forward_features(contract.image(1, 3, 64, 64))
    torch.testing.assert_close(features, model.norm(raw[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert sorted({n.split('.')[0] for n in model.state_dict()}) == ['blocks', 'head', 'norm', 'patch_embed', 'pos_embed']


@pytest.mark.parametrize('arch,values', [('gfnet-h-ti', 1e-3), ('gfnet-h-s', 1e-5), ('gfnet-h-b', 1e-6)])
def test_gamma_has_the_published_initial_value(arch, values):
    model = mmfreq.build_backbone(arch, out_indices=(0,))
    assert all((block.gamma == values).all() for blocks in model.blocks for block in blocks)


def test_position_embeddings_without_a_square_grid_raise():
    state = mmfreq.build_classifier('gfnet-micro').state_dict()
    state['pos_embed'] = torch.zeros(1, 195, 32)
    with pytest.raises(ValueError, match=naming('pos_embed', '(1, 195, 32)', '(1, 196, 32)')):
        mmfreq.load_weights(mmfreq.build_backbone('gfnet-micro'), state)
    of_another_width = torch.zeros(1, 49, 16)
    assert mmfreq.build_backbone('gfnet-micro').fit_stored('pos_embed', of_another_width) is of_another_width


def test_reference_inputs_are_scaled_by_input_scale():
    case = {'input_seed': 3, 'input_shape': [2, 2], 'input_scale': 0.5}
    torch.testing.assert_close(golden_inputs(case)[0], 0.5 * torch.from_numpy(reference_input(3, [2, 2])))


def blocks_of(model):
    return [block for block in model.modules() if isinstance(block, GFNetBlock | GFNetCNNBlock)]


@pytest.mark.parametrize('arch', ['gfnet-ti', 'gfnet-h-ti', 'gfnet-cnn-t'])
def test_initial_values_are_published(arch):
    model = mmfreq.build_classifier(arch)
    counted = dict.fromkeys((torch.nn.Linear, torch.nn.LayerNorm, torch.nn.Conv2d, StoredFilter), 0)
    for module in model.modules():
        counted.update({cls: counted[cls] + 1 for cls in counted if isinstance(module, cls)})
        if isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.03) and not module.bias.any()
        elif isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any()
        elif isinstance(module, torch.nn.Conv2d):  # as in PyTorch: uniform within the root of 1 / fan-in
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound and (module.bias is None or module.bias.any())
        elif isinstance(module, StoredFilter):
            assert module.complex_weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert all(counted.values()), counted
    if arch != 'gfnet-cnn-t':
        assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize('block', [GFNetBlock(8, 4, 0.5), GFNetBlock(8, 4, 0.5, 0.5), GFNetCNNBlock(8, 4, 0.5)])
def test_drop_path_drops_the_branch_per_sample(block):
    contract.randomize_scales_and_filters(block).train()
    x = contract.image(32, 8, 4, 4)
    with torch.no_grad():
        got, branch = block(x) - x, block.eval()(x) - x
    dropped = got.flatten(1).abs().amax(1) == 0
    assert 0 < dropped.sum() < len(x)
    torch.testing.assert_close(got[~dropped], 2 * branch[~dropped], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('arch,rate', [('gfnet-b', 0.25), ('gfnet-h-ti', 0.1), ('gfnet-cnn-t', 0.1)])
def test_drop_path_rates_rise_linearly(arch, rate):
    with torch.device('meta'):
        blocks = blocks_of(mmfreq.build_backbone(arch, drop_path_rate=rate))
    assert [block.drop_path.p for block in blocks] == pytest.approx([rate * k / (len(blocks) - 1) for k in range(len(blocks))])


@pytest.mark.parametrize('arch,published', zip(MICRO, ['bicubic', 'bicubic', 'bilinear']))
def test_filter_resize_and_spectral_apply_to_every_filter(arch, published):
    for kwargs, want in (({}, (published, 'auto')), (dict(filter_resize='kernel', spectral='matmul'), ('kernel', 'matmul'))):
        model = mmfreq.build_backbone(arch, **kwargs)
        filters = [m for m in model.modules() if isinstance(m, StoredFilter)]
        assert len(filters) == len(blocks_of(model)) == sum(model.arch_depths)
        assert {(each.filter_resize, each.spectral) for each in filters} == {want}


@pytest.mark.parametrize('arch', MICRO)
def test_checkpointing_runs_every_block_twice(arch):
    model = mmfreq.build_backbone(arch, with_cp=True)
    runs = []
    for block in blocks_of(model):
        block.register_forward_pre_hook(lambda block, _: runs.append(block))
    sum(out.sum() for out in model(contract.image(1, 3, 64, 64).requires_grad_())).backward()
    assert [runs.count(block) for block in blocks_of(model)] == [2] * sum(model.arch_depths)


@pytest.mark.parametrize(
    'arch,frozen',
    [
        ('gfnet-micro', ('pos_embed', 'patch_embed.', 'blocks.0.', 'blocks.1.')),
        ('gfnet-h-micro', ('pos_embed', 'patch_embed.0.', 'patch_embed.1.', 'blocks.0.', 'blocks.1.')),
        ('gfnet-cnn-micro', ('downsample_layers.0.', 'downsample_layers.1.', 'stages.0.', 'stages.1.', 'norm0.', 'norm1.')),
    ],
)
def test_frozen_stages_include_stem_and_position_embeddings(arch, frozen):
    contract.check_frozen(mmfreq.build_backbone(arch, frozen_stages=1), frozen)


@pytest.mark.parametrize('arch', MICRO)
def test_later_stages_are_not_built_and_reported_as_dropped(arch):
    state = mmfreq.build_classifier(arch).state_dict()
    cut = mmfreq.build_backbone(arch)
    cut.drop_stages(2)
    cut.out_indices = (1,)
    for model in (mmfreq.build_backbone(arch, out_indices=(1,)), cut):
        assert len(blocks_of(model)) == sum(model.arch_depths[:2])
        report = mmfreq.load_weights(model, state)
        later = {n for n in report.dropped if not n.startswith(('norm.', 'head.'))}
        assert later == {n for n in state if n not in model.state_dict() and not n.startswith(('norm.', 'head.'))} != set()
        assert report.loaded == len(state) - len(report.dropped) and len(model(contract.image(1, 3, 64, 64))) == 1


@pytest.mark.parametrize('arch', MICRO)
def test_load_state_dict_and_mmengine_resize_a_classifier_file(arch, tmp_path):
    from mmengine.runner import load_checkpoint

    state = contract.randomize_scales_and_filters(mmfreq.build_classifier(arch)).state_dict()
    want = mmfreq.build_backbone(arch, img_size=96)
    report = mmfreq.load_weights(want, state)
    assert report.resized.keys() == {n for n in state if n.endswith('complex_weight') or n == 'pos_embed'}
    plain, by_mmengine = (mmfreq.build_backbone(arch, img_size=96) for _ in range(2))
    plain.load_state_dict(state, strict=True)
    torch.save({'model': state}, tmp_path / 'published.pth')
    load_checkpoint(by_mmengine, str(tmp_path / 'published.pth'), map_location='cpu', strict=True)
    for model in (plain, by_mmengine):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, want.state_dict()[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize('arch,multiple', [('gfnet-micro', 16), ('gfnet-h-micro', 4)])
def test_pixels_after_the_last_whole_patch_are_ignored(arch, multiple):
    model = contract.randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    height, width = 5 * 16 + multiple - 1, 7 * 16 + multiple - 1
    x = contract.image(2, 3, height, width)
    with torch.no_grad():
        for a, b in zip(model(x), model(x[..., : 5 * 16, : 7 * 16])):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_downsampling_ignores_the_last_row_and_column_of_odd_maps():
    model = mmfreq.build_backbone('gfnet-h-micro')
    x = contract.image(1, 16, 7, 9)
    torch.testing.assert_close(model.patch_embed[1](x), model.patch_embed[1](x[..., :6, :8]))
    assert model.patch_embed[1](x).shape == (1, 24, 3, 4)


def test_fewer_than_four_blocks_raise():
    with pytest.raises(ValueError, match=naming(4, 'depth=3')):
        mmfreq.models.gfnet.GFNet(dict(dim=8, depth=3))
