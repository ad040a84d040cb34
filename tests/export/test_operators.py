"""Exported graphs have no operators that a converter can avoid, and those of optimized models at most as many as plain ones."""

import pytest
import torch

import mmfreq
from mmfreq.export import export_onnx
from mmfreq.layers import GlobalFilter
from mmfreq.ops import soft_shrink

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')

ARCHS = ('gfnet-h-micro', *(pytest.param(f'{family}-micro', marks=pytest.mark.slow) for family in ('hornet', 'dfformer', 'affnet')))


@pytest.mark.parametrize('arch', ARCHS)
def test_graphs_have_no_avoidable_operators(arch, tmp_path):
    model = mmfreq.build_backbone(arch).eval()
    plain, optimized = (export_onnx(model, (64, 96), tmp_path / f'{choice}.onnx', optimized=choice) for choice in (False, True))
    assert 0 < optimized.operators.total() <= plain.operators.total()
    assert not reverted_transposes(onnx.load(optimized.path).graph)  # plain graphs have some: a residual in another layout
    for file in (plain, optimized):
        assert not computed_from_weights(onnx.load(file.path).graph)
        assert not {'Sign', 'Where', 'Abs'} & set(file.operators)  # soft shrink is two operators


def reverted_transposes(graph):
    """Names of pairs of transposes of which the second reverts the first."""
    transposes = {node.output[0]: node for node in graph.node if node.op_type == 'Transpose'}
    pairs = [(transposes[node.input[0]], node) for node in transposes.values() if node.input[0] in transposes]
    return [(first.name, second.name) for first, second in pairs if [perm_of(first)[k] for k in perm_of(second)] == [0, 1, 2, 3]]


def perm_of(node):
    return list(node.attribute[0].ints)


def computed_from_weights(graph):
    """Names of the nodes whose inputs are all stored in the file."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.input and set(node.input) <= weights | {''}]


def test_a_channels_last_filter_transposes_its_map_alone(tmp_path):
    """Not the spectrum: to the layout of the products and back, for any number of parts of the spectrum."""
    filter = GlobalFilter(8, (4, 6), channels_last=True).eval()
    operators = export_onnx(filter, (6, 8), tmp_path / 'm.onnx', channels=4).operators
    assert operators == {'Transpose': 2, 'MatMul': 12, 'Mul': 4, 'Add': 3, 'Sub': 4}


@pytest.mark.parametrize('size', [(1, 4), (2, 3, 5)])
def test_soft_shrink_of_a_graph_is_that_of_torch(size, monkeypatch):
    x = torch.cat((torch.randn(size).flatten(), torch.tensor([0.0, 0.5, -0.5, 1e30, -1e30])))
    expected = soft_shrink(x, 0.5)
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    assert torch.equal(soft_shrink(x, 0.5), expected)
