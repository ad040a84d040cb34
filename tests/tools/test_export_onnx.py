"""tools/export_onnx.py from the command line, and docs/onnx_inference.py, which runs its files without PyTorch."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from PIL import Image

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.apis import load_model, load_predictor
from mmfreq.apis.loading import build_model, read_config
from tests.broken_images import pixels

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

from tests.docs.onnx_script import run, script  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def export_onnx(call_tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(call_tool, 'export_onnx')


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / 'image.png'
    Image.fromarray(pixels((64, 96))).save(path)
    return path


def infer(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('output', ['logits', pytest.param('labels', marks=pytest.mark.slow)])
def test_trained_segmentor_is_exported_and_run_without_pytorch(export_onnx, toy_config, image_file, output):
    torch.manual_seed(1)
    model = load_model(str(toy_config)).model
    with torch.no_grad():  # otherwise random weights predict one class everywhere
        model.decode_head.conv_seg.weight.mul_(100)
    meta = {'dataset_meta': {'classes': tuple('abcdef'), 'palette': [(k, k, k) for k in range(6)]}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'weights.pth')
    arguments = ('--shape', 64, 96, '--out', 'toy.onnx', '--picture', image_file, '--output', output)
    out = export_onnx(toy_config, 'weights.pth', *arguments)
    assert 'toy.onnx' in out and 'image.png, output: ' in out and 'random input 2' in out and 'MatMul' in out and 'DFT' not in out
    assert 'weights are random' not in out
    metadata = {item.key: item.value for item in onnx.load('toy.onnx').metadata_props}
    assert metadata['task'] == 'segmentation' and metadata['output'] == output and metadata['arch'] == 'hornet-micro'
    assert json.loads(metadata['classes']) == list('abcdef') and metadata['channels'] == 'RGB'
    assert json.loads(metadata['mean']) == [123.675, 116.28, 103.53]

    printed = infer('toy.onnx', image_file)
    drawn = np.asarray(Image.open('predictions/image_pred.png'))
    assert drawn.shape[0] >= 64 and drawn.shape[1] > 96  # the legend
    predict, runner = load_predictor(str(toy_config), 'weights.pth'), script().Model('toy.onnx')
    expected, actual = predict(predict.read(image_file)), runner(runner.read(image_file))['labels']
    assert (expected == actual).mean() > 0.999 and len(np.unique(expected)) > 1
    shares = {line.split()[2]: float(line.split()[0]) for line in printed.splitlines() if '%' in line}
    areas = {'abcdef'[k]: 100 * float((expected == k).mean()) for k in np.unique(expected)}
    assert {name: pytest.approx(share, abs=0.2) for name, share in areas.items()} == shares


@pytest.mark.slow
def test_file_of_open_sizes_labels_images_of_any_size_as_the_predictor(export_onnx, toy_config):
    torch.manual_seed(1)
    model = load_model(str(toy_config)).model
    with torch.no_grad():
        model.decode_head.conv_seg.weight.mul_(100)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, 'weights.pth')
    cfg = read_config(toy_config)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(128, 80), keep_ratio=True))
    cfg.dump('resizing.py')
    export_onnx('resizing.py', 'weights.pth', '--dynamic', '--no-verify', '--out', 'open.onnx')
    predict, runner = load_predictor('resizing.py', 'weights.pth'), script().Model('open.onnx')
    assert [step['rule'] for step in runner.preprocessing['resize']] == ['within']
    for size in ((64, 96), (150, 97), (301, 400)):
        Image.fromarray(pixels(size)).save('image.png')
        expected, actual = predict(predict.read('image.png')), runner(runner.read('image.png'))['labels']
        assert actual.shape == size and (expected == actual).mean() > 0.999 and len(np.unique(expected)) > 1


def test_classifier_is_exported_and_run_without_pytorch(export_onnx, image_file, tmp_path):
    """An image of another size goes through the test pipeline of the config, and through the metadata of the file."""
    torch.manual_seed(0)
    arch = {'model.arch': 'gfnet-micro', 'model.num_classes': 7, 'data_preprocessor.num_classes': 7}
    options = [f'{key}={value}' for key, value in arch.items()]
    config = ROOT / 'configs/cls/gfnet/gfnet-ti_8xb128-300e_in1k.py'
    cfg = read_config(config, arch)
    model, _ = build_model(cfg, None)
    torch.save(model.state_dict(), 'weights.pth')
    export_onnx(config, 'weights.pth', '--shape', 224, '--out', 'model.onnx', '--no-verify', '--cfg-options', *options)
    Image.fromarray(pixels((300, 411))).save('large.png')
    runner = script().Model('model.onnx')
    actual = runner(runner.read('large.png'))['scores']
    packed = Compose(cfg.test_dataloader.dataset.pipeline)({'img_path': 'large.png'})
    with torch.no_grad():
        expected = model.test_step({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})[0].pred_score.numpy()
    assert actual.argmax() == expected.argmax() and np.ptp(expected) > 0.01
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert len(infer('model.onnx', 'large.png').splitlines()) == 6


@pytest.mark.slow
def test_detector_is_exported_and_run_without_pytorch(export_onnx, image_file):
    """An image that the test pipeline makes smaller and pads: the file of that size gives the boxes of mmdet."""
    config = ROOT / 'configs/det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py'
    options = {'model.test_cfg.score_thr': 0.009, 'model.test_cfg.max_per_img': 20}
    torch.manual_seed(0)
    model, _ = build_model(read_config(config), None)
    torch.save(model.state_dict(), 'weights.pth')
    given = [f'{key}={value}' for key, value in options.items()]
    out = export_onnx(config, 'weights.pth', '--out', 'detector.onnx', '--no-verify', '--cfg-options', *given)
    assert 'images of 256x320' in out
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(50, 0).repeat(50, 1)  # 600x800; 240x320 before padding
    Image.fromarray(blocks).save('large.png')
    predict = load_predictor(str(config), 'weights.pth', cfg_options=options)
    runner = script().Model('detector.onnx')
    expected, actual = predict(predict.read('large.png')), runner(runner.read('large.png'))
    assert len(expected['scores']) == 20 and np.ptp(expected['scores']) > 0.01
    np.testing.assert_allclose(actual['scores'], expected['scores'], atol=1e-4)
    np.testing.assert_allclose(actual['boxes'], expected['boxes'], atol=0.1)
    assert (actual['labels'] == expected['labels']).all() and actual['masks'] is None
    assert len(infer('detector.onnx', 'large.png', '--score-thr', '0').splitlines()) == 21


@pytest.mark.slow
def test_arch_with_random_weights(export_onnx, image_file):
    out = export_onnx('gfnet_h_micro', '--shape', 64)
    assert 'weights are random' in out and 'gfnet-h-micro.onnx: ' in out and 'images of 64x64' in out
    printed = infer('gfnet-h-micro.onnx', image_file)
    assert len(printed.splitlines()) == 6 and 'class ' in printed


@pytest.mark.slow
def test_file_for_any_size(export_onnx, image_file):
    out = export_onnx('gfnet-micro', '--dynamic', '--shape', 64, 96, '--picture', image_file)
    assert 'images of any size' in out
    assert 'image.png, output: max' in out and 'image.png, 37x75, output' in out and 'random input 1, 32x138, output' in out
    session = onnxruntime.InferenceSession('gfnet-micro.onnx')
    assert session.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    assert session.run(None, {'images': np.zeros((2, 3, 50, 41), np.float32)})[0].shape == (2, 1000)


@pytest.mark.slow
def test_half_precision_and_feature_maps(export_onnx, image_file):
    options = ('--shape', 64, 96, '--no-verify', '--precision', 'fp16')
    out = export_onnx('gfnet-h-micro', '--output', 'features', *options, '--out', 'maps.onnx')
    assert 'max' not in out
    assert infer('maps.onnx', image_file).splitlines()[1] == '  output_0 (1, 16, 16, 24)'


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
        (('gfnet-h-micro', '--dynamic', '--backend', 'fft'), '--dynamic needs --backend matmul, got fft'),
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
