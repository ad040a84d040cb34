"""Every entry, yes or no, of the table in docs/deployment.md of what can be done with a model."""

import copy
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import mmfreq
from mmfreq.testing.backbone_contract import randomize_scales_and_filters

PAGE = (Path(mmfreq.__file__).resolve().parents[1] / 'docs' / 'deployment.md').read_text(encoding='utf-8')
ARCHS = ('hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro')
HEADER = '| what can be done |'
FORMS = ('as built', '`memory_efficient=True`', '`mmfreq.optimize`')


def plain(arch):
    torch.manual_seed(0)
    return randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()


def build(arch, form):
    """A model in one of the forms, with the same weights, in eval mode."""
    model = plain(arch)
    if form == FORMS[1]:
        efficient = mmfreq.build_backbone(arch, memory_efficient=True).eval()
        efficient.load_state_dict(model.state_dict())
        return efficient
    return mmfreq.optimize(model) if form == FORMS[2] else model


def images(**kwargs):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1), **kwargs)


def total(outs):
    return sum(out.square().sum() for out in outs)


def same(got, want, limit=1e-4):
    assert len(got) == len(want) > 0
    assert all((a - b).abs().max() <= limit * b.abs().max() for a, b in zip(got, want))


def train(model, arch):
    total(model.train()(images())).backward()
    assert all(p.grad is not None for p in model.parameters())


def load(model, arch):
    model.load_state_dict(plain(arch).state_dict())


def write(model, arch):
    changed = plain(arch)
    for module in (model, changed):
        for p in module.parameters():
            p.data.mul_(0.9).add_(0.01)
    same(model(images()), changed(images()))


def hook(model, arch):
    calls = {}
    for name, part in model.named_modules():
        if name and not isinstance(part, nn.ModuleList):
            calls[name] = 0
            part.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model(images())
    assert set(calls.values()) == {1}


def differentiate_twice(model, arch):
    found = []
    for each in (model.double(), plain(arch).double()):
        x = images(dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(total(each(x)), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x))
    same(*found)


def each_sample(model, arch):
    model, x = model.double(), images(dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(lambda image: total(model(image.unsqueeze(0)))))(x)
    y = x.clone().requires_grad_()
    same([got], torch.autograd.grad(total(plain(arch).double()(y)), y))


def directional(model, arch):
    model, x = model.double(), images(dtype=torch.float64)
    _, got = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    reference, step = plain(arch).double(), 1e-6
    same(got, [(a - b) / (2 * step) for a, b in zip(reference(x + step), reference(x - step))])


def fx(model, arch):
    same(torch.fx.symbolic_trace(model)(images()), plain(arch)(images()))


def without_values(model, arch):
    shapes = [out.shape for out in model(images())]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert [out.shape for out in model(mode.from_tensor(images()))] == shapes
    same(model(images()), plain(arch)(images()))
    assert [out.shape for out in model.to('meta')(images().to('meta'))] == shapes


def compiled(model, arch):
    torch._dynamo.reset()
    with torch.no_grad():
        same(torch.compile(model, fullgraph=True, backend='eager')(images()), plain(arch)(images()))


def exported(model, arch):
    with torch.no_grad():
        same(torch.export.export(model, (images(),)).module()(images()), plain(arch)(images()))


def traced(model, arch):
    with torch.no_grad():
        same(torch.jit.trace(model, images(), check_trace=False, strict=False)(images()), plain(arch)(images()))


def scripted(model, arch):
    torch.jit.script(model)


def copied(model, arch):
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).share_memory()):
        same(twin(images()), plain(arch)(images()))


def autocast(model, arch):
    with torch.autocast('cpu', torch.bfloat16):
        got = model(images())
    same(got, plain(arch)(images()), 0.1)


def optimize(model, arch):
    same(mmfreq.optimize(model)(images()), plain(arch)(images()), 1e-5)


ROWS = {
    '`.train()`': train,
    '`load_state_dict`': load,
    'weights written in place (EMA, mean teachers)': write,
    'hooks on every module, called once a forward': hook,
    'gradients of second order': differentiate_twice,
    '`torch.func.vmap(grad)`': each_sample,
    '`torch.func.jvp`': directional,
    '`torch.fx.symbolic_trace`': fx,
    'the meta device, `FakeTensorMode`': without_values,
    '`torch.compile(fullgraph=True)`': compiled,
    '`torch.export.export`': exported,
    '`torch.jit.trace`': traced,
    '`torch.jit.script`': scripted,
    '`copy.deepcopy`, `pickle`, `share_memory`': copied,
    'autocast': autocast,
    '`mmfreq.optimize`': optimize,
}


def documented():
    """{what: {form: 'yes' or 'no'}} from the page."""
    header, _, *lines = PAGE[PAGE.index(HEADER) :].split('\n\n')[0].splitlines()
    forms = [cell.strip() for cell in header.strip('|').split('|')][1:]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {what: dict(zip(forms, found, strict=True)) for what, *found in cells}


def test_table_lists_the_tested_capabilities():
    table = documented()
    assert list(table) == list(ROWS)
    assert all(tuple(row) == FORMS and set(row.values()) <= {'yes', 'no'} for row in table.values())


# test_as_any_module.py tests unoptimized models of every family; here each entry is tested with one or two families
CASES = [
    (what, form, arch)
    for i, what in enumerate(ROWS)
    for j, form in enumerate(FORMS)
    for arch in {ARCHS[(i + j) % 4], ARCHS[(i + j + 2 * (j == 2)) % 4]}
]


@pytest.mark.slow
@pytest.mark.parametrize(('what', 'form', 'arch'), sorted(CASES))
def test_capability_is_as_the_table_says(what, form, arch):
    if documented()[what][form] == 'yes':
        ROWS[what](build(arch, form), arch)
    else:
        works = []
        for each in ARCHS:
            with suppress(Exception):
                ROWS[what](build(each, form), each)
                works.append(each)
        assert len(works) < len(ARCHS), 'works with every family'
