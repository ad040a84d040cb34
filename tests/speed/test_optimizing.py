"""`mmfreq.optimize`: the outputs stay the same, modified modules are not bypassed, invalid uses raise errors."""

import copy
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.nn.utils import prune

import mmfreq
from mmfreq.apis.loading import build_model as model_of_config
from mmfreq.models.dfformer import DFFormer, Scale
from mmfreq.speed import folded, folded_affnet, folded_blocks
from mmfreq.testing.backbone_contract import randomize_scales_and_filters

ROOT = Path(mmfreq.__file__).resolve().parents[1]
ARCHS = [arch for arch in mmfreq.list_archs() if 'micro' in arch]
SMALL = {
    act: dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 40), mixers=('dynamic', 'conv', 'global', 'afno'), act=act)
    for act in ('star_relu', 'gelu', 'relu')
}
every_model = pytest.mark.parametrize('arch', [*ARCHS, *SMALL])


def model_of(arch, **kwargs):
    """A backbone in eval mode with distinct values in all parameters and running statistics."""
    torch.manual_seed(0)
    model = DFFormer(SMALL[arch], **kwargs) if arch in SMALL else mmfreq.build_backbone(arch, **kwargs)
    with torch.no_grad():
        for name, p in randomize_scales_and_filters(model).named_parameters():
            if p.ndim == 1 and 'gamma' not in name:
                p.add_(0.2 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.2), module.running_var.uniform_(0.5, 2)
    return model.eval()


def difference(got, want):
    """Largest difference over the largest value of each map."""
    assert len(got) == len(want) > 0
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want))


@every_model
@torch.no_grad()
def test_outputs_are_unchanged(arch, monkeypatch):
    model, x = model_of(arch), torch.randn(2, 3, 72, 104)
    want, kept = model(x), x.clone()
    for size in (None, (72, 104)):
        optimized = mmfreq.optimize(model, size)
        for layout in (torch.contiguous_format, torch.channels_last):
            assert difference(optimized(x.contiguous(memory_format=layout)), want) < 1e-5
        monkeypatch.setattr(folded, 'CHUNK_BYTES', 2000)  # many chunks
        assert difference(optimized(x), want) < 1e-5
        monkeypatch.undo()
    assert torch.equal(x, kept)


