"""docs/onnx_inference.py from the command line, where only numpy, onnxruntime and Pillow can be imported."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.broken_images import pixels

pytest.importorskip('onnx', reason='extra [export] is not installed')
pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

from tests.docs.onnx_script import run, script, write_onnx

NAMES = ['sky', 'road', 'car']
COLORS = [[200, 30, 60], [110, 190, 40], [40, 60, 240]]
DETECTIONS = {
    'boxes': np.float32([[10, 10, 50, 40], [60, 5, 110, 30], [0, 0, 100, 50], [0, 0, 0, 0]]),
    'scores': np.float32([0.9, 0.6, 0.2, 0]),
    'labels': np.int64([2, 0, 1, -1]),
    'count': np.int64(3),
}
HALVES = np.zeros((4, 28, 28), np.float32)
HALVES[:, :, :14] = 1  # the left half of each box
TWICE = {'resize': [{'rule': 'stretch', 'size': [100, 160], 'interpolation': 'bilinear', 'antialias': False}], 'crop': None}
SMALL = {'rule': 'stretch', 'size': [10, 90], 'interpolation': 'bilinear', 'antialias': False}
TWICE |= {'pad': {'divisor': 32, 'value': [0.0]}, 'undescribed': []}


@pytest.fixture(scope='module')
def runner():
    return script()


@pytest.fixture
def image_file(tmp_path):
    Image.fromarray(pixels((50, 80))).save(tmp_path / 'image.png')
    return tmp_path / 'image.png'


def detector(path, masks=False, **metadata):
    constants = DETECTIONS | ({'masks': HALVES} if masks else {})
    entries = {'classes': NAMES, 'palette': COLORS, 'preprocessing': TWICE, 'thresholds': {'score': 0.3, 'iou': 0.5, 'mask': 0.5}}
    return write_onnx(path, constants, image_size=True, task='detection', output='boxes', **(entries | metadata))


def test_detections_are_in_the_coordinates_of_the_image(runner, tmp_path, image_file):
    model = runner.Model(detector(tmp_path / 'm.onnx', masks=True))
    found = model(model.read(image_file))
    np.testing.assert_allclose(found['boxes'], DETECTIONS['boxes'][:3] / 2)
    assert found['labels'].tolist() == [2, 0, 1] and found['scores'].tolist() == DETECTIONS['scores'][:3].tolist()
    top, left, mask = found['masks'][0]
    whole = np.zeros((50, 80), bool)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    expected = np.zeros((50, 80), bool)
    expected[5:20, 5:15] = True
    assert (whole == expected).all()


def test_boxes_and_masks_are_drawn(tmp_path, image_file):
    path = detector(tmp_path / 'm.onnx', masks=True)
    done = run(path, image_file, '--out', tmp_path / 'out', '--json')
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [['0.90', 'car'], ['0.60', 'sky']]
    original, drawn = (np.asarray(Image.open(each), float) for each in (image_file, tmp_path / 'out' / 'image_pred.png'))
    assert original.shape == drawn.shape
    np.testing.assert_allclose(drawn[17, 10], 0.5 * original[17, 10] + 0.5 * np.array(COLORS[2]), atol=1)  # in the mask
    assert (drawn[17, 20] == original[17, 20]).all()  # in the box, and not in the mask
    assert (drawn[19, 6] == COLORS[2]).all()  # the border of the box
    found = json.loads((tmp_path / 'out' / 'image_pred.json').read_text())
    assert found['labels'] == [2, 0] and found['classes'] == NAMES and found['boxes'][0] == [5, 5, 25, 20]
    done = run(path, image_file, '--out', tmp_path / 'out', '--score-thr', '0.1')
    assert len(done.stdout.splitlines()) == 4


def test_image_without_detections_is_drawn_as_it_is(tmp_path, image_file):
    constants = {name: np.zeros_like(values) for name, values in DETECTIONS.items()}
    path = write_onnx(tmp_path / 'm.onnx', constants, image_size=True, task='detection', output='boxes', preprocessing=TWICE)
    done = run(path, image_file, '--out', tmp_path / 'out')
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == ['  no box with a score of at least 0.3']
    assert (np.asarray(Image.open(tmp_path / 'out' / 'image_pred.png')) == np.asarray(Image.open(image_file))).all()


@pytest.mark.parametrize('output', ['logits', 'labels'])
def test_classes_of_pixels_are_drawn_with_a_legend(tmp_path, image_file, output):
    labels = np.zeros((1, 50, 80), np.int64)
    labels[:, :, 60:] = 2
    outputs = labels if output == 'labels' else np.float32(labels[:, None] == np.arange(3)[:, None, None])
    metadata = {'task': 'segmentation', 'output': output, 'classes': [*NAMES, 'tree'], 'palette': [*COLORS, [9, 9, 9]]}
    done = run(write_onnx(tmp_path / 'm.onnx', {'output': outputs}, **metadata), image_file, '--out', tmp_path, '--json')
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [['75.0', '%', 'sky'], ['25.0', '%', 'car']]
    original, drawn = (np.asarray(Image.open(each), float) for each in (image_file, tmp_path / 'image_pred.png'))
    for column, color in ((10, COLORS[0]), (70, COLORS[2])):
        np.testing.assert_allclose(drawn[30, column], 0.5 * original[30, column] + 0.5 * np.array(color), atol=1)
    legend = drawn[:, 80:].reshape(-1, 3).tolist()
    assert legend.count(COLORS[0]) > 20 and legend.count(COLORS[2]) > 20 and COLORS[1] not in legend
    assert json.loads((tmp_path / 'image_pred.json').read_text())['areas'] == [0.75, 0, 0.25, 0]


def test_best_classes_are_printed_and_drawn(tmp_path, image_file):
    path = write_onnx(
        tmp_path / 'm.onnx', {'output': np.float32([[0, 2, 1]])}, task='classification', output='logits', classes=NAMES
    )
    done = run(path, image_file, '--out', tmp_path)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ['66.5', '%', 'road'],
        ['24.5', '%', 'car'],
        ['9.0', '%', 'sky'],
    ]
    drawn = np.asarray(Image.open(tmp_path / 'image_pred.png'))
    assert (drawn[:50, :80] == np.asarray(Image.open(image_file))).all() and (drawn[:, 80:] < 100).any()


def test_folders_and_files_that_fail(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    Image.fromarray(pixels((50, 80))).save(folder / 'a.png')
    Image.fromarray(pixels((50, 80))).save(folder / 'a.jpg')
    (folder / 'b.png').write_bytes(b'no image')
    (folder / 'notes.txt').write_text('')
    path = write_onnx(tmp_path / 'm.onnx', {'output': np.float32([[0, 2, 1]])}, task='classification', notes=['Take care.'])
    done = run(path, folder, '--out', tmp_path / 'out')
    assert done.returncode == 1 and 'b.png: cannot identify image file' in done.stderr and 'note: Take care.' in done.stderr
    assert len(list((tmp_path / 'out').iterdir())) == 2 and 'notes.txt' not in done.stdout
    (tmp_path / 'empty').mkdir()
    assert 'the folders have no images' in run(path, tmp_path / 'empty').stderr


def test_maps_are_listed(tmp_path, image_file):
    done = run(write_onnx(tmp_path / 'm.onnx'), image_file, '--out', tmp_path / 'out')
    assert done.stdout.splitlines()[1:] == ['  output (1, 3, 50, 80)'] and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({'preprocessing': None, 'palette': None}, 'does not have palette, preprocessing: write it with tools/export_onnx.py'),
        ({'preprocessing': {**TWICE, 'undescribed': ['Rotate(angle=3)']}}, 'these steps of its preprocessing: Rotate(angle=3)'),
        ({'preprocessing': {**TWICE, 'resize': [{'rule': 'x', 'interpolation': '', 'antialias': False}]}}, 'the rule x of its'),
        ({'shape': (1, 3, 64, 64)}, 'the file takes images [1, 3, 64, 64], and the preprocessing makes [1, 3, 50, 80]'),
        (
            {'preprocessing': {**TWICE, 'pad': None, 'resize': [SMALL]}},
            'at least 32 pixels, and the preprocessing makes [1, 3, 10, 90]',
        ),
        ({'channels': 'bands', 'mean': [0.0] * 5, 'std': [1.0] * 5}, 'takes 5 channels, which Pillow does not read'),
        ({'channels': 'gray', 'mean': [0.0], 'std': [1.0], 'pixels': 'as in the file'}, 'mode RGB may lose them'),
    ],
)
def test_files_that_cannot_be_run_are_refused(tmp_path, image_file, metadata, message):
    done = run(write_onnx(tmp_path / 'm.onnx', **metadata), image_file)
    assert done.returncode == 1 and message in done.stderr and 'Traceback' not in done.stderr


def test_wrong_models_and_providers_are_refused(tmp_path, image_file):
    done = run(image_file, image_file)
    assert done.returncode == 1 and done.stderr.startswith(f'error: {image_file}: ') and 'Traceback' not in done.stderr
    done = run(write_onnx(tmp_path / 'm.onnx'), image_file, '--provider', 'None')
    assert done.returncode == 2 and '--provider is one of ' in done.stderr and 'CPUExecutionProvider' in done.stderr


def test_pixels_of_unusual_images(runner, tmp_path):
    color = pixels((50, 80))
    model = runner.Model(write_onnx(tmp_path / 'color.onnx'))
    alpha = Image.fromarray(np.dstack([color, color[..., 0]]))
    gray = Image.fromarray(color[..., 0])
    turned = Image.fromarray(np.rot90(color))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise for display
    for name, image, expected, options in (
        ('alpha.png', alpha, color, {}),
        ('gray.png', gray, np.dstack([color[..., 0]] * 3), {}),
        ('turned.png', turned, color, {'exif': exif}),
    ):
        image.save(tmp_path / name, **options)
        np.testing.assert_array_equal(model.read(tmp_path / name), expected)
    deep = (color[..., 0].astype(np.uint16)) * 257
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    with pytest.raises(ValueError, match=r'expected 8 bits per channel, got an image of mode I'):
        model.read(tmp_path / 'deep.png')
    entries = {'channels': 'gray', 'mean': [0.0], 'std': [1.0]}
    keeps = runner.Model(write_onnx(tmp_path / 'deep.onnx', **entries, pixels='as in the file'))
    np.testing.assert_array_equal(keeps.read(tmp_path / 'deep.png')[..., 0], deep)
    gray_model = runner.Model(write_onnx(tmp_path / 'gray.onnx', **entries))
    np.testing.assert_array_equal(gray_model.read(tmp_path / 'gray.png')[..., 0], color[..., 0])


def test_bands_are_read_from_arrays(runner, tmp_path):
    bands = np.random.default_rng(0).random((50, 80, 5), np.float32)
    np.save(tmp_path / 'bands.npy', bands)
    model = runner.Model(write_onnx(tmp_path / 'm.onnx', channels='bands', mean=[0.5] * 5, std=[2.0] * 5))
    outputs = model(model.read(tmp_path / 'bands.npy'))
    np.testing.assert_allclose(outputs['output'][0], (bands.transpose(2, 0, 1) - 0.5) / 2, rtol=1e-6)
    assert runner.shown(bands).size == (80, 50)
    np.save(tmp_path / 'gray.npy', bands[..., 0])
    with pytest.raises(ValueError, match='the model takes 5 channels, got 1'):
        model.read(tmp_path / 'gray.npy')


def test_channels_of_bgr_models_are_reversed(runner, tmp_path, image_file):
    model = runner.Model(write_onnx(tmp_path / 'm.onnx', channels='BGR'))
    np.testing.assert_array_equal(model(model.read(image_file))['output'][0], pixels((50, 80))[..., ::-1].transpose(2, 0, 1))
