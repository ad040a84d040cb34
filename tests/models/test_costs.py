"""A guard that counts and does not time: operations and kept bytes of the fused forms, against bounds and the published form."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mmfreq
from benchmarks import published
from mmfreq.analysis.benchmark.memory import saved_bytes
from mmfreq.layers import DynamicFilter
from mmfreq.layers.eval_cache import EvalCache
from mmfreq.models.backbones.affnet import AFFBlock, InvertedResidual
from mmfreq.models.backbones.dfformer import MetaFormerBlock
from mmfreq.models.backbones.dfformer_mixers import SepConv
from mmfreq.models.backbones.gfnet import GFNetBlock
from mmfreq.models.backbones.hornet import HorNetBlock
from mmfreq.ops.fusing import plain_forms

C, GRID = 64, (16, 32)
# block -> (what makes it, whether its maps are channels-last, maps of C channels kept for the backward pass beside its input)
BLOCKS = {
    'hornet 7x7': (lambda: HorNetBlock(C, 3), False, 11.0),
    'hornet gf': (lambda: HorNetBlock(C, 3, grid=GRID), False, 16.0),
    'gfnet-h': (lambda: GFNetBlock(C, GRID, layer_scale=1e-3), True, 7.5),
    'dfformer': (lambda: MetaFormerBlock(C, DynamicFilter(C, GRID, channels_last=True)), True, 11.5),
    'cdfformer': (lambda: MetaFormerBlock(C, SepConv(C)), True, 11.5),
    'inverted residual': (lambda: InvertedResidual(C, C, 2), False, 5.5),
    'affnet': (lambda: AFFBlock(C), False, 18.0),
}
COPIES = ('clone', 'copy_', '_to_copy')


class Operations(TorchDispatchMode):
    """Calls by the name of the operator, and those that copy a whole map or more."""

    def __init__(self, map_numel):
        super().__init__()
        self.map_numel, self.calls, self.map_copies = map_numel, Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name in COPIES and out.numel() >= self.map_numel:
            self.map_copies[name] += 1
        return out


@pytest.fixture(params=BLOCKS)
def case(request):
    make, channels_last, bound = BLOCKS[request.param]
    torch.manual_seed(0)
    x = torch.randn(2, *GRID, C)  # channels-last in memory, as maps are inside of a stage
    return request.param, make(), x if channels_last else x.permute(0, 3, 1, 2), bound


def operations(block, x):
    """Those of a second inference, when the weights are prepared."""
    with torch.no_grad():
        block(x)
        with Operations(x.numel()) as seen:
            block(x)
    return seen


def as_call(model, images):
    """What `saved_bytes` wants to know: neither the input nor the parameters count."""
    images = images.detach().requires_grad_()
    return SimpleNamespace(model=model, images=images, forward=lambda: model(images))


def test_inference_has_no_slow_norm_and_copies_no_map_for_its_layout(case):
    name, block, x, _ = case
    seen = operations(block.eval(), x)
    assert seen.calls.total() > 5
    assert not {'pow', 'native_batch_norm', 'var', 'std'} & set(seen.calls), seen.calls
    # the transforms work on NCHW maps: half of the channels there and back, or the result into its place, piece by piece
    allowed = {'hornet gf': 1, 'gfnet-h': 1, 'dfformer': 1, 'inverted residual': 1, 'affnet': 2}
    assert seen.map_copies.total() <= allowed.get(name, 0), seen.map_copies


def test_weights_are_prepared_once(case):
    """With autocast every weight would be cast in every forward; what is left are maps, vectors of norms, and the routing's MLP."""
    _, block, x, _ = case
    with torch.autocast('cpu', torch.bfloat16):
        second = operations(block.eval(), x)
        for module in block.modules():
            for cache in (c for c in vars(module).values() if isinstance(c, EvalCache)):
                cache.values.clear()
        with torch.no_grad(), Operations(x.numel()) as first:
            block(x)
    assert second.calls['_to_copy'] < first.calls['_to_copy'], (first.calls, second.calls)


def test_a_block_keeps_no_more_than_its_bound(case):
    name, block, x, bound = case
    call = as_call(block.train(), x)
    kept = saved_bytes(call) / (x.numel() * x.element_size())
    with plain_forms():
        plain = saved_bytes(call) / (x.numel() * x.element_size())
    assert 0.8 * bound < kept <= bound, f'{name} keeps {kept:.2f} maps, the plain form {plain:.2f}; the bound is {bound}'
    assert kept < plain


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet'])
def test_a_backbone_keeps_at_most_three_fifths_of_the_published(arch):
    ours = mmfreq.build_backbone(arch).train()
    images = torch.randn(1, 3, 160, 160)
    kept, theirs = (saved_bytes(as_call(model, images)) for model in (ours, published.twin(ours).train()))
    assert images.numel() * 4 < kept <= 0.6 * theirs, kept / theirs


def test_the_guard_sees_a_plain_block():
    """Were the fused forms never taken, the tests above would fail."""
    block, x = HorNetBlock(C, 3).train(), torch.randn(2, *GRID, C).permute(0, 3, 1, 2)
    with plain_forms():
        assert saved_bytes(as_call(block, x)) > BLOCKS['hornet 7x7'][2] * x.numel() * 4
        assert 'gelu' in operations(block.eval(), x).calls
    theirs = published.build('hornet-micro')
    assert operations(theirs.eval(), torch.randn(1, 3, 64, 64)).calls['pow'] > 0
