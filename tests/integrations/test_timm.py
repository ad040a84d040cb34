"""mmfreq models in timm: listing, creation, features, pruning, fine-tuning, published files."""

import copy
import pickle
from functools import cache

import pytest
import torch

import mmfreq
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_state

timm = pytest.importorskip('timm')
factory = pytest.importorskip('timm.optim')
integration = pytest.importorskip('mmfreq.integrations.timm')

ARCHS = mmfreq.list_archs()
NAMES = [arch.replace('-', '_') for arch in ARCHS]
MICRO = [name for name in NAMES if 'micro' in name]
FAMILIES = ('gfnet', 'gfformer', 'hornet', 'dfformer', 'affnet')  # prefixes of the names, without the c of cdfformer
each_family = pytest.mark.parametrize('family', FAMILIES)


@cache
def on_meta(name):
    """A classifier on the meta device, cached."""
    with torch.device('meta'):
        return timm.create_model(name)


def names_of(family):
    return [name for name in NAMES if name.removeprefix('c').startswith(family)]


def create(name, **kwargs):
    return contract.randomize_scales_and_filters(timm.create_model(name, **kwargs)).eval()


@pytest.mark.parametrize('family', ['gfnet', 'hornet', 'dfformer', 'affnet'])
def test_every_arch_is_listed(family):
    listed = timm.list_models(f'*{family}*')
    archs = {arch.replace('-', '_') for arch in ARCHS if family in arch}
    assert archs and archs <= set(listed)


def test_names_do_not_collide_with_timm():
    assert {timm.model_entrypoint(name).__module__ for name in NAMES} == {integration.__name__}
    with pytest.raises(ValueError, match='resnet18'):
        integration.register('resnet18')


def test_families_are_complete():
    found = [name for family in FAMILIES for name in names_of(family)]
    assert sorted(found) == sorted(NAMES)


@each_family
def test_configs_have_the_published_evaluation_and_existing_names(family):
    def check(name):
        model = on_meta(name)
        cfg = model.pretrained_cfg
        seen = type(model).published_preprocessing(name)
        assert cfg['input_size'] == (3, seen.size, seen.size) and (cfg['mean'], cfg['std']) == (seen.mean, seen.std)
        assert cfg['interpolation'] == seen.interpolation and cfg is model.default_cfg
        assert cfg['crop_pct'] == pytest.approx(seen.size / (seen.resize or seen.size))
        assert cfg['crop_mode'] == ('center' if seen.resize else 'squash')
        params = dict(model.named_parameters())
        assert params[cfg['classifier'] + '.weight'].shape == (1000, model.head_hidden_size)
        assert params[cfg['first_conv'] + '.weight'].shape[1] == 3
        assert [info['num_chs'] for info in model.feature_info] == list(model.channels)
        for info in model.feature_info:
            model.get_submodule(info['module'])

    assert not contract.failures(check, names_of(family))


def test_normalisation_of_affnet_and_of_the_others():
    transform = timm.data.resolve_data_config(model=timm.create_model('affnet_micro'))
    assert transform['mean'] == (0, 0, 0) and transform['std'] == (1, 1, 1) and transform['crop_pct'] == pytest.approx(256 / 288)
    assert timm.data.resolve_data_config(model=timm.create_model('gfnet_micro'))['mean'] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize('name', MICRO)
def test_logits_are_those_of_build_classifier(name):
    model = create(name, num_classes=11)
    twin = mmfreq.build_classifier(name, num_classes=11).eval()
    twin.load_state_dict(model.state_dict())
    x = contract.image(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), twin(x), rtol=0, atol=0)
        features = model.forward_features(x)
        torch.testing.assert_close(model.forward_head(features), twin(x), rtol=0, atol=0)
        assert features.shape[:2] == (2, model.num_features)


@pytest.mark.slow
@pytest.mark.parametrize('name', MICRO)
def test_reset_classifier(name):
    model = create(name, num_classes=5, in_chans=4)
    x = contract.image(2, 4, 64, 64)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(model.get_classifier()(pooled), model(x), rtol=0, atol=0)
        model.reset_classifier(0)
        assert model(x).shape == (2, model.head_hidden_size)
        torch.testing.assert_close(model(x), pooled, rtol=0, atol=0)
        model.reset_classifier(0, '')
        assert model(x).shape[:2] == (2, model.num_features) and model(x).ndim == 4
        model.reset_classifier(3, 'avg')
        assert model(x).shape == (2, 3) and model.num_classes == 3
        assert create(name, num_classes=0, in_chans=4)(x).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize('name', MICRO)
