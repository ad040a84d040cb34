"""The contract of every backbone, as checks that the tests of a family run over its archs."""

import copy
import pickle
from collections.abc import Callable, Hashable, Iterable

import torch
from torch import nn

from mmfreq.models._base import Stage

SIZES = ((203, 331), (96, 160), (33, 57))  # odd, non-square, and little above the smallest size


def image(*shape: int) -> torch.Tensor:
    """A seeded standard normal image batch."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def randomize_scales_and_filters(model: nn.Module) -> nn.Module:
    """Set layer scales and filters to values as large as the published ones, so that every parameter affects the output."""
    with torch.no_grad():
        for name, param in model.named_parameters():
            if 'gamma' in name:
                param.fill_(0.3)
            elif 'complex_weight' in name:
                param.normal_(std=0.5)
    return model


def failures(check: Callable, cases: Iterable[Hashable]) -> dict:
    """`{case: error}` of the cases for which `check` fails: a loop over many cases that reports all failures at once.

    Raises:
        ValueError: there are no cases, so nothing was checked.
    """
    cases, found = list(cases), {}
    if not cases:
        raise ValueError('no cases to check')
    for case in cases:
        try:
            check(case)
        except Exception as error:
            found[case] = f'{type(error).__name__}: {error}'
    return found


def check_declared_shapes(model: nn.Module, batch: int = 2) -> None:
    """Channels and strides are as declared, at odd and non-square sizes, and every value is finite."""
    for height, width in SIZES:
        with torch.no_grad():
            outs = model(image(batch, model.in_channels, height, width))
        assert isinstance(outs, tuple) and len(outs) == len(model.out_indices)
        sides = list(zip(model.stage_sides(height), model.stage_sides(width)))
        want = [(batch, model.channels[i], *sides[i]) for i in model.out_indices]
        assert [tuple(o.shape) for o in outs] == want
        assert all(o.isfinite().all() for o in outs)


def check_declared_strides(model: nn.Module) -> None:
    """At a multiple of all strides, the side of a map is the side of the image divided by the stride."""
    side = 2 * max(model.strides)
    assert model.stage_sides(side) == tuple(side // stride for stride in model.strides)
    assert model.out_strides == tuple(model.strides[i] for i in model.out_indices)


def check_gradient_for_every_parameter(model: nn.Module) -> None:
    """No parameter is unused, as DistributedDataParallel requires."""
    model.zero_grad()
    sum((o * image(*o.shape)).sum() for o in model(image(2, model.in_channels, 64, 96))).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without, without


def check_frozen(model: nn.Module, frozen: tuple[str, ...]) -> None:
    """Exactly the parameters whose names start with one of `frozen` are frozen, in eval mode, before and after `.train()`."""
    for _ in range(2):
        for name, param in model.named_parameters():
            assert param.requires_grad != name.startswith(frozen), name
        for name, module in model.named_modules():
            if name and name.startswith(frozen):
                assert not module.training, name
        model.train()


def check_frozen_stages(model: nn.Module) -> None:
    """`frozen_stages=k` freezes the stem, stages 0..k and their norms; `block_position` gives the stage of a parameter."""

    def frozen(name: str) -> bool:
        position = model.block_position(name)
        if position is None:
            return name.startswith(tuple(f'norm{i}.' for i in range(model.frozen_stages + 1)))
        return position[0] <= model.frozen_stages and model.frozen_stages >= 0

    for _ in range(2):  # as built, and again after .train()
        wrong = [name for name, param in model.named_parameters() if param.requires_grad == frozen(name)]
        assert not wrong, wrong
        owners = {name.rpartition('.')[0] for name, _ in model.named_parameters() if frozen(name)} - {''}
        assert not [name for name in owners if model.get_submodule(name).training]
        model.train()


def check_checkpointing(model: nn.Module) -> None:
    """With `with_cp` blocks are recomputed in the backward pass, and no gradient changes."""
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    blocks = [block for stage in stages for block in stage]
    grads, calls = [], []
    for with_cp in (False, True):
        for stage in stages:
            stage.with_cp = with_cp
        model.zero_grad()
        outs = model(image(1, model.in_channels, 64, 64).requires_grad_())
        calls.append(0)
        hooks = [m.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1)) for m in blocks]
        sum((o * image(*o.shape)).sum() for o in outs).backward()
        for hook in hooks:
            hook.remove()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert calls == [0, len(blocks)] and len(blocks) >= model.built_stages, calls
    for stage in stages:
        stage.with_cp = False
    model.zero_grad()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=0, atol=0, msg=name)


def check_out_indices(model: nn.Module, some: nn.Module) -> None:
    """A model of the same arch with fewer `out_indices` returns these maps of `model` and has no unused parameter."""
    some.load_state_dict(model.state_dict())
    x = image(1, model.in_channels, 64, 64)
    with torch.no_grad():
        every, got = model(x), some(x)
    for index, out in zip(some.out_indices, got, strict=True):
        torch.testing.assert_close(out, every[index], rtol=0, atol=0)
    check_gradient_for_every_parameter(some)


def check_copies(model: nn.Module) -> None:
    """Deep copies and pickled models compute the same outputs."""
    x = image(1, model.in_channels, 64, 64)
    with torch.no_grad():
        want = model(x)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            for a, b in zip(twin(x), want):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def check_batch_and_memory_format(model: nn.Module) -> None:
    """A batch of two equals two batches of one, and channels-last memory equals contiguous memory."""
    x = image(2, model.in_channels, 64, 96)
    with torch.no_grad():
        both = model(x)
        each = [torch.cat(pair) for pair in zip(model(x[:1]), model(x[1:]))]
        other = model(x.contiguous(memory_format=torch.channels_last))
    for a, b, c in zip(both, each, other):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)


def check_bfloat16_autocast(model: nn.Module, tolerance: float = 0.05) -> None:
    """Under bfloat16 autocast the outputs are within the relative `tolerance` of the float32 ones."""
    x = image(1, model.in_channels, 64, 96)
    with torch.no_grad():
        want = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            got = model(x)
    for a, b in zip(got, want):
        assert (a.float() - b).norm() / b.norm() < tolerance
