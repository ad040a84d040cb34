"""tools/export_onnx.py from the command line, and docs/onnx_inference.py, which runs its files without PyTorch."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.apis.loading import load_model

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        if top.startswith('mm') or top in ('torch', 'torchvision', 'timm', 'cv2'):
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture
def export_onnx(call_tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, 'export_onnx')


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / 'image.png'
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((80, 50)).save(path)
    return path


def infer(*args):
    command = [sys.executable, '-c', WITHOUT_TORCH, str(ROOT / 'docs' / 'onnx_inference.py'), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_trained_segmentor_is_exported_and_run_without_pytorch(export_onnx, toy_config, image_file, tmp_path):
    torch.manual_seed(1)
    model = load_model(str(toy_config)).model
    with torch.no_grad():  # otherwise random weights predict one class everywhere
        model.decode_head.conv_seg.weight.mul_(100)
    meta = {'dataset_meta': {'classes': tuple('abcdef'), 'palette': [(k, k, k) for k in range(6)]}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'weights.pth')
    out = export_onnx(toy_config, 'weights.pth', '--shape', 64, 96, '--out', 'toy.onnx', '--picture', image_file)
    assert (
        'toy.onnx' in out and 'image.png, output: max' in out and 'random input 2' in out and 'MatMul' in out and 'DFT' not in out
    )
    assert 'weights are random' not in out
    metadata = {item.key: item.value for item in onnx.load('toy.onnx').metadata_props}
    assert metadata['task'] == 'segmentation' and metadata['output'] == 'logits' and metadata['arch'] == 'hornet-micro'
    assert json.loads(metadata['classes']) == list('abcdef') and metadata['channels'] == 'RGB'
    assert json.loads(metadata['mean']) == [123.675, 116.28, 103.53]

    printed = infer('toy.onnx', image_file, '--out', 'overlay.png')
    shown = np.asarray(Image.open('overlay.png'))
    assert shown.shape == (50, 80, 3)
    shares = {line.split()[2]: float(line.split()[0]) for line in printed.splitlines() if '%' in line}
    assert abs(sum(shares.values()) - 100) < 0.5 and len(shares) > 1
    resized = np.asarray(Image.open(image_file).convert('RGB').resize((96, 64), Image.BILINEAR), np.float32)
    images = torch.from_numpy((resized - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        labels = model.eval().encode_decode(images, [{'img_shape': (64, 96)}]).argmax(1)[0].numpy().astype(np.uint8)
    labels = np.asarray(Image.fromarray(labels).resize((80, 50), Image.NEAREST))
    expected = {'abcdef'[k]: 100 * float((labels == k).mean()) for k in np.unique(labels)}
    assert {name: pytest.approx(share, abs=0.1) for name, share in expected.items()} == shares


@pytest.mark.slow
def test_arch_with_random_weights(export_onnx, image_file):
    out = export_onnx('gfnet_h_micro', '--shape', 64)
    assert 'weights are random' in out and 'gfnet-h-micro.onnx: ' in out and 'images of 64x64' in out
    printed = infer('gfnet-h-micro.onnx', image_file)
    assert len(printed.splitlines()) == 5 and 'class ' in printed


@pytest.mark.slow
def test_feature_maps_without_comparison(export_onnx, image_file):
    out = export_onnx('gfnet-h-micro', '--output', 'features', '--shape', 64, 96, '--no-verify', '--out', 'maps.onnx')
    assert 'max' not in out
    assert infer('maps.onnx', image_file).splitlines()[0] == 'output_0 (1, 16, 16, 24)'


RETINANET = str(ROOT / 'configs/det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py')


@pytest.mark.slow
def test_detector_with_boxes(export_onnx):
    out = export_onnx(RETINANET, '--shape', 64, 96, '--max-per-img', 7, '--score-thr', 0.005, '--out', 'boxes.onnx')
    assert 'NonMaxSuppression' in out and 'random input 1, 48x84 of 64x96, 7 boxes, unpaired: max 0' in out
    session = onnxruntime.InferenceSession('boxes.onnx')
    assert [value.name for value in session.get_inputs()] == ['images', 'image_size']
    assert {value.name: value.shape for value in session.get_outputs()} == {
        'boxes': [7, 4],
        'scores': [7],
        'labels': [7],
        'count': [],
    }
    assert session.get_modelmeta().custom_metadata_map['output'] == 'boxes'


@pytest.mark.slow
def test_exit_status_is_1_if_the_outputs_differ(export_onnx, monkeypatch):
    monkeypatch.setitem(importlib.import_module('mmfreq.export.verify').TOLERANCES, 'fp32', 1e-12)
    with pytest.raises(SystemExit, match=r"outputs of gfnet-h-micro\.onnx differ from the model's"):
        export_onnx('gfnet-h-micro', '--shape', 64)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('hornet-tinny-gf',), 'nearest: hornet-tiny-gf'),
        (('configs/none.py',), 'The config file configs/none.py does not exist'),
        (('gfnet-h-micro', '--shape', '0'), '--shape is H W or one side'),
        (('gfnet-h-micro', '--output', 'labels'), 'is one of logits'),
        ((RETINANET, '--dynamic-batch'), 'Expected one image for the output boxes, got --dynamic-batch'),
        ((RETINANET, '--output', 'raw', '--score-thr', '0.1'), "are for the output 'boxes', got 'raw'"),
        ((RETINANET, '--cfg-options', 'model.test_cfg.nms.type=soft_nms'), "test_cfg of RetinaHead, found 'soft_nms'"),
        (('gfnet-h-micro', '--cfg-options', 'a=1'), 'Options are for configs'),
        (('gfnet-h-micro', '--shape', '64', '--picture', 'none.png'), 'none.png'),
    ],
)
def test_exit_status_is_2_for_wrong_commands(export_onnx, capsys, args, message):
    with pytest.raises(SystemExit) as stop:
        export_onnx(*args)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_error_names_the_missing_package(export_onnx, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(SystemExit) as stop:
        export_onnx('gfnet-h-micro', '--shape', 64)
    assert stop.value.code == 2
    assert 'Exporting needs the package onnxscript' in capsys.readouterr().err
    assert not list(Path().glob('*.onnx'))
