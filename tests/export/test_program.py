"""Programs for mobile runtimes: equal to the model, without the computation of anything that is constant."""

import pytest
import torch

import mmfreq
from mmfreq.export import at_fixed_size
from mmfreq.export.program import folded_program

FOLDED = ('arange', 'cos', 'sin', 'remainder', 'outer', 'bitwise_or', 'addcmul')


def operators(program):
    """Names of the operators, including those in parts that torch.export keeps as modules, such as regions without autocast."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes if node.op == 'call_function']
    return {str(node.target).removeprefix('aten.').split('.')[0] for node in nodes}


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro'])
def test_equal_to_the_model_and_no_basis_is_computed(arch):
    images = torch.randn(1, 3, 32, 48)
    model = at_fixed_size(mmfreq.build_backbone(arch).eval(), images)
    program = folded_program(model, images)
    other = torch.randn_like(images)
    with torch.no_grad():
        for a, b in zip(program.module()(other), model(other), strict=True):
            assert (a - b).abs().max() <= 1e-6 * b.abs().max()
        assert operators(torch.export.export(model, (images,))) & set(FOLDED)  # the program of torch.export has them
    assert not operators(program) & set(FOLDED)
    assert all(stored.is_contiguous() for name, stored in program.state_dict.items() if 'FX_CONST_FOLDED' in name)


def test_the_model_is_unchanged_and_a_tensor_stays_a_tensor():
    images = torch.randn(1, 3, 32, 32)
    model = at_fixed_size(mmfreq.build_backbone('gfnet-h-micro').eval(), images)
    before = {name: (value.clone(), value.stride()) for name, value in model.state_dict().items()}

    class First(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images)[0]

    output = folded_program(First(), images).module()(images)
    assert isinstance(output, torch.Tensor)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].stride() == stride for name, (value, stride) in before.items())
