"""The reference implementations equal the authors' code (golden files), and mmfreq equals them (every micro arch)."""

import pytest
import torch

import mmfreq
from benchmarks import reference
from benchmarks.reference import dfformer_mixers, mmpretrain_hornet
from mmfreq.testing import backbone_contract as contract
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, worst_error

# golden file -> arch, image size of the stored grids (None: default)
GOLDEN = {
    'hornet__hornet_tiny_gf': ('hornet-tiny-gf', None),
    'hornet__hornet_small_7x7': ('hornet-small-7x7', None),
    'dfformer__dfformer_s18_seg': ('dfformer-s18', 512),
    'dfformer__dfformer_s18_seg_from224': ('dfformer-s18', 512),
    'dfformer__cdfformer_s18_seg': ('cdfformer-s18', 512),
    'gfnet__gfnet-h-ti': ('gfnet-h-ti', None),
    'gfnet__gfnet-h-ti__img128': ('gfnet-h-ti', 128),
    'gfnet__gfnet-h-ti__img64_scaled': ('gfnet-h-ti', 64),
    'gfnet__gfnet-h-ti__img96_gradients': ('gfnet-h-ti', 96),
    'gfnet__gfnet-h-ti__transfer256': ('gfnet-h-ti', 256),
    'gfnet__gfnet-ti': ('gfnet-ti', None),
    'gfnet__gfnet-ti__img96_gradients': ('gfnet-ti', 96),
    'gfnet__gfnet-ti__transfer256': ('gfnet-ti', 256),
    'affnet__affnet_et': ('affnet-et', None),
    'affnet__affnet_t': ('affnet-t', None),
}
ARCHS = [arch for arch in mmfreq.list_archs() if not arch.startswith('gfnet-cnn')]
MICRO = [arch for arch in ARCHS if arch.endswith('-micro')]
# the mixers of DFFormer's ablations have no micro arch
ABLATIONS = {name: dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), mixers=(name,) * 4, act='gelu') for name in ('global', 'afno')}
OUTPUTS, GRADIENTS = 'reference implementation, outputs', 'reference implementation, gradients'
ROUNDING = 1e-6  # relative to the norm of all gradients: smaller gradients are rounding errors


def pair(arch, **kwargs):
    """A backbone of mmfreq in eval mode with golden weights, and its reference implementation."""
    cls = mmfreq.models.dfformer.DFFormer if isinstance(arch, dict) else mmfreq.models._factory.backbone_class(arch)
    model = cls(arch, **kwargs).eval()
    model.load_state_dict(golden_state({n: p.shape for n, p in model.state_dict().items()}))
    return model, reference.twin(model)


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def golden_twin(name, golden):
    arch, img_size = GOLDEN[name]
    model = mmfreq.build_backbone(arch, img_size=img_size).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict'], golden.get('scale')))
    return reference.twin(model)


@pytest.mark.slow
@pytest.mark.parametrize('name', GOLDEN)
def test_golden_stages(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, name)
    twin = golden_twin(name, golden)
    cases = [case for case in golden['cases'] if case['what'] == 'stages' and not case.get('training')]
    assert cases
    for case in cases:
        with torch.no_grad():
            outs = twin(*golden_inputs(case))
        family = name.partition('__')[0]
        within_limit(f'{family} outputs', *worst_error(outs, case['outputs'][:4]))  # the fifth is the norm of the classifier


