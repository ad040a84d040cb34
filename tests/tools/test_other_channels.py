"""The tools take models of gray, 16-bit and multi-band images: segmentors, a detector, a classifier."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mmfreq
from mmfreq.apis import load_model, load_predictor
from tests.broken_images import encode, pixels
from tests.docs.onnx_script import script
from tests.other_channels import (
    CLASSIFIER,
    DETECTOR,
    KINDS,
    SIZE,
    expected_prediction,
    models_by_kind,
    segmentor,
    write_model,
)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """`models(kind)`: config, checkpoint, image file and its values; of a detector and a classifier those of a gray image."""
    return models_by_kind(tmp_path_factory, detector=DETECTOR, classifier=CLASSIFIER)


@pytest.mark.parametrize('kind', KINDS)
def test_masks_are_those_of_the_test_pipeline(call_tool, models, tmp_path, kind):
    config, checkpoint, path, values = models(kind)
    assert 'done' in call_tool('infer', config, checkpoint, path, '--out', tmp_path, '--device', 'cpu', '--plain')
    expected = expected_prediction(config, checkpoint, path).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / f'{path.stem}.png')), expected)
    shown = load_predictor(config, checkpoint).shown(values)
    drawn = np.array(Image.open(tmp_path / f'{path.stem}_overlay.png'))
    assert shown.shape == drawn.shape == (*SIZE, 3) and np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.5
    if kind == 'gray':
        assert (shown == values[..., None]).all()


def test_boxes_are_those_of_the_test_pipeline(call_tool, models, tmp_path):
    config, checkpoint, path, _ = models('detector')
    call_tool('infer', config, checkpoint, path, '--out', tmp_path, '--device', 'cpu', '--plain')
    found = json.loads((tmp_path / f'{path.stem}.json').read_text())
    expected = expected_prediction(config, checkpoint, path).pred_instances
    assert len(found['scores']) == len(expected) == 6
    np.testing.assert_allclose(found['boxes'], expected.bboxes[expected.scores.argsort(descending=True)], atol=0.006)


# name -> (kind of the model, array in the image file, regular expression); files are PNG
OTHERS = {
    'color image, 16-bit gray model': (
        '16 bits',
        pixels(),
        r'is 3, but the model takes 1 .*Give a file with 1 channel, as in training\.',
    ),
    'image with alpha, 16-bit gray model': (
        '16 bits',
        np.dstack([pixels(), pixels()[..., 0]]),
        r'is 4, but the model takes 1 .*Give a file with 1 channel, ',
    ),
    'color image, model of four bands': (
        '4 bands',
        pixels(),
        r'is 3, but the model takes 4 .*Give a file with 4 channels, as in training\.',
    ),
    'gray image, model of four bands': ('4 bands', pixels()[..., 0], r'is 1, but the model takes 4 '),
    'gray image, model of five bands': (
        '5 bands',
        pixels()[..., 0],
        r'a PNG image with 1 channel, and the model takes 5\. Give .*TiffFileError',
    ),
}


@pytest.mark.parametrize('case', OTHERS)
def test_image_with_other_channels_is_named_and_the_others_are_predicted(call_tool, models, tmp_path, case):
    kind, array, pattern = OTHERS[case]
    config, checkpoint, path, _ = models(kind)
    (tmp_path / 'b.png').write_bytes(encode(array))
    with pytest.raises(SystemExit, match=rf'1 of 2 images has a problem:\n.*b\.png.*{pattern}') as ended:
        call_tool('infer', config, checkpoint, tmp_path / 'b.png', path, '--out', tmp_path / 'out', '--device', 'cpu')
    assert 'Traceback' not in str(ended.value.code) and (tmp_path / f'out/{path.stem}.png').is_file()


def test_config_without_its_package_ends_with_the_command_to_install_it(call_tool, tmp_path, monkeypatch, capsys):
    config, checkpoint = write_model(tmp_path, segmentor('5 bands'))
    monkeypatch.setattr('mmfreq.compat.decoders.find_spec', lambda name: None)
    (tmp_path / 'a.tif').write_bytes(encode(pixels(), '.tif'))
    with pytest.raises(SystemExit) as ended:
        call_tool('infer', config, checkpoint, tmp_path / 'a.tif', '--out', tmp_path / 'out')
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith('error: ') and 'pip install tifffile' in err and 'Traceback' not in err


@pytest.mark.parametrize('kind', ['gray', '4 bands', 'detector', 'classifier'])
def test_flops_of_the_stem_follow_the_channels(call_tool, models, kind):
    config, *_ = models(kind)
    channels = KINDS[kind][0] if kind in KINDS else 1
    text = call_tool('get_flops', config, '--shape', 64, 96, '--per-module', '--depth', 4)
    assert f'input 1x{channels}x64x96' in text
    row = next(line for line in text.splitlines() if 'downsample_layers.0.0' in line)
    assert f'{16 * channels * 16 * 16 * 24 / 1000:.2f} k' in row  # 4x4 kernels, stride 4, to 16 channels


def test_normalization_has_a_value_for_each_channel(models):
    loaded = {kind: load_model(str(models(kind)[0])) for kind in ('gray', '16 bits', '4 bands', 'detector', 'classifier')}
    found = {kind: (each.in_channels, each.normalization.mean, each.normalization.channels) for kind, each in loaded.items()}
    assert found == {
        'gray': (1, (120,), 'gray'),
        '16 bits': (1, (30000,), 'gray'),
        '4 bands': (4, (120,) * 4, 'bands'),
        'detector': (1, (128,), 'gray'),
        'classifier': (1, (120,), 'gray'),
    }
    bands = load_model(str(models('detector')[0]), cfg_options={'model.backbone.in_channels': 5})
    assert (bands.normalization.mean, bands.normalization.std) == ((128,) * 5, (50,) * 5)  # one value for all, as mmdet allows
    none = load_model(
        str(models('gray')[0]), cfg_options={'model.data_preprocessor.mean': None, 'model.data_preprocessor.std': None}
    )
    assert none.normalization.mean == (127.5,) and none.normalization.channels == 'gray'


def test_order_of_colors_follows_the_loader_and_the_model(toy_config):
    tiff = {'test_dataloader.dataset.pipeline.0.imdecode_backend': 'tifffile'}
    keep = {'model.data_preprocessor.bgr_to_rgb': False}
    orders = [load_model(str(toy_config), cfg_options=options).normalization.channels for options in ({}, keep, tiff, tiff | keep)]
    assert orders == ['RGB', 'BGR', 'BGR', 'RGB']


@pytest.mark.parametrize('kind', ['gray', '5 bands', 'detector', 'classifier'])
def test_plots_read_files_as_the_config_does(call_tool, models, tmp_path, kind):
    config, checkpoint, path, _ = models(kind)
    for images in ((), (path,)):
        out = tmp_path / f'out{len(images)}'
        size = ('--size', 64, 64)
        given = ('--image', *images) if images else ()
        text = call_tool('plot_filters', config, checkpoint, '--draw', 'gating', '--most', 1, *size, *given, '--out', out)
        assert 'gating.png' in text and np.asarray(Image.open(out / 'gating.png').convert('RGB')).std() > 10
        given = ('--images', *images) if images else ('--count', 1)
        text = call_tool('plot_erf', config, checkpoint, '--device', 'cpu', '--stage', 0, *size, *given, '--out', out / 'erf.png')
        assert 'figure: ' in text and (out / 'erf.png').is_file()


def test_plot_of_models_with_different_channels(call_tool, models, tmp_path):
    config, _, path, _ = models('gray')
    options = ('--images', path, '--size', 64, '--stage', 0, '--device', 'cpu', '--out', tmp_path / 'erf.png')
    assert 'affnet-micro' in call_tool('plot_erf', config, 'affnet-micro', *options)


def test_arch_refuses_files_of_many_bands(call_tool, models, tmp_path, capsys):
    *_, path, _ = models('5 bands')
    with pytest.raises(SystemExit):
        call_tool('plot_erf', 'affnet-micro', '--images', path, '--size', 64, '--device', 'cpu', '--out', tmp_path / 'erf.png')
    assert (
        'five.tif cannot be read as an image: it is a TIFF image with 5 channels, and the model takes 3' in capsys.readouterr().err
    )


@pytest.mark.parametrize('kind', ['16 bits', '4 bands', 'classifier'])
def test_exported_file_has_the_channels_and_its_example_runs_it(call_tool, models, tmp_path, monkeypatch, kind, capsys):
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    config, checkpoint, path, values = models(kind)
    out = tmp_path / 'model.onnx'
    text = call_tool('export_onnx', config, checkpoint, '--shape', *SIZE, '--picture', path, '--out', out)
    assert f'{path.name}, output: max' in text and 'ABOVE' not in text
    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    metadata = session.get_modelmeta().custom_metadata_map
    channels, step, mean, std = KINDS.get(kind, KINDS['gray'])
    assert session.get_inputs()[0].shape == [1, channels, *SIZE] and json.loads(metadata['mean']) == [mean] * channels
    assert metadata['channels'] == ('gray' if channels == 1 else 'bands')
    assert metadata['pixels'] == ('as in the file' if step['color_type'] == 'unchanged' else '0..255')

    runner = script()
    model = runner.Model(out)
    if kind == '4 bands':
        with pytest.raises(ValueError, match='takes 4 channels'):
            model.read(path)
        path = tmp_path / 'bands.npy'
        np.save(path, values)
    expected = torch.from_numpy((values.astype(np.float32) - mean) / std)
    expected = (expected if expected.ndim == 3 else expected[..., None]).permute(2, 0, 1)[None]
    np.testing.assert_allclose(model.prepare(model.read(path))[0], expected, atol=1e-5)
    if kind == 'classifier':
        with pytest.raises(ValueError, match=r'8 bits per channel, got an image of mode (I;16|I)'):
            model.read(models('16 bits')[2])
    monkeypatch.setattr(sys, 'argv', ['onnx_inference.py', str(out), str(path), '--out', str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runner.main()
    assert stop.value.code == 0 and '%' in capsys.readouterr().out


def test_archs_are_counted_with_three_channels(call_tool):
    assert '1x3x224x224' in call_tool('get_flops', 'hornet-micro')
    assert load_model('hornet-micro').in_channels == 3 and mmfreq.build_backbone('hornet-micro').in_channels == 3


@pytest.mark.slow
def test_latency_of_a_gray_model(call_tool, models):
    assert 'latency' in call_tool('get_flops', models('gray')[0], '--shape', 64, '--latency')
