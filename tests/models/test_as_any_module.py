"""Operations on any `torch.nn.Module` work for every family, with and without `memory_efficient`."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize, prune

import mmfreq
from mmfreq.testing.backbone_contract import randomize_scales_and_filters

ARCHS = [arch for arch in mmfreq.list_archs() if 'micro' in arch]
every_arch = pytest.mark.parametrize('arch', ARCHS)
either_way = pytest.mark.parametrize('efficient', [False, True], ids=['plain', 'memory-efficient'])


def classifier(arch, efficient=False, **kwargs):
    """A classifier in eval mode, with layer scales and filters large enough that every part matters."""
    torch.manual_seed(0)
    return randomize_scales_and_filters(mmfreq.build_classifier(arch, num_classes=5, memory_efficient=efficient, **kwargs)).eval()


def images(batch=2, **kwargs):
    return torch.randn(batch, 3, 64, 80, generator=torch.Generator().manual_seed(1), **kwargs)


def parts(model):
    """Callable modules by name, children before their parents."""
    return {n: m for n, m in reversed(list(model.named_modules())) if n and not isinstance(m, nn.ModuleList)}


def close(a, b, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@either_way
@every_arch
def test_every_hook_is_called_once(arch, efficient):
    model, calls = classifier(arch, efficient), {}
    for name, part in parts(model).items():
        calls[name] = []
        part.register_forward_pre_hook(lambda m, args, seen=calls[name]: seen.append('before'))
        part.register_forward_hook(lambda m, args, out, seen=calls[name]: seen.append('after'))
        part.register_full_backward_hook(lambda m, given, got, seen=calls[name]: seen.append('backward'))
    model(images(requires_grad=True)).sum().backward()
    assert len(calls) > 20
    assert not {name: seen for name, seen in calls.items() if seen != ['before', 'after', 'backward']}


@pytest.mark.slow
@either_way
@every_arch
def test_hooks_can_change_outputs(arch, efficient):
    model, x = classifier(arch, efficient), images()
    before, unchanged = model(x), []
    for name, part in parts(model).items():
        hook = part.register_forward_hook(lambda m, args, out: tuple(t + 0.1 for t in out) if isinstance(out, tuple) else out + 0.1)
        if torch.equal(model(x), before):
            unchanged.append(name)
        hook.remove()
    # a constant for all channels is removed by the next norm
    assert torch.equal(model(x), before) and len(unchanged) <= 3, unchanged


class Doubled(nn.Module):
    """Doubles the output of another module, like a LoRA layer or an adapter."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.slow
@either_way
@every_arch
def test_replaced_modules_are_used_with_correct_gradients(arch, efficient):
    leaves = {name: part for name, part in parts(classifier(arch)).items() if not list(part.children())}
    assert len(leaves) > 15
    for name in leaves:
        model, reference = classifier(arch, efficient), classifier(arch)
        model.set_submodule(name, Doubled(model.get_submodule(name)))
        reference.get_submodule(name).register_forward_hook(lambda m, args, out: 2 * out)
        x, y = images(1, requires_grad=True), images(1, requires_grad=True)
        (got := model(x)).square().sum().backward()
        (want := reference(y)).square().sum().backward()
        close(got, want), close(x.grad, y.grad, 1e-3, 1e-4)


class Shifted(nn.Module):
    def forward(self, weight):
        return 0.5 * weight + 0.01


@either_way
@every_arch
def test_parametrised_and_pruned_weights_are_used(arch, efficient):
    model, reference, x = classifier(arch, efficient), classifier(arch), images()
    before = model(x)
    for name, part in parts(model).items():
        for key in [key for key, value in part._parameters.items() if value is not None]:
            parametrize.register_parametrization(part, key, Shifted())
            reference.get_submodule(name)._parameters[key].data.mul_(0.5).add_(0.01)
    close(model(x), reference(x))
    for part in parts(model).values():
        if parametrize.is_parametrized(part):
            for key in list(part.parametrizations):
                getattr(part.parametrizations, key).original.data.mul_(1.1)
                reference_part = next(m for n, m in reference.named_modules() if model.get_submodule(n) is part)
                reference_part._parameters[key].data.sub_(0.01).mul_(1.1).add_(0.01)
    close(model(x), reference(x))
    assert not torch.allclose(model(x), before)

    model, reference = classifier(arch, efficient), classifier(arch)
    for name, part in parts(model).items():
        if isinstance(part, nn.Linear | nn.Conv2d):
            prune.random_unstructured(part, 'weight', 0.5)
            reference.get_submodule(name).weight.data.mul_(part.weight_mask)
    close(model(x), reference(x))


