"""`memory_efficient=True`: bitwise equal numbers with less memory saved for backward."""

import gc

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mmfreq
from benchmarks import reference
from mmfreq.layers import DynamicFilter
from mmfreq.models._base import Stage
from mmfreq.models.affnet import AFFBlock, InvertedResidual
from mmfreq.models.dfformer import MetaFormerBlock, SepConv
from mmfreq.models.gfnet import GFNetBlock, GFNetCNNBlock
from mmfreq.models.hornet import HorNetBlock
from mmfreq.speed.memory_efficient import recompute_cheap_functions
from mmfreq.testing.backbone_contract import randomize_scales_and_filters

ARCHS = [arch for arch in mmfreq.list_archs() if 'micro' in arch]
C, GRID = 64, (16, 32)
# block -> (constructor, maps of C channels that it may save in addition to its input)
BLOCKS = {
    'hornet 7x7': (lambda: HorNetBlock(C, 3), 12.5),
    'hornet gf': (lambda: HorNetBlock(C, 3, grid=GRID), 13.5),
    'gfnet-h': (lambda: GFNetBlock(C, GRID, layer_scale=1e-3), 7.5),
    'gfnet-cnn': (lambda: GFNetCNNBlock(C, GRID), 7.0),
    'dfformer': (lambda: MetaFormerBlock(C, DynamicFilter(C, GRID, channels_last=True)), 11.5),
    'cdfformer': (lambda: MetaFormerBlock(C, SepConv(C)), 9.5),
    'inverted residual': (lambda: InvertedResidual(C, C, 2), 5.5),
    'affnet': (lambda: AFFBlock(C), 11.5),
}


