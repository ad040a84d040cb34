"""The table of runtimes in docs/deployment.md: each cell is tried where the runtime is installed, and agrees with the measurements.

A "yes" must work and a "no" must fail, so a test reports a runtime that learns a model. Packages: tools/requirements-runtimes.txt.
"""

import importlib
import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip('onnx', reason='extra [export] is not installed')
pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / 'docs' / 'measurements' / 'runtimes.md'
MODELS = {  # column of the table -> model that is tried, its size
    'HorNet': ('hornet-micro', (64, 96)),
    'GFNet': ('gfnet-h-micro', (64, 96)),
    'DFFormer': ('dfformer-micro', (64, 96)),
    'AFFNet': ('affnet-micro', (64, 96)),
    'UPerNet + HorNet': ('configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py', (64, 96)),
}


def table(text):
    """{row: {column: cell}} of the table of runtimes."""
    lines = [line.strip() for line in text[text.index('\n| runtime |') :].strip().split('\n\n')[0].splitlines()]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}


DOCUMENTED = table((ROOT / 'docs' / 'deployment.md').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def runtimes(benchmark_script):
    return benchmark_script('runtimes')


@pytest.fixture
def case(runtimes, made_once):
    """`case(column)`: the folder of its exported model, in which each runtime writes files of its own."""
    return lambda column: made_once(f'runtimes of {column}', partial(runtimes.export, *MODELS[column]))


def installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# the cells of a model one after another, so that few workers wait for the same file
CELLS = [(runtime, column) for column in MODELS for runtime, cells in DOCUMENTED.items() if column in cells]


@pytest.mark.slow
@pytest.mark.parametrize(('runtime', 'column'), CELLS)
def test_runtimes_work_or_fail_as_documented(runtime, column, runtimes, case):
    found = runtimes.RUNTIMES[runtime]
    missing = [module for module in found.modules if not installed(module)]
    if missing:
        pytest.skip(f'runtime: {runtime} is not installed ({", ".join(missing)}; tools/requirements-runtimes.txt)')
    documented = DOCUMENTED[runtime][column]
    assert documented in ('yes', 'no', 'varies', 'converts', 'operators')
    if documented == 'varies':
        pytest.skip(f'runtime: {runtime} gives right and wrong outputs of {column}, from process to process')
    folder = case(column)
    if documented == 'no':  # in a process of its own, for it may crash
        result = runtimes.attempt(runtime, sys.executable, folder, 1, 300)
        assert 'reason' in result or result['difference'] > found.tolerance, f'{runtime} runs {column} now: {result}'
        return
    result = runtimes.measure(runtime, folder, 1)
    assert {'yes': 'difference' in result, 'converts': 'converts' in result.get('shown', '')}.get(
        documented, 'operators supported' in result.get('shown', '')
    ), result
    if documented == 'yes':
        assert result['difference'] <= found.tolerance
    if runtime == 'onnxruntime':
        assert result['time'] > 0 and result['version']


def test_the_table_has_every_runtime_and_model(runtimes):
    assert list(DOCUMENTED) == list(runtimes.RUNTIMES)
    assert all(set(MODELS) <= set(cells) for cells in DOCUMENTED.values())


def test_the_table_agrees_with_the_measurements(runtimes):
    measured = table(MEASURED.read_text(encoding='utf-8'))
    assert list(measured) == list(DOCUMENTED)
    compared = 0
    for runtime, cells in DOCUMENTED.items():
        assert cells['version'] == measured[runtime]['version'], runtime
        for column in MODELS:
            for model in (name for name in measured[runtime] if family(name) == column):
                found = kind(measured[runtime][model], runtimes.RUNTIMES[runtime].tolerance)
                assert cells[column] in ((found, 'varies') if found in ('yes', 'no') else (found,)), (runtime, model)
                compared += 1
    assert compared >= len(DOCUMENTED) * len(MODELS)


def family(model):
    """The column of a model of the measurements."""
    prefixes = {'UPerNet': 'UPerNet + HorNet', 'hornet': 'HorNet', 'gfnet': 'GFNet', 'dfformer': 'DFFormer', 'affnet': 'AFFNet'}
    return next((column for prefix, column in prefixes.items() if model.startswith(prefix)), None)


def kind(cell, tolerance):
    """'yes', 'no', 'converts' or 'operators', from a cell of the measurements."""
    number = re.match(r'\d[\de.+-]*', cell)
    if number:
        return 'yes' if float(number.group()) <= tolerance else 'no'
    return cell.split()[0]


@pytest.fixture(scope='module')
def open_size(tmp_path_factory):
    """Path of a file for any size, and its model."""
    import mmfreq
    from mmfreq.export import export_onnx

    model = mmfreq.build_classifier('hornet-micro').eval()
    path = tmp_path_factory.mktemp('open') / 'm.onnx'
    export_onnx(model, (64, 96), path, dynamic=True, optimized=True)
    return path, model


def test_open_sizes_need_only_operators_that_tensorrt_lists(runtimes, open_size):
    import onnx

    from mmfreq.export.onnx_file import operators_of

    version, supported = importlib.import_module('runtime_list').operator_page()
    assert version == DOCUMENTED['TensorRT']['version'] and len(supported) > 100 and 'DFT' not in supported
    assert set(operators_of(onnx.load(open_size[0]))) <= supported


@pytest.mark.parametrize('size', [(64, 96), (80, 48), (33, 130)])
def test_open_sizes_in_openvino(size, open_size, runtimes):
    openvino = pytest.importorskip('openvino', reason='runtime: OpenVINO is not installed (tools/requirements-runtimes.txt)')
    import torch

    path, model = open_size
    images = torch.randn(2, 3, *size)
    compiled = openvino.Core().compile_model(str(path), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    with torch.no_grad():
        assert runtimes.difference(compiled([images.numpy()])[0], model(images).numpy()) < 1e-4