def test_every_parameter_has_a_gradient(name):
    model = contract.randomize_scales_and_filters(timm.create_model(name, num_classes=4, drop_path_rate=0.1)).eval()
    (model(contract.image(2, 3, 64, 96)) * contract.image(2, 4)).sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize('name', MICRO)
@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (-3, -2)])
def test_features_only(name, out_indices):
    whole = create(name)
    model = timm.create_model(name, features_only=True, out_indices=out_indices).eval()
    taken = [i % 4 for i in out_indices]
    assert model.feature_info.channels() == [whole.channels[i] for i in taken]
    assert model.feature_info.reduction() == [whole.strides[i] for i in taken]
    own = {n.removeprefix('model.'): p.shape for n, p in model.state_dict().items()}
    state = whole.state_dict()
    assert own.items() <= {n: p.shape for n, p in state.items()}.items()
    model.load_state_dict({'model.' + n: state[n] for n in own})
    x = contract.image(1, 3, 96, 128)
    with torch.no_grad():
        outs = model(x)
        for out, index in zip(outs, taken, strict=True):
            torch.testing.assert_close(out, whole.forward_stages(x)[index], rtol=0, atol=0)
    model.train()
    sum(out.square().sum() for out in model(contract.image(2, 3, 64, 64))).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None], 'parts without effect on the maps must not exist'


@pytest.mark.parametrize('name', MICRO)
def test_intermediates(name):
    model = create(name)
    x = contract.image(1, 3, 64, 64)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x), rtol=0, atol=0)
        stages = model.forward_stages(x)
        for got, want in zip(maps, stages, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        (last,) = model.get_intermediate_layers(x)
        torch.testing.assert_close(last, stages[-1], rtol=0, atol=0)
        some = model.forward_intermediates(x, [0, 2], intermediates_only=True)
        assert [tuple(m.shape) for m in some] == [tuple(stages[i].shape) for i in (0, 2)]
    with pytest.raises(ValueError, match=naming('NCHW', 'NLC')):
        model.forward_intermediates(x, output_fmt='NLC')


@pytest.mark.parametrize('name', MICRO)
def test_grad_checkpointing_preserves_gradients(name):
    grads = []
    model = create(name, num_classes=3)
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(contract.image(2, 3, 64, 64)).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert model.with_cp
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@each_family
def test_group_matcher_orders_from_stem_to_head(family):
    def check(name):
        model = on_meta(name)
        for coarse in (False, True):
            groups = timm.models.group_parameters(model, model.group_matcher(coarse), reverse=True)
            assert set(groups) == {n for n, _ in model.named_parameters()}
            last = max(groups.values())
            assert groups[model.pretrained_cfg['first_conv'] + '.weight'] == 0
            assert groups[model.pretrained_cfg['classifier'] + '.weight'] == last == (4 if coarse else sum(model.arch_depths))

    assert not contract.failures(check, names_of(family))


def test_optimizers_and_layer_decay_of_timm():
    model = timm.create_model('gfnet_micro')
    assert model.no_weight_decay() == {'pos_embed'} and timm.create_model('hornet_micro').no_weight_decay() == set()
    optimizer = factory.create_optimizer_v2(model, 'adamw', lr=1.0, weight_decay=0.05, layer_decay=0.5)
    scales = {group['lr_scale'] for group in optimizer.param_groups}
    assert min(scales) == 0.5 ** (max(scales) and sum(model.arch_depths)) and max(scales) == 1
    undecayed = {id(p) for group in optimizer.param_groups if group['weight_decay'] == 0 for p in group['params']}
    assert id(model.pos_embed) in undecayed and id(model.blocks[0].filter.complex_weight) not in undecayed


@pytest.mark.parametrize('name', MICRO)
def test_pretrained_with_a_published_file(name, tmp_path):
    shapes = {n: p.shape for n, p in mmfreq.build_classifier(name).state_dict().items()}
    state = golden_state(shapes)
    torch.save({'model': state}, tmp_path / 'published.pth')
    overlay = dict(file=str(tmp_path / 'published.pth'))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(value, state[n]) for n, value in model.state_dict().items())
    other = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1, img_size=320)
    conv = other.pretrained_cfg['first_conv'] + '.weight'
    torch.testing.assert_close(other.state_dict()[conv], state[conv].sum(1, keepdim=True))
    assert other.get_classifier().out_features == 3
    grids = [n for n, value in other.state_dict().items() if n in state and value.shape != state[n].shape]
    assert all(
        n == conv or n.startswith(other.pretrained_cfg['classifier']) or 'complex_weight' in n or n == 'pos_embed' for n in grids
    )
    features = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, out_indices=(1,))
    own = {n.removeprefix('model.'): value for n, value in features.state_dict().items()}
    assert own and all(torch.equal(value, state[n]) for n, value in own.items())


