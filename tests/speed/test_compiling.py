"""`mmfreq.compile_blocks`: outputs and gradients stay the same, equal blocks are compiled once."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torchvision.ops import StochasticDepth

import mmfreq
from mmfreq.models.dfformer import DFFormer
from mmfreq.models.hornet import HorNet
from mmfreq.speed.compiling import SharedStochasticDepth
from mmfreq.testing.backbone_contract import randomize_scales_and_filters


@pytest.fixture(autouse=True)
def no_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arch', 'train'),
    [('hornet-micro', False), ('gfnet-cnn-micro', True), ('gfnet-h-micro', True), ('dfformer-micro', True), ('affnet-micro', True)],
)
def test_outputs_and_gradients_are_unchanged(arch, train):
    model = randomize_scales_and_filters(mmfreq.build_backbone(arch)).train(train)
    compiled = mmfreq.compile_blocks(copy.deepcopy(model), backend='aot_eager', fullgraph=True)
    x, found = torch.randn(2, 3, 64, 96), []
    for each in (model, compiled):
        outs = each(x)
        sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
        found.append([*outs, *(p.grad for p in each.parameters())])
    assert list(compiled.state_dict()) == list(model.state_dict())
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * max(want.abs().max().item(), 1))  # some are almost 0


@pytest.mark.slow
def test_inductor_trains():
    """Two stages of different sizes, for which inductor fails with dynamic shapes (torch 2.14)."""
    model = randomize_scales_and_filters(mmfreq.build_backbone('hornet-micro', out_indices=(1,))).train()
    compiled, x, found = mmfreq.compile_blocks(copy.deepcopy(model)), torch.randn(2, 3, 64, 64), []
    for each in (model, compiled):
        (out,) = each(x)
        out.square().mean().backward()
        found.append([out, *(p.grad for p in each.parameters())])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * max(want.abs().max().item(), 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('make', 'compilations'),
    [
        (lambda: HorNet(dict(base_dim=16, depths=(2, 3, 6, 2))), 4),
        (lambda: DFFormer(dict(depths=(3, 3, 4, 2), dims=(16, 32, 48, 64))), 4),
    ],
)
def test_equal_blocks_are_compiled_once(make, compilations):
    model, counter = make().eval(), CompileCounter()
    mmfreq.compile_blocks(model, backend=counter, fullgraph=True, dynamic=False)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96))
    assert counter.frame_count == compilations


@pytest.mark.slow
def test_stochastic_depth_rates_do_not_cause_recompilation():
    """More equal blocks than the recompilation limit; the first block is never dropped and is compiled separately."""
    model, counter = HorNet(dict(base_dim=16, depths=(2, 1, 10, 1)), drop_path_rate=0.4).train(), CompileCounter()
    names = list(model.state_dict())
    mmfreq.compile_blocks(model, backend=counter, fullgraph=True, dynamic=False)
    sum(out.sum() for out in model(torch.randn(2, 3, 64, 96))).backward()
    assert counter.frame_count == 5
    assert all(p.grad is not None for p in model.parameters()) and list(model.state_dict()) == names


def test_shared_stochastic_depth_is_stochastic_depth():
    torch.manual_seed(0)
    part, x = SharedStochasticDepth(0.25), torch.ones(20000, 2, 3)
    for rate in (0.25, 0.5):
        part.p = rate
        y = part(x)
        assert torch.equal(y, y[:, :1, :1].expand_as(y)) and y.unique().tolist() == [0, pytest.approx(1 / (1 - rate))]
        assert abs(y.mean() - 1) < 0.03 and f'p={rate}' in repr(part)
    assert part.eval()(x) is x and part(x.bfloat16()).dtype == torch.bfloat16
    always = SharedStochasticDepth(1.0)
    assert always(x).abs().max() == 0 and not list(always.buffers())
    assert copy.deepcopy(part).to(torch.bfloat16).p == pickle.loads(pickle.dumps(part)).to_empty(device='meta').p == 0.5


def test_replaced_or_hooked_stochastic_depth_stays():
    model = mmfreq.build_backbone('hornet-micro', drop_path_rate=0.3)
    replaced, hooked = StochasticDepth(0.5, 'batch'), model.stages[2][1].drop_path1
    model.stages[2][0].drop_path1 = replaced
    hooked.register_forward_hook(lambda *_: None)
    mmfreq.compile_blocks(model, backend='eager')
    assert model.stages[2][0].drop_path1 is replaced and model.stages[2][1].drop_path1 is hooked
    assert type(model.stages[2][1].drop_path2) is SharedStochasticDepth
    assert (
        repr(mmfreq.optimize(mmfreq.compile_blocks(mmfreq.build_backbone('hornet-micro', drop_path_rate=0.3)))).count(
            'FoldedHorNetBlock'
        )
        == 5
    )


def test_compiled_model_can_be_copied_and_pickled():
    model = mmfreq.compile_blocks(mmfreq.build_backbone('hornet-micro'), backend='eager')
    assert model is mmfreq.compile_blocks(model, backend='eager')
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(twin.state_dict()) == list(model.state_dict())


def test_model_without_mmfreq_raises():
    with pytest.raises(ValueError, match=r'expected a model with blocks of mmfreq.*got Linear.*torch.compile'):
        mmfreq.compile_blocks(nn.Linear(2, 2))