@every_model
@torch.no_grad()
def test_original_model_is_not_modified(arch):
    model, x = model_of(arch).train(), torch.randn(1, 3, 64, 64)
    state, text, modes = copy.deepcopy(model.state_dict()), repr(model), [m.training for m in model.modules()]
    optimized = mmfreq.optimize(model, 64)
    assert repr(model) == text and modes == [m.training for m in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for p in model.parameters():
        p.zero_()
    assert optimized(x)[-1].abs().max() > 0  # it does not share memory with the model


@pytest.mark.parametrize('arch', ARCHS)
def test_print_shows_what_was_folded(arch):
    text = repr(mmfreq.optimize(model_of(arch)))
    assert text.startswith('Optimized') and 'Folded' in text
    assert 'BatchNorm2d' not in text


def test_every_folded_class_is_used():
    used = {type(part) for arch in ARCHS for part in mmfreq.optimize(model_of(arch)).modules()}
    defined = [value for module in (folded, folded_affnet, folded_blocks) for value in vars(module).values()]
    classes = {value for value in defined if isinstance(value, type) and issubclass(value, folded.Folded)}
    assert len(classes) > 10 and classes - used == {folded.Folded}


@pytest.mark.parametrize('arch', ARCHS)
def test_training_and_loading_raise(arch):
    optimized = mmfreq.optimize(model_of(arch))
    assert not any(m.training for m in optimized.modules()) and not any(p.requires_grad for p in optimized.parameters())
    wrapper = nn.Sequential(optimized)
    for refused in (
        optimized.train,
        wrapper.train,
        lambda: optimized.load_state_dict({}),
        lambda: wrapper.load_state_dict(wrapper.state_dict()),
    ):
        with pytest.raises(RuntimeError, match=r'returned by mmfreq.optimize cannot.*original model'):
            refused()
    assert optimized.eval() is optimized
    with pytest.raises(ValueError, match='already optimized'):
        mmfreq.optimize(wrapper)


def test_model_without_mmfreq_raises():
    with pytest.raises(ValueError, match=r'expected a model with a backbone of mmfreq.*got Linear'):
        mmfreq.optimize(nn.Linear(2, 2))


@pytest.mark.parametrize('arch', [arch for arch in ARCHS if 'affnet' not in arch])
def test_other_image_sizes_raise(arch):
    optimized = mmfreq.optimize(model_of(arch), (64, 96))
    with torch.no_grad(), pytest.raises(ValueError, match='only, got'):
        optimized(torch.randn(1, 3, 96, 96))


@every_model
@torch.no_grad()
def test_optimized_model_can_be_copied_pickled_and_exported(arch):
    optimized, x = mmfreq.optimize(model_of(arch)), torch.randn(1, 3, 64, 96)
    want = optimized(x)
    for twin in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized))):
        assert type(twin) is type(optimized) and repr(twin) == repr(optimized)
        assert all(torch.equal(a, b) for a, b in zip(twin(x), want))
        with pytest.raises(RuntimeError, match='cannot be trained'):
            twin.train()


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['gfnet-micro', 'star_relu'])
@torch.no_grad()
def test_optimized_model_compiles_without_graph_breaks(arch):
    """In addition to tests/models/test_capabilities.py: dynamic image sizes, for which maps must not be chunked."""
    model, x = model_of(arch), torch.randn(3, 3, 64, 96)
    optimized, auto = mmfreq.optimize(model), torch.export.Dim.AUTO
    torch._dynamo.reset()
    compiled = torch.compile(optimized, backend='aot_eager', fullgraph=True)
    assert difference(compiled(x), model(x)) < 1e-5
    exported = torch.export.export(optimized, (x,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    x = torch.randn(2, 3, 96, 128)
    assert difference(exported.module()(x), model(x)) < 1e-5


@pytest.mark.parametrize('arch', [*ARCHS, 'star_relu'])
@torch.no_grad()
def test_replaced_or_hooked_modules_are_called(arch):
    """For each leaf: the optimized copy agrees with the model after the same change.

    The first leaf of each kind (its name without numbers) gets a hook and, in another copy, a replacement; later ones one of them.
    """
    x = torch.randn(1, 3, 64, 64)
    names = [name for name, part in model_of(arch).named_modules() if name and not list(part.children())]
    assert len(names) > 15
    seen = set()
    for number, name in enumerate(names):
        kind = re.sub(r'\d+', '#', name)
        for hooked in (bool(number % 2),) if kind in seen else (True, False):
            model = model_of(arch)
            if hooked:
                model.get_submodule(name).register_forward_hook(lambda m, args, out: 1.5 * out)
            else:
                model.set_submodule(name, nn.Sequential(model.get_submodule(name), nn.Tanh()))
            assert difference(mmfreq.optimize(model)(x), model(x)) < 1e-5, (name, hooked)
        seen.add(kind)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('arch', ARCHS)
@torch.no_grad()
def test_low_precision_is_as_accurate_as_the_original(arch, dtype):
    model, x = model_of(arch), torch.randn(1, 3, 64, 64)
    want, optimized = model(x), mmfreq.optimize(model)
    with torch.autocast('cpu', dtype):
        unoptimized, got = model(x), optimized(x)
    assert difference([t.float() for t in got], want) < 2 * difference([t.float() for t in unoptimized], want) + 1e-3


@pytest.mark.parametrize('arch', ARCHS)
def test_gradients_of_the_image_are_unchanged(arch):
    model, found = model_of(arch), []
    for each in (model, mmfreq.optimize(model)):
        x = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64).requires_grad_()
        each(x)[-1].square().sum().backward()
        found.append(x.grad)
    assert difference(found[1:], found[:1]) < 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_segmentor_and_detector():
    x = torch.randn(1, 3, 64, 96)
    for path, name in (
        ('seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py', 'OptimizedEncoderDecoder'),
        ('det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py', 'OptimizedMaskRCNN'),
    ):
        model, _ = model_of_config(Config.fromfile(ROOT / 'configs' / path), None)
        optimized = mmfreq.optimize(model, (64, 96))
        assert difference(optimized.extract_feat(x), model.extract_feat(x)) < 1e-5
        assert type(optimized).__name__ == name and 'FoldedHorNetBlock' in repr(optimized)
    segmentor, _ = model_of_config(
        Config.fromfile(ROOT / 'configs' / 'seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'), None
    )
    optimized = mmfreq.optimize(segmentor)
    assert difference([optimized(x)], [segmentor(x)]) < 1e-5
    assert not [m for m in optimized.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]


def silu_of_conv(channels):
    conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels), act=nn.SiLU()))


def low_rank(linear):
    return nn.Sequential(nn.Linear(linear.in_features, 4), nn.Linear(4, linear.out_features))


def per_channel(act, channels):
    act.scale, act.bias = (nn.Parameter(torch.rand(channels)) for _ in range(2))


def wide(conv):
    return nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1)