class Quantised(torch.Tensor):
    """A weight rounded to multiples of 1/64, like int8 subclasses: every function gets the rounded values."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():

            def plain(a):
                return (a * 64).round() / 64 if isinstance(a, Quantised) else a

            if function in (torch.Tensor.detach, torch.Tensor.requires_grad_):
                return function(*args, **(kwargs or {})).as_subclass(cls)
            return function(*map(plain, args), **{key: plain(value) for key, value in (kwargs or {}).items()})


@every_arch
def test_weights_of_a_tensor_subclass_are_used(arch):
    model, reference, x = classifier(arch), classifier(arch), images()
    for name, part in parts(model).items():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(part.weight.detach().as_subclass(Quantised), requires_grad=False)
            weight = reference.get_submodule(name).weight
            weight.data = (weight.data * 64).round() / 64
    with torch.no_grad():
        close(model(x), reference(x))


@either_way
@every_arch
def test_outputs_follow_the_current_weights(arch, efficient):
    """After in-place updates (mean teacher), an assigned state dict and swapped weights (averaging)."""
    model, x = classifier(arch, efficient), images()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            before = model(x)
            for p in model.parameters():
                p.data.mul_(0.9).add_(0.01)
            after = model(x)
            assert torch.equal(after, copy.deepcopy(model)(x)) and not torch.allclose(after, before)
    other = classifier(arch, efficient)
    before = other(x)
    model.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(model(x), before)
    for a, b in zip(model.parameters(), classifier(arch).parameters()):
        a.data, b.data = b.data, a.data
    assert torch.equal(model(x), before)


@either_way
@every_arch
def test_second_derivatives_agree_with_finite_differences(arch, efficient):
    model, x = classifier(arch, efficient).double(), images(1).double().requires_grad_()
    direction = torch.randn_like(x)

    def slope(x):
        return torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0]

    (got,) = torch.autograd.grad((slope(x) * direction).sum(), x)
    step = 1e-5
    want = (slope(x + step * direction) - slope(x - step * direction)) / (2 * step)
    assert ((got - want).norm() / want.norm()).item() < 1e-4


@either_way
@every_arch
def test_per_sample_gradients_and_directional_derivatives(arch, efficient):
    model, x = classifier(arch, efficient).double(), images(3).double()
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(state, image):
        return torch.func.functional_call(model, state, image.unsqueeze(0)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    for i, image in enumerate(x):
        model.zero_grad()
        model(image.unsqueeze(0)).square().sum().backward()
        for name, p in model.named_parameters():
            close(each[name][i], p.grad, 1e-6, 1e-9)
    direction, step = torch.randn_like(x), 1e-6
    _, got = torch.func.jvp(model, (x,), (direction,))
    want = (model(x + step * direction) - model(x - step * direction)) / (2 * step)
    close(got, want, 1e-4, 1e-6)


@every_arch
def test_fake_tensors_leave_no_state(arch):
    model, x = classifier(arch), images()
    want = model(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == want.shape
    assert torch.equal(model(x), want)
    assert copy.deepcopy(model).to('meta')(x.to('meta')).shape == want.shape


@every_arch
def test_fx_traces_a_model_and_its_features(arch):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    model, x = classifier(arch), images()
    traced = torch.fx.symbolic_trace(model)
    for size in ((64, 80), (96, 64)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(traced(x), model(x))
    nodes = get_graph_node_names(model)[1]
    assert len(nodes) > 60
    seen = {}
    block = next(name for name, part in parts(model).items() if isinstance(part, nn.LayerNorm | nn.BatchNorm2d))
    model.get_submodule(block).register_forward_hook(lambda m, args, out: seen.update(out=out))
    got = create_feature_extractor(model, {block: 'out'})(x)
    model(x)
    assert torch.equal(got['out'], seen['out'])


def test_batch_norms_can_be_fused_by_mmcv():
    from mmcv.cnn import fuse_conv_bn

    model, x = classifier('affnet-micro'), images()
    fused = fuse_conv_bn(copy.deepcopy(model))
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    close(fused(x), model(x), 1e-3, 1e-4)


@either_way
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@every_arch
def test_autocast_is_close_to_float32(arch, dtype, efficient):
    model, x = classifier(arch, efficient), images()
    want = model(x)
    with torch.autocast('cpu', dtype):
        got = model(x)
    got.float().sum().backward()
    assert ((got.float() - want).norm() / want.norm()).item() < 0.06
    assert all(p.grad.isfinite().all() for p in model.parameters())


@either_way
@every_arch
def test_copies_pickles_and_shared_memory(arch, efficient):
    model, x = classifier(arch, efficient), images()
    want = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).share_memory()):
        assert torch.equal(twin(x), want)
        twin(x).sum().backward()


@pytest.mark.parametrize('name', ['hornet_micro', 'gfnet_h_micro', 'affnet_micro'])
def test_timm_device_and_dtype(name):
    import timm

    import mmfreq.integrations.timm  # noqa: F401

    model = timm.create_model(name, device='meta', dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {('meta', torch.bfloat16)}