def test_file_of_another_family_raises(tmp_path):
    torch.save(mmfreq.build_classifier('hornet-micro').state_dict(), tmp_path / 'hornet.pth')
    with pytest.raises(ValueError, match='HorNet'):
        timm.create_model('affnet_micro', pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'hornet.pth')))


def test_models_can_be_copied_and_pickled():
    x = contract.image(1, 3, 64, 64)
    for name in MICRO:
        model = create(name)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with torch.no_grad():
                torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)


def test_dropout_pooling_and_output_stride():
    assert timm.create_model('affnet_micro').classifier.dropout.p == 0.1
    assert timm.create_model('affnet_micro', drop_rate=0.3).classifier.dropout.p == 0.3
    model = timm.create_model('hornet_micro', drop_rate=0.5).train()
    assert (model.forward_head(torch.randn(4, 128, 2, 2), pre_logits=True) == 0).any()
    features = timm.create_model('affnet_micro', features_only=True, output_stride=8)
    assert features.feature_info.reduction() == [4, 8, 8, 8]
    with pytest.raises(ValueError, match=naming(32, 16)):
        timm.create_model('hornet_micro', output_stride=16)
    with pytest.raises(ValueError, match='max'):
        timm.create_model('hornet_micro', global_pool='max')
    with pytest.raises(ValueError, match=naming("''", 5)):
        timm.create_model('hornet_micro', global_pool='', num_classes=5)


def test_backbone_arguments():
    model = timm.create_model('gfnet_h_micro', img_size=320, spectral='matmul', filter_resize='kernel', drop_path_rate=0.2)
    assert (model.img_size, model.spectral, model.filter_resize) == (320, 'matmul', 'kernel')


def test_list_pretrained_has_the_tags_with_a_url():
    listed = {name for name in timm.list_pretrained('*') if name.split('.')[0] in NAMES}
    assert {'dfformer_s18.in1k', 'cdfformer_b36.in1k', 'hornet_tiny_gf.in1k', 'hornet_large_gf.in22k', 'gfnet_ti.in1k'} <= listed
    without = {'affnet', 'gfnet_cnn_t', 'gfformer_s18', 'hornet_micro'}
    assert not without & {name.split('.')[0] for name in listed}
    assert timm.get_pretrained_cfg('dfformer_s18').url.endswith('/dfformer_s18.pth')


def test_pretrained_finds_the_published_file(tmp_path, monkeypatch):
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    arch = 'hornet-large-gf'
    tiny = mmfreq.models._factory.classifier_class(arch).ARCHS['hornet-micro']
    monkeypatch.setitem(mmfreq.models._factory.classifier_class(arch).ARCHS, arch, tiny)  # its files are large
    state = mmfreq.build_classifier('hornet-micro', num_classes=1234).state_dict()
    torch.save({'model': state}, tmp_path / f'{arch}_in22k.pth')
    model = timm.create_model('hornet_large_gf.in22k', pretrained=True)
    assert model.num_classes == 1234 and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    given = timm.get_pretrained_cfg('hornet_large_gf.in22k')
    for pretrained_cfg in (given, given.to_dict()):
        model = timm.create_model('hornet_large_gf', pretrained=True, pretrained_cfg=pretrained_cfg)
        assert torch.equal(model.norm.weight, state['norm.weight'])
    tuned = timm.create_model('hornet_large_gf', pretrained=True, num_classes=3, in_chans=4)
    assert tuned.num_classes == 3 and torch.equal(tuned.norm.weight, state['norm.weight'])
    assert tuned.pretrained_cfg['tag'] == 'in22k'
    features = timm.create_model('hornet_large_gf', pretrained=True, features_only=True)
    assert torch.equal(features.state_dict()['model.stages.0.0.gamma1'], state['stages.0.0.gamma1'])


@pytest.mark.parametrize(
    ('name', 'source'),
    [
        ('gfnet_ti', 'https://cloud.tsinghua.edu.cn/f/3d0c1579aa524a0a99dd/'),
        ('affnet_et', 'https://github.com/microsoft/TokenMixers'),
        ('gfnet_cnn_t', "No weights of 'gfnet-cnn-t' are published"),
    ],
)
def test_error_without_a_file_names_the_sources(name, source, tmp_path, monkeypatch):
    monkeypatch.setenv('MMFREQ_OFFLINE', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(ValueError, match=naming(source)):
        timm.create_model(name, pretrained=True)
