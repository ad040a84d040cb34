"""The fused forms of blocks: the numbers and gradients of the plain ones, taken only where nobody can tell."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

import mmfreq
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, LayerNorm2d, MapNorm, Mlp, StarReLU, fused, spectral
from mmfreq.layers.eval_cache import CACHED_VALUES, EvalCache
from mmfreq.models.backbones.affnet import AFFBlock, AFFStage, ConvNormAct, InvertedResidual
from mmfreq.models.backbones.dfformer import MetaFormerBlock
from mmfreq.models.backbones.dfformer_mixers import SepConv
from mmfreq.models.backbones.gfnet import GFNetBlock
from mmfreq.models.backbones.gfnet_cnn import GFNetCNNBlock
from mmfreq.models.backbones.hornet import HorNetBlock
from mmfreq.ops import fusing
from mmfreq.ops.fusing import plain_forms

BHWC, BCHW = (2, 6, 5, 16), (2, 16, 6, 5)
BLOCKS = {
    'hornet': (lambda: HorNetBlock(16, 3, layer_scale=0.5), BCHW),
    'hornet without layer scale': (lambda: HorNetBlock(16, 1, layer_scale=0), BCHW),
    'hornet-gf': (lambda: HorNetBlock(16, 3, grid=4, layer_scale=0.5), BCHW),
    'gfnet': (lambda: GFNetBlock(16, 4), BHWC),
    'gfnet-h': (lambda: GFNetBlock(16, 4, layer_scale=0.5), BHWC),
    'gfnet-cnn': (lambda: GFNetCNNBlock(16, 4), BCHW),
    'dfformer': (lambda: MetaFormerBlock(16, DynamicFilter(16, 4, channels_last=True)), BHWC),
    'dfformer, scaled': (lambda: MetaFormerBlock(16, DynamicFilter(16, 4, channels_last=True), scaled_skips=True), BHWC),
    'dfformer-gelu': (lambda: MetaFormerBlock(16, DynamicFilter(16, 4, act=nn.GELU, channels_last=True), act=nn.GELU), BHWC),
    'cdfformer': (lambda: MetaFormerBlock(16, SepConv(16)), BHWC),
    'inverted residual': (lambda: InvertedResidual(16, 16, 2), BCHW),
    'inverted residual, strided': (lambda: InvertedResidual(16, 24, 2, stride=2), BCHW),
    'affnet': (lambda: AFFBlock(16), BCHW),
    'affnet stage': (lambda: AFFStage(16, [0.0, 0.0]), BCHW),
    'conv, norm, act': (lambda: ConvNormAct(16, 8, 3), BCHW),
}


def with_values(module):
    """Every parameter and running average away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        if t.is_floating_point():
            with torch.no_grad():
                t.add_(0.3 * torch.rand(t.shape, generator=generator) * (1 if 'var' in name else torch.rand(()) + 0.5))
    return module


@pytest.fixture(params=BLOCKS)
def block_and_input(request):
    make, shape = BLOCKS[request.param]
    torch.manual_seed(0)
    return with_values(make()).double(), torch.randn(shape, dtype=torch.float64)


