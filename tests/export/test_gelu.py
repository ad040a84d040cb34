"""GELUs of exported graphs have the form that onnxruntime fuses and that OpenCV 5.0 reads without a crash."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

from mmfreq.export.gelu import reorder_gelus  # noqa: E402

READ = 'import cv2, sys; cv2.dnn.readNetFromONNX(sys.argv[1])'


def gelu_of_five_nodes(path, swapped=False, reorder=False):
    """A file of one GELU in the form of PyTorch's exporter; `swapped` exchanges the operands of the commutative nodes."""
    order = (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    node = onnx.helper.make_node
    nodes = [
        node('Div', ['x', 'root'], ['scaled']),
        node('Erf', ['scaled'], ['erf']),
        node('Add', order('erf', 'one'), ['added']),
        node('Mul', order('added', 'half'), ['halved']),
        node('Mul', order('x', 'halved'), ['y']),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ('x', 'y')]
    constants = {'root': 2**0.5, 'one': 1.0, 'half': 0.5}
    constants = [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value]) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, 'gelu', values[:1], values[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=8)
    if reorder:
        assert reorder_gelus(model.graph) == 1 and reorder_gelus(model.graph) == 0
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def fused(path, tmp_path):
    """Operators after onnxruntime's optimization."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / 'optimized.onnx'), 3
    onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return Counter(node.op_type for node in onnx.load(tmp_path / 'optimized.onnx').graph.node)


def unoptimized(path, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider']).run(None, {'x': x})[0]


@pytest.mark.parametrize('swapped', [False, True])
def test_same_values_to_the_last_bit_and_one_operator(swapped, tmp_path):
    before = gelu_of_five_nodes(tmp_path / 'before.onnx', swapped)
    after = gelu_of_five_nodes(tmp_path / 'after.onnx', swapped, reorder=True)
    x = np.linspace(-6, 6, 64, dtype=np.float32)[None]
    assert (unoptimized(before, x) == unoptimized(after, x)).all()
    assert fused(after, tmp_path) == {'Gelu': 1}
    assert 'Gelu' not in fused(before, tmp_path)  # as soon as this fails, onnxruntime needs no other form


def test_a_gelu_whose_parts_are_used_elsewhere_is_unchanged(tmp_path):
    model = onnx.load(gelu_of_five_nodes(tmp_path / 'm.onnx'))
    model.graph.output.append(onnx.helper.make_tensor_value_info('halved', onnx.TensorProto.FLOAT, [1, 64]))
    unchanged = model.SerializeToString()
    assert reorder_gelus(model.graph) == 0 and model.SerializeToString() == unchanged


def test_opencv_crashes_on_a_gelu_of_five_nodes_and_not_on_the_other_form(tmp_path):
    cv2 = pytest.importorskip('cv2', reason='runtime: OpenCV is not installed')
    if int(cv2.__version__.split('.')[0]) < 5:
        pytest.skip('runtime: OpenCV 4 has another importer, only OpenCV 5.0 crashes')
    run = [sys.executable, '-c', READ]
    before = subprocess.run([*run, str(gelu_of_five_nodes(tmp_path / 'before.onnx'))], capture_output=True)
    after = subprocess.run([*run, str(gelu_of_five_nodes(tmp_path / 'after.onnx', reorder=True))], capture_output=True)
    assert before.returncode < 0, 'OpenCV reads this GELU now: shorten the docstring of mmfreq/export/gelu.py'
    assert after.returncode == 0, after.stderr


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-h-micro'])
def test_exported_models_have_no_other_gelu(arch, tmp_path):
    import mmfreq
    from mmfreq.export import export_onnx

    operators = export_onnx(mmfreq.build_backbone(arch).eval(), (32, 32), tmp_path / 'm.onnx').operators
    assert 0 < operators['Erf'] == fused(tmp_path / 'm.onnx', tmp_path)['Gelu']
