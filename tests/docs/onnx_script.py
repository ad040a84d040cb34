"""docs/onnx_inference.py as a module and as a command, and small ONNX files for it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCRIPT = Path(__file__).resolve().parents[2] / 'docs' / 'onnx_inference.py'
ALONE = """
import runpy, sys
allowed = {'numpy', 'onnxruntime', 'PIL', *sys.stdlib_module_names}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] not in allowed:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
METADATA = {
    'task': 'features',
    'output': 'features',
    'channels': 'RGB',
    'pixels': '0..255',
    'mean': [0.0] * 3,
    'std': [1.0] * 3,
    'classes': [],
    'palette': [],
    'preprocessing': {'resize': [], 'crop': None, 'pad': None, 'undescribed': []},
    'thresholds': {},
}


def script():
    """The names that docs/onnx_inference.py defines."""
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def run(*args):
    """The finished process of the script, in which only numpy, onnxruntime and Pillow can be imported."""
    command = [sys.executable, '-c', ALONE, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write_onnx(path, constants=None, image_size=False, shape=(1, None, None, None), **metadata):
    """Write a file that returns the constants by name, or without them its input as `output`.

    Args:
        image_size: have the second input of detectors.
        shape: of the first input; None for an open side.
        metadata: entries in place of those in METADATA; None removes one.
    """
    sides = [f'side_{k}' if side is None else side for k, side in enumerate(shape)]
    inputs = [helper.make_tensor_value_info('images', TensorProto.FLOAT, sides)]
    inputs += [helper.make_tensor_value_info('image_size', TensorProto.INT64, [2])] if image_size else []
    if constants is None:
        nodes = [helper.make_node('Identity', ['images'], ['output'])]
        outputs = [helper.make_tensor_value_info('output', TensorProto.FLOAT, sides)]
    else:
        tensors = {name: numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()}
        nodes = [helper.make_node('Constant', [], [name], value=tensor) for name, tensor in tensors.items()]
        outputs = [helper.make_tensor_value_info(name, tensor.data_type, tensor.dims) for name, tensor in tensors.items()]
    graph = helper.make_graph(nodes, 'test', inputs, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    entries = {key: value for key, value in (METADATA | metadata).items() if value is not None}
    helper.set_model_props(proto, {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()})
    onnx.save(proto, path)
    return path