# arch -> changes of a model after which a block must not be folded
CHANGES = {
    'hornet-micro': [
        lambda m: setattr(m.stages[2][0], 'drop_path1', nn.ReLU()),
        lambda m: setattr(m.stages[2][0], 'pwconv1', low_rank(m.stages[2][0].pwconv1)),
        lambda m: setattr(m.stages[2][0], 'act', nn.Sequential(nn.GELU(), nn.Tanh())),
        lambda m: setattr(m.stages[2][0].gnconv.dwconv, 'post_norm', nn.Identity()),
        lambda m: setattr(m.stages[1][0].gnconv.dwconv, 'bias', None),
        lambda m: m.stages[2][0].gnconv.pws.__setitem__(0, wide(m.stages[2][0].gnconv.pws[0])),
        lambda m: m.stages[2].__setitem__(1, m.stages[2][0]),  # one block twice
        lambda m: setattr(m.stages[2][1].gnconv, 'dwconv', m.stages[2][0].gnconv.dwconv),
    ],
    'dfformer-micro': [
        lambda m: setattr(m.stages[2][0], 'drop_path1', Scale(m.channels[2]).requires_grad_(False)),
        lambda m: m.stages[2].__setitem__(1, m.stages[2][0]),
        lambda m: setattr(m.stages[2][0].mlp, 'fc1', low_rank(m.stages[2][0].mlp.fc1)),
        lambda m: per_channel(m.stages[2][0].mlp.act, m.stages[2][0].mlp.fc1.out_features),
    ],
    'gfnet-h-micro': [
        lambda m: setattr(m.stages[2][0] if hasattr(m, 'stages') else m.blocks[2][0], 'drop_path', nn.ReLU()),
    ],
    'affnet-micro': [
        lambda m: setattr(m.layer_2[1].block.conv_3x3, 'block', silu_of_conv(m.layer_2[1].block.conv_3x3.block.conv.in_channels)),
        lambda m: setattr(m.conv_1, 'block', nn.Sequential(*m.conv_1.block)),  # without names
        lambda m: setattr(m.conv_1.block, 'act', nn.Softplus()),
    ],
}


@pytest.mark.parametrize(('arch', 'change'), [(arch, change) for arch, changes in CHANGES.items() for change in changes])
@torch.no_grad()
def test_modified_structure_is_kept(arch, change, monkeypatch):
    monkeypatch.setattr(folded, 'CHUNK_BYTES', 20000)
    model, x = model_of(arch), torch.randn(1, 3, 64, 64)
    before, names = model(x), list(model.state_dict())
    change(model)
    for part in model.eval().modules():
        if isinstance(part, Scale):
            part.scale.normal_(1, 0.5)
    want = model(x)
    assert difference(want, before) > 1e-5 or list(model.state_dict()) != names
    assert difference(mmfreq.optimize(model)(x), want) < 1e-5


def test_model_that_cannot_be_copied_raises():
    model = mmfreq.build_backbone('hornet-micro')
    prune.l1_unstructured(model.stages[2][0].pwconv1, 'weight', 0.5)
    with pytest.raises(ValueError, match=r'torch cannot copy.*prune\.remove'):
        mmfreq.optimize(model)
    with torch.no_grad():
        model.eval()(torch.randn(1, 3, 64, 64))
    assert 'Folded' in repr(mmfreq.optimize(model))


@torch.no_grad()
def test_mmcv_conv_modules_are_folded_unless_modified():
    from mmcv.cnn import ConvModule

    class OtherConvModule(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x)

    OtherConvModule.__name__ = 'ConvModule'
    x = torch.randn(2, 3, 8, 8)
    for options, change, folds in (
        ({}, lambda m: None, True),
        ({}, lambda m: m.bn.register_forward_hook(lambda m, args, out: 2 * out), False),
        ({}, lambda m: setattr(m.bn, 'forward', torch.tanh), False),
        ({'with_spectral_norm': True}, lambda m: None, False),
        ({}, lambda m: prune.l1_unstructured(m.conv, 'weight', 0.5), False),
    ):
        module = ConvModule(3, 4, 1, norm_cfg=dict(type='BN'), **options).eval()
        module.bn.running_mean.normal_(), module.bn.running_var.uniform_(0.5, 2)
        change(module)
        module(x)
        wrapper = nn.ModuleDict(dict(backbone=mmfreq.build_backbone('hornet-micro'), head=module, other=OtherConvModule()))
        optimized = mmfreq.optimize(wrapper)['head']
        assert isinstance(optimized.bn, nn.Identity) == folds
        torch.testing.assert_close(optimized(x), module(x), rtol=1e-4, atol=1e-5)