def outcome(block, x, plain):
    """Result, gradients and buffers of one step."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    before = {n: b.clone() for n, b in block.named_buffers()}
    if plain:
        with plain_forms():
            y = block(x)
    else:
        y = block(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    found = {'y': y.detach(), 'x': x.grad} | {n: p.grad for n, p in block.named_parameters()}
    found |= {n: b.clone() for n, b in block.named_buffers()}
    for n, b in block.named_buffers():
        b.copy_(before[n])
    return found


@pytest.mark.parametrize('training', [True, False])
def test_a_block_and_its_gradients_are_those_of_the_plain_form(block_and_input, training):
    block, x = block_and_input
    block.train(training)
    want, got = outcome(block, x, plain=True), outcome(block, x, plain=False)
    assert set(want) == set(got) and all(v is not None for v in want.values())
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f'{n}: {m}')


def test_inference_is_that_of_the_plain_form_and_leaves_its_input_alone(block_and_input):
    block, x = block_and_input
    block.eval()
    kept = x.clone()
    with torch.no_grad():
        with plain_forms():
            want = block(x)
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(block(x.contiguous(memory_format=layout)), want, rtol=1e-8, atol=1e-10)
        block(x)
    assert torch.equal(x, kept)


def test_a_watched_module_is_called(block_and_input):
    """A forward hook on any part sees what it would see in the plain form, and may keep it: nobody writes over it later."""
    block, x = block_and_input
    block.eval()
    parts = {n: m for n, m in block.named_modules() if n and not isinstance(m, nn.ModuleList)}
    assert parts

    def seen_by_hook(part):
        kept = []
        hook = part.register_forward_hook(lambda _, args, out: kept.extend((t, t.clone()) for t in (*args, out)))
        with torch.no_grad():
            block(x)
        hook.remove()
        return kept

    for name, part in parts.items():
        kept = seen_by_hook(part)
        with plain_forms():
            want = seen_by_hook(part)
        assert len(kept) == len(want), name
        for (after, at_call), (_, expected) in zip(kept, want, strict=True):
            assert torch.equal(after, at_call), name
            torch.testing.assert_close(at_call, expected, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize('part', ['pwconv1', 'pwconv2', 'norm2', 'norm1', 'gnconv'])
def test_a_replaced_part_is_used(part):
    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    block, x = with_values(HorNetBlock(16, 3, layer_scale=0.5)), torch.randn(BCHW)
    before = block(x)
    setattr(block, part, Doubled(getattr(block, part)))
    with plain_forms():
        want = block(x)
    torch.testing.assert_close(block(x), want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(block(x), before)


def test_what_is_fusable():
    linear, norm = nn.Linear(2, 2), LayerNorm2d(2)
    assert fused.fusable(linear, norm, nn.GELU(), StarReLU())
    assert not fused.fusable(linear, nn.Dropout())
    assert not fused.fusable(type('Own', (nn.Linear,), {'forward': lambda self, x: x})(2, 2))
    assert fused.fusable(type('Renamed', (nn.Linear,), {})(2, 2))
    linear.forward = lambda x: x
    assert not fused.fusable(linear)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not fused.fusable(norm)
    handle.remove()
    assert fused.fusable(norm)
    assert not fused.has_form(nn.GELU(approximate='tanh')) and not fused.has_form(nn.SiLU())


@pytest.mark.parametrize('channels_last', [False, True])
def test_adaptive_filters_take_blocks_in_turn(channels_last, monkeypatch):
    """What is large goes through the transforms a few blocks of channels at a time; the masks know nothing of other blocks."""
    layer = with_values(AdaptiveFrequencyFilter(16, channels_last=channels_last)).double().eval()
    x = torch.randn(BHWC if channels_last else BCHW, dtype=torch.float64)
    of_a_block = 2 * 2 * x.numel() // 16 * 8  # twice two of the sixteen channels
    widths, transform = [], spectral.map_spectrum

    def watched(part, *args, **more):
        widths.append(part.shape[1])
        return transform(part, *args, **more)

    monkeypatch.setattr(spectral, 'map_spectrum', watched)
    with torch.no_grad():
        whole = layer(x)
        for blocks in (1, 3):
            monkeypatch.setattr(fusing, 'PIECE_BYTES', blocks * of_a_block)
            torch.testing.assert_close(layer(x), whole, rtol=1e-12, atol=1e-12)
    assert widths == [16] + [2] * 8 + [6, 6, 4]


def test_drop_path_drops_whole_samples_of_the_fused_branches():
    torch.manual_seed(0)
    block, x = with_values(HorNetBlock(16, 2, drop_path=0.5, layer_scale=0.5)), torch.randn(64, 16, 4, 4)
    same = (block(x) == x).flatten(1).all(1)
    assert 5 <= same.sum() <= 28  # both branches dropped: a quarter


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_small_layer_scale_survives_half_precision(dtype):
    """1e-6 times a weight is nothing in float16: there the scale stays outside of the matrix."""
    x, mlp = torch.randn(2, 3, 3, 16), with_values(Mlp(16, 32))
    scale = torch.full((16,), 1e-6, requires_grad=True)
    with torch.autocast('cpu', dtype):
        inside = fused.scale_inside(x, scale)
        y = fused.mlp_residual(
            torch.zeros_like(x), x, None, mlp.fc1, mlp.act, mlp.fc2, scale, StochasticDepth(0, 'row'), EvalCache()
        )
    want = 1e-6 * mlp(x)
    assert inside == (dtype == torch.bfloat16)
    assert ((y.float() - want).norm() / want.norm()).item() < 0.02
    y.float().sum().backward()
    assert scale.grad.abs().min() > 0


def test_derived_values_are_kept_until_a_source_changes():
    source, made = torch.zeros(3), []
    cache = EvalCache()
    get = lambda key='k', training=False: cache.get(training, key, (source,), lambda: (made.append(0), source + 1)[1])  # noqa: E731
    with torch.no_grad():
        assert get() is get() and len(made) == 1
        source.add_(1)
        assert get()[0] == 2 and len(made) == 2
        get(training=True)
        assert len(made) == 3
    get()
    assert len(made) == 4  # with gradients never from the cache
    with torch.no_grad():
        for key in range(3 * CACHED_VALUES):
            get(key)
            get(0)
        assert len(cache) == CACHED_VALUES and 0 in cache.values


def test_new_weights_are_used_after_inference():
    model = mmfreq.build_backbone('hornet-micro').eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        for p in model.parameters():
            p.mul_(1.5)
        after = model(x)
        with plain_forms():
            want = model(x)
    for a, b, c in zip(before, after, want):
        assert not torch.allclose(a, b)
        torch.testing.assert_close(b, c, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('mean', [0, 100])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('gradient', [True, False])
def test_map_norm_is_exact_in_either_layout(mean, layout, gradient):
    norm = with_values(MapNorm(8))
    x = (torch.randn(2, 8, 16, 16) + mean).contiguous(memory_format=layout)
    want = nn.functional.group_norm(x.double(), 1, norm.weight.double(), norm.bias.double(), norm.eps)
    with torch.set_grad_enabled(gradient):
        got = norm(x)
    assert ((got.double() - want).norm() / want.norm()).item() < 2e-5  # of the input's own rounding, at a mean of 100