class Allocated(TorchDispatchMode):
    """Bytes allocated by operators and not yet released."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes():
                storage = t.untyped_storage()
                self.known[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def bytes_except(self, *tensors):
        gc.collect()
        others = {t.untyped_storage().data_ptr() for t in tensors}
        return sum(n for at, (storage, n) in self.known.items() if not storage.expired() and at not in others)


def saved_bytes(model, x):
    """Bytes saved for backward by a forward pass, without parameters, input and outputs."""
    x = x.detach().requires_grad_()
    with Allocated() as allocated:
        out = model(x)
    return allocated.bytes_except(x, *tree_leaves(out), *model.parameters())


def outcome(model, x, autocast=False):
    """Outputs, gradients and buffers of one step."""
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        outs = model(x)
    sum((out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    found = {str(i): out for i, out in enumerate(outs)} | {'x': x.grad}
    return found | {n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers())


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('arch', ARCHS)
def test_training_step_is_bitwise_equal(arch, train, autocast):
    found = []
    for efficient in (False, True):
        torch.manual_seed(0)
        model = randomize_scales_and_filters(mmfreq.build_backbone(arch, memory_efficient=efficient, drop_path_rate=0.2)).train(
            train
        )
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.weight, 1, 0.2), nn.init.normal_(norm.bias)
        torch.manual_seed(1)
        found.append(outcome(model, torch.randn(2, 3, 64, 80), autocast))
    plain, efficient = found
    assert set(plain) == set(efficient) and len(plain) > 20
    if train and 'affnet' in arch:  # recomputed batch norms differ by rounding
        one, other = (torch.cat([value.float().flatten() for value in each.values()]) for each in (plain, efficient))
        assert (one - other).norm() < (0.02 if autocast else 1e-5) * one.norm()
    else:
        assert not [name for name in plain if not torch.equal(plain[name], efficient[name])]


@pytest.mark.parametrize('name', BLOCKS)
def test_memory_saved_for_backward_per_block(name):
    make, bound = BLOCKS[name]
    x = torch.randn(2, *GRID, C).permute(0, 3, 1, 2)
    block = make().train()
    plain, saved = (
        saved_bytes(Stage(block, memory_efficient=efficient), x) / (x.numel() * x.element_size()) for efficient in (False, True)
    )
    assert 0.8 * bound < saved <= bound, (
        f'{name} saves {saved:.2f} maps, {plain:.2f} without memory_efficient; the bound is {bound}'
    )
    assert saved < 0.75 * plain


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet', 'gfnet-h-ti'])
def test_backbone_saves_at_most_62_percent_of_the_reference(arch):
    model = mmfreq.build_backbone(arch, memory_efficient=True).train()
    images = torch.randn(1, 3, 160, 160)
    saved, limit = saved_bytes(model, images), saved_bytes(reference.twin(model).train(), images)
    assert images.numel() * 4 < saved <= 0.62 * limit, saved / limit


def test_memory_is_released_after_backward():
    model, x = mmfreq.build_backbone('hornet-micro', memory_efficient=True).train(), torch.randn(1, 3, 64, 64)
    with Allocated() as allocated:
        sum(out.sum() for out in model(x)).backward()
        model.zero_grad()
    assert allocated.bytes_except(x, *model.parameters()) == 0


@pytest.mark.parametrize('arch', ARCHS)
def test_memory_is_released_without_backward(arch):
    model, x = mmfreq.build_backbone(arch, memory_efficient=True).train(), torch.randn(1, 3, 64, 64)
    with Allocated() as allocated:
        model(x)
    assert allocated.bytes_except(x, *model.parameters(), *model.buffers()) < 10_000


def test_other_saved_tensor_hooks_get_all_saved_tensors():
    counts = []
    for efficient in (False, True):
        model, seen = mmfreq.build_backbone('hornet-micro', memory_efficient=efficient), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, seen=seen: seen.append(t.shape) or t.detach(), lambda t: t):
            model(torch.randn(1, 3, 64, 64))
        counts.append(len(seen))
    assert counts[0] == counts[1] > 50


def chain(x, weight):
    """Cheap functions of a result, of a view of it, and of the result of another cheap function."""
    y = nn.functional.layer_norm(x, x.shape[-1:])
    z = nn.functional.gelu(y[..., 1:].transpose(0, 1) * weight)
    return (z * z * y[..., :-1].transpose(0, 1)) @ torch.ones(z.shape[-1], 2, dtype=x.dtype)


def test_first_and_second_derivatives_of_views_and_chains():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4, 6), (5,)))

    def efficient(x, weight):
        with recompute_cheap_functions():
            return chain(x, weight)

    assert torch.autograd.gradcheck(efficient, (x, weight)) and torch.autograd.gradgradcheck(efficient, (x, weight))
    y = efficient(x, weight).sum()
    first = torch.autograd.grad(y, (x, weight), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, (x, weight))))


@pytest.mark.parametrize('changed', ['result', 'argument', 'other'])
def test_in_place_writes_to_saved_tensors_raise(changed):
    x = torch.randn(3, 4, requires_grad=True)
    a = x + 1
    with recompute_cheap_functions():
        y = nn.functional.silu(a)
        z = y.exp()
        loss = (y * z).sum()
    with torch.no_grad():
        {'result': y, 'argument': a, 'other': z}[changed].mul_(2)
    if changed == 'result':  # it is recomputed from unmodified arguments
        loss.backward()
        b = x.detach() + 1
        (want,) = torch.autograd.grad((nn.functional.silu(c := b.requires_grad_()) * nn.functional.silu(c).exp()).sum(), c)
        torch.testing.assert_close(x.grad, want)
    else:
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            loss.backward()


def test_in_place_writes_before_saving_are_respected():
    found = []
    for context in (recompute_cheap_functions, torch.enable_grad):
        x = torch.linspace(-1, 1, 6, requires_grad=True)
        with context():
            y = nn.functional.gelu(x)
            y.mul_(3)
            (y * y).sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_with_cp_and_memory_efficient_raise():
    with pytest.raises(ValueError, match=r'with_cp.*memory_efficient'):
        mmfreq.build_backbone('hornet-micro', with_cp=True, memory_efficient=True)
    assert 'memory_efficient=True' in repr(mmfreq.build_backbone('hornet-micro', memory_efficient=True))
    assert 'memory_efficient' not in repr(mmfreq.build_backbone('hornet-micro'))


@pytest.mark.parametrize('affine', [False, True])
@pytest.mark.parametrize('shape', [(6, 4), (3, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)])
def test_batch_norm_is_recomputed_with_the_statistics_of_its_batch(shape, affine):
    norm, found = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](4, affine=affine), []
    for context in (recompute_cheap_functions, torch.enable_grad):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with context():
            y = norm(x)
            (y * y * y).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found)
    assert norm.num_batches_tracked == 2  # not updated again in backward