def test_golden_training_mode_and_running_statistics(golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__affnet_et')
    twin = golden_twin('affnet__affnet_et', golden).train()
    (case,) = (case for case in golden['cases'] if case['training'])
    with torch.no_grad():
        outs = twin(*golden_inputs(case))
    state = twin.state_dict()
    for got, want in ((outs, case['outputs']), ([state[o['name']] for o in case['other_outputs']], case['other_outputs'])):
        within_limit('affnet outputs', *worst_error(got, want))


@pytest.mark.slow
def test_names_and_shapes_equal_those_of_mmfreq():
    at_160 = ('hornet-micro', 'gfnet-micro', 'gfnet-h-micro', 'dfformer-micro', 'cdfformer-micro', 'gfformer-s18', 'affnet-micro')
    assert set(MICRO) < set(at_160) < set(ARCHS)

    def shapes(build, arch, img_size=None):
        with torch.device('meta'):
            return {n: tuple(p.shape) for n, p in build(arch, img_size=img_size).state_dict().items()}

    different = [arch for arch in ARCHS if shapes(mmfreq.build_backbone, arch) != shapes(reference.build, arch)]
    for arch in at_160:
        both = shapes(mmfreq.build_backbone, arch, 160), shapes(reference.build, arch.replace('-', '_'), 160)
        different += [f'{arch} at 160'] * (both[0] != both[1])
    assert not different


@pytest.mark.parametrize('arch', [*MICRO, *ABLATIONS.values()], ids=[*MICRO, *ABLATIONS])
def test_outputs_equal_those_of_mmfreq(arch, within_limit):
    model, twin = pair(arch)
    assert not [m for m in twin.modules() if type(m).__module__.startswith('mmfreq')]
    for size in ((64, 96), (67, 101), (224, 224)):  # other grids than the stored ones, odd, and the stored ones
        x = contract.image(1, 3, *size)
        with torch.no_grad():
            found, expected = twin(x), model(x)
        assert isinstance(found, tuple) and len(found) == 4
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            within_limit(OUTPUTS, relative_error(a, b))


@pytest.mark.parametrize('arch', MICRO)
def test_gradients_equal_those_of_mmfreq_in_training_mode(arch, within_limit):
    models = [model.train() for model in pair(arch)]
    grads = []
    for model in models:
        golden_loss(model(contract.image(2, 3, 64, 96))).backward()
        every = {name: param.grad for name, param in model.named_parameters()}
        total_norm = sum(grad.square().sum() for grad in every.values()).sqrt()
        grads.append({name: grad for name, grad in every.items() if grad.norm() > ROUNDING * total_norm})
        rest = every.keys() - grads[-1].keys()
        assert not rest or (arch == 'affnet-micro' and all(name.endswith('.bias') for name in rest))  # batch norms cancel these
    grads_of_mmfreq, grads_of_reference = grads
    assert grads_of_reference.keys() == grads_of_mmfreq.keys()
    for name, grad in grads_of_reference.items():
        within_limit(GRADIENTS, relative_error(grad, grads_of_mmfreq[name]), name)


def test_dynamic_filters_are_resized_in_every_forward_and_others_where_the_grid_differs(monkeypatch):
    sizes = []
    resized = dfformer_mixers.resized
    monkeypatch.setattr(dfformer_mixers, 'resized', lambda weight, size: sizes.append(size) or resized(weight, size))
    dynamic, fixed = pair('dfformer-micro', img_size=64)[1], pair(ABLATIONS['global'], img_size=64)[1]
    for model, at_64, at_96 in ((dynamic, 5, 5), (fixed, 0, 5)):
        for side, calls in ((64, at_64), (96, at_96)):
            sizes.clear()
            for _ in range(2):
                model(contract.image(1, 3, side, side))
            assert len(sizes) == 2 * calls


def test_twin_is_a_copy_in_the_mode_of_the_original():
    model, twin = pair('gfnet-h-micro')
    assert not twin.training and reference.twin(model.train()).training
    before = model.pos_embed.clone()
    with torch.no_grad():
        twin.pos_embed.zero_()
    assert torch.equal(model.pos_embed, before)
    assert pair('gfnet-micro', in_channels=5)[1](contract.image(1, 5, 64, 64))[0].shape == (1, 32, 4, 4)


@pytest.mark.parametrize(
    'kwargs', [dict(arch='hornet-tiny-7x7'), dict(arch='hornet-micro'), dict(arch='hornet-micro', img_size=384, in_channels=4)]
)
def test_hornet_of_mmpretrain_equals_the_reference(kwargs, within_limit):
    model, twin = pair(**kwargs)
    other = mmpretrain_hornet.twin(model)
    assert type(other).__module__ == 'mmpretrain.models.backbones.hornet' and not other.training
    x = contract.image(1, model.in_channels, 64, 96)
    with torch.no_grad():
        for a, b, c in zip(other(x), twin(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert a.is_contiguous()
            within_limit(OUTPUTS, relative_error(a, c))


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: reference.build('gfnet-cnn-micro'), 'GFNetCNN'),
        (lambda: reference.build('hornet-tiny-fg'), 'hornet-tiny-gf'),
        (lambda: reference.twin(mmfreq.build_backbone('gfnet-cnn-micro')), 'GFNetCNN'),
        (lambda: reference.twin(mmfreq.build_backbone('hornet-micro', out_indices=(3,))), r'out_indices=\(3,\)'),
        (lambda: reference.twin(mmfreq.build_backbone('gfnet-micro', filter_resize='modes')), "filter_resize='modes'"),
        (lambda: reference.twin(mmfreq.build_backbone('affnet-micro', output_stride=8)), 'output_stride=8'),
        (lambda: mmpretrain_hornet.twin(mmfreq.build_backbone('affnet-micro')), 'AFFNet'),
        (lambda: mmpretrain_hornet.twin(mmfreq.build_backbone('hornet-micro', filter_resize='modes')), "'modes'"),
    ],
)
def test_error_without_a_reference_implementation(call, message):
    with pytest.raises(ValueError, match=message):
        call()
