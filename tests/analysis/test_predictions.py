"""Predictions of image files, written as files."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmfreq.analysis.inputs import Found, find_inputs
from mmfreq.analysis.predictions import write_predictions
from mmfreq.analysis.results import PredictionError, Written
from mmfreq.analysis.run_report import report_run
from mmfreq.apis.reading import ImageReader
from mmfreq.errors import UserError


class ReadsColor:
    read = ImageReader()
    shown = read.shown


class PickySegmentor(ReadsColor):
    """A segmentor that rejects images below 32x32 and fails on others that are wider than high."""

    task, classes, palette = 'segmentation', ['all'], [(1, 2, 3)]

    def __call__(self, image):
        if min(image.shape[:2]) < 32:
            raise ValueError('needs images of at least 32x32')
        if image.shape[1] > image.shape[0]:
            raise RuntimeError('size mismatch')
        return np.zeros(image.shape[:2], np.uint8)


class Detector(ReadsColor):
    """Finds two objects in every image, the second with a low score."""

    task, classes, palette = 'detection', ['one', 'other'], [(200, 0, 0), (0, 200, 0)]

    def __init__(self, with_masks):
        self.masks = np.zeros((2, 40, 60), bool) if with_masks else None
        if with_masks:
            self.masks[0, 20:30, 30:50] = self.masks[1, 5:10, 5:10] = True

    def __call__(self, image):
        boxes = np.array([[30.123, 20, 50, 30], [5, 5, 10, 10]])
        return dict(boxes=boxes, labels=np.array([0, 1]), scores=np.array([0.9, 0.1]), masks=self.masks)


class Blue(ReadsColor):
    """Takes the values of the blue channel for class ids, and rejects images that contain the value 9; label maps are PNG files."""

    task = 'segmentation'

    def __init__(self, num_classes=4):
        self.classes = [f'class {number}' for number in range(num_classes)]
        self.palette = [(number % 256, 200, number // 256) for number in range(num_classes)]
        self.batches = []

    def __call__(self, image):
        return self.predict_batch([image])[0]

    def predict_batch(self, images):
        self.batches.append(len(images))
        if any((image == 9).any() for image in images):
            raise ValueError('there is a 9')
        ids = [image[..., 0].astype(np.uint8 if len(self.classes) <= 256 else np.uint16) for image in images]
        return [each + each.dtype.type(40) * (len(self.classes) > 256) for each in ids]

    def label_map_path(self, folder, stem):
        return folder / f'{stem}.png'

    def load_label_map(self, folder, stem):
        if not self.label_map_path(folder, stem).is_file():
            raise ValueError(f'no truth: {folder / stem}')
        return np.array(Image.open(self.label_map_path(folder, stem)))


def _write(path, value=1, size=(8, 10)):
    """An image of one blue value with a column of zeros, as PNG whatever its suffix; returns the path."""
    image = np.full((*size, 3), value, np.uint8)
    image[:, 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
    return path


def _files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


@pytest.fixture
def black_image(tmp_path):
    def write(name, height, width):
        cv2.imwrite(str(tmp_path / name), np.zeros((height, width, 3), np.uint8))
        return tmp_path / name

    return write


def test_rejected_image_is_named_and_the_others_are_written(black_image, tmp_path):
    paths = [black_image('tiny.png', 20, 40), black_image('fine.png', 40, 40)]
    tiny, fine = write_predictions(PickySegmentor(), paths, tmp_path / 'out')
    assert tiny.problem == f'{paths[0]}, 40 x 20 pixels: needs images of at least 32x32' and not tiny.files
    assert fine.problem is None and all(path.is_file() for path in fine.files) and len(fine.files) == 2


def test_failing_model_raises_an_error_that_names_the_image(black_image, tmp_path):
    with pytest.raises(PredictionError, match=r'wide\.png, 50 x 40 pixels: size mismatch'):
        list(write_predictions(PickySegmentor(), [black_image('wide.png', 40, 50)], tmp_path / 'out'))


@pytest.mark.parametrize('with_masks', [True, False])
def test_all_detections_are_written_and_those_above_the_threshold_drawn(black_image, tmp_path, with_masks):
    (written,) = write_predictions(Detector(with_masks), [black_image('a.png', 40, 60)], tmp_path / 'out')
    drawn, report = cv2.imread(str(written.files[0]))[..., ::-1], json.loads(written.files[1].read_text())
    assert report['image'] == 'a.png' and report['size'] == [40, 60]
    assert report['boxes'][0] == [30.12, 20, 50, 30] and report['names'] == ['one', 'other'] and report['scores'] == [0.9, 0.1]
    assert len(report.get('masks', [])) == 2 * with_masks
    assert (drawn[25, 40].tolist() == [100, 0, 0]) == with_masks  # half of the color, inside the first mask
    assert not drawn[5:10, 5:10].any()


def test_results_mirror_the_folders_of_the_images(tmp_path):
    for name in ('x.jpg', 'a/x.jpg', 'a/b/x.jpg'):
        _write(tmp_path / 'in' / name)
    written = list(write_predictions(Blue(), find_inputs([tmp_path / 'in']).inputs, tmp_path / 'out'))
    assert not any(item.problem for item in written)
    stems = ('x', 'a/x', 'a/b/x')
    assert _files(tmp_path / 'out') == sorted(stem + suffix for stem in stems for suffix in ('.png', '_overlay.png'))


def test_results_beside_the_images_are_not_inputs_of_the_next_run(tmp_path):
    for name in ('x.png', 'a/y.jpg'):
        _write(tmp_path / name)
    for _ in range(2):
        found = find_inputs([tmp_path])
        before = {item.path: item.path.read_bytes() for item in found.inputs}
        assert len(list(write_predictions(Blue(), found.inputs, None))) == 2
        assert before == {path: path.read_bytes() for path in before}
    assert _files(tmp_path) == ['a/y.jpg', 'a/y_pred.png', 'a/y_pred_overlay.png', 'x.png', 'x_pred.png', 'x_pred_overlay.png']


SAVED = {  # --save -> files
    'overlay': {'x_overlay.png'},
    'mask': {'x.png'},
    'json': {'x.json'},
    'panel': {'x_panel.png'},
    'json mask': {'x.json', 'x.png'},
    'overlay mask json panel': {'x_overlay.png', 'x.png', 'x.json', 'x_panel.png'},
}


@pytest.mark.parametrize('save', SAVED)
def test_only_the_chosen_results_are_written(tmp_path, save):
    (written,) = write_predictions(Blue(), [_write(tmp_path / 'x.jpg', size=(16, 300))], tmp_path / 'out', save=save.split())
    assert set(_files(tmp_path / 'out')) == SAVED[save] == {file.name for file in written.files}
    if 'json' in save:
        report = json.loads((tmp_path / 'out/x.json').read_text())
        classes = {'labels': [1, 0], 'names': ['class 1', 'class 0'], 'pixels': [16 * 299, 16], 'shares': [0.996667, 0.003333]}
        assert report == {'image': 'x.jpg', 'size': [16, 300]} | classes
    if 'panel' in save:  # without a label map: the image and the prediction
        assert Image.open(tmp_path / 'out/x_panel.png').width == 2 * 300 + 30


REFUSED = {  # -> (predictor, options, message)
    'masks of a detector': (Detector(False), {'save': ['mask']}, r'results of detection are overlay, json; got mask'),
    'no results': (Blue(), {'save': []}, r'got none\. Change --save'),
    'unknown results': (Blue(), {'save': ['overlay', 'gif']}, r'overlay, mask, json, panel; got gif'),
    'label maps that are not drawn': (Blue(), {'save': ['mask'], 'truth': '.'}, r'Add panel, or remove --truth'),
    'label maps of a detector': (Detector(False), {'truth': '.'}, r'Use tools/test\.py'),
    'no folder of label maps': (Blue(), {'truth': 'no_such_folder'}, r'no_such_folder does not exist'),
    'opacity in percent': (Blue(), {'opacity': 50}, r'opacity is 50'),
    'a batch of nothing': (Blue(), {'batch_size': 0}, r'batch size is 0; it must be at least 1'),
    'panels of a video': (Blue(), {'save': ['panel'], 'video': True}, r'videos among the inputs\. Add overlay'),
    'a codec that does not exist': (Blue(), {'codec': 'XXXX', 'video': True}, r'codec XXXX'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_invalid_options_are_refused_before_anything_is_written(tmp_path, case):
    predictor, options, message = REFUSED[case]
    options = dict(options)
    path = tmp_path / ('x.mp4' if options.pop('video', False) else 'x.jpg')
    with pytest.raises((ValueError, UserError), match=message):
        write_predictions(predictor, [path], tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('num_classes', 'mode'), [(255, 'P'), (256, 'P'), (257, 'I;16'), (300, 'I;16')])
def test_label_maps_and_drawings_of_many_classes(tmp_path, num_classes, mode):
    value = 215 if num_classes > 256 else num_classes - 1  # 255 is a class from 256 classes on
    path = _write(tmp_path / 'x.png', value)
    list(write_predictions(Blue(num_classes), [path], tmp_path / 'out', save=['mask', 'overlay'], opacity=1))
    mask = Image.open(tmp_path / 'out/x.png')
    expected = value + 40 * (num_classes > 256)
    assert mask.mode == mode and np.array(mask)[:, 1:].tolist() == [[expected] * 9] * 8
    drawn = np.array(Image.open(tmp_path / 'out/x_overlay.png'))
    assert (drawn[:, 1:] == Blue(num_classes).palette[expected]).all()


def test_broken_and_rejected_images_of_a_batch_do_not_affect_the_others(tmp_path):
    paths = [_write(tmp_path / f'{number}.jpg', value) for number, value in enumerate([1, 2, 9, 3, 1])]
    paths.insert(2, tmp_path / 'broken.jpg')
    paths[2].write_bytes(b'no image')
    paths.insert(4, tmp_path / 'gone.jpg')
    paths[4].symlink_to('nowhere')
    written = list(write_predictions(Blue(), paths, tmp_path / 'out', batch_size=4, save=['mask']))
    assert [item.image for item in written] == paths
    problems = {item.image.name: item.problem for item in written if item.problem}
    assert list(problems) == ['broken.jpg', '2.jpg', 'gone.jpg']
    assert problems['2.jpg'].endswith('2.jpg, 10 x 8 pixels: there is a 9') and 'a link to a missing file' in problems['gone.jpg']
    values = [np.array(Image.open(tmp_path / f'out/{number}.png'))[0, 1] for number in (0, 1, 3, 4)]
    assert values == [1, 2, 3, 1]


def test_batches_have_the_given_size(tmp_path):
    paths = [_write(tmp_path / f'{number}.jpg') for number in range(5)]
    for batch_size, batches in ((1, [1] * 5), (2, [2, 2, 1]), (9, [5])):
        predictor = Blue()
        list(write_predictions(predictor, paths, tmp_path / 'out', batch_size=batch_size))
        assert predictor.batches == batches


class OutOfMemory(Blue):
    def predict_batch(self, images):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')


@pytest.mark.parametrize(('batch_size', 'remedy'), [(1, '--slide'), (2, 'smaller --batch-size')])
def test_a_full_gpu_is_an_error_with_a_remedy(tmp_path, batch_size, remedy):
    paths = [_write(tmp_path / f'{number}.jpg') for number in range(2)]
    with pytest.raises(UserError, match=rf'0\.jpg, .*not enough memory for {batch_size} image\(s\).*{remedy}'):
        list(write_predictions(OutOfMemory(), paths, tmp_path / 'out', batch_size=batch_size))


def test_label_maps_are_found_in_the_same_folder_or_in_one(tmp_path):
    images = [_write(tmp_path / 'in' / name, size=(16, 300)) for name in ('a/x.jpg', 'b/x.jpg', 'b/y.jpg')]

    def run():
        written = write_predictions(Blue(), find_inputs([tmp_path / 'in']).inputs, tmp_path / 'out', tmp_path / 'truth')
        return {item.image: item.problem for item in written}

    def label_map(name):
        (tmp_path / 'truth' / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((16, 300), np.uint8)).save(tmp_path / 'truth' / name)

    label_map('a/x.png')
    label_map('y.png')
    problems = run()
    assert problems[images[0]] is None and problems[images[2]] is None
    assert problems[images[1]] == f'no truth: {tmp_path}/truth/b/x'
    label_map('x.png')  # of which image?
    assert 'one label map for several images named x' in run()[images[1]] and run()[images[0]] is None
    label_map('b/x.png')
    assert not any(run().values())


NOT_WRITABLE = {
    'the output folder is a file': lambda out: out.write_text(''),
    'a sub-folder is a file': lambda out: (out.mkdir(), (out / 'a').write_text('')),
    'a result is a folder': lambda out: (out / 'a/x.png').mkdir(parents=True),
}


@pytest.mark.parametrize('case', NOT_WRITABLE)
def test_results_that_cannot_be_written_are_an_error_with_their_path(tmp_path, case):
    _write(tmp_path / 'in/a/x.jpg')
    NOT_WRITABLE[case](tmp_path / 'out')
    with pytest.raises(UserError, match=r'out(/a(/x\.png)?)? cannot be written: .*--out'):
        list(write_predictions(Blue(), find_inputs([tmp_path / 'in']).inputs, tmp_path / 'out'))


def test_report_of_a_run_counts_and_measures(tmp_path):
    results = [Written(tmp_path / f'{number}.jpg', [tmp_path / f'{number}.png']) for number in range(3)]
    results += [
        Written(tmp_path / 'bad.jpg', problem='bad.jpg is bad'),
        Written(tmp_path / 'a.mp4', [tmp_path / 'a.mp4'], frames=7),
    ]
    found = Found(problems=['the folder x cannot be read'])
    found.skipped['hidden'] = 2
    text, problems = report_run(results, found, 5.0, 'in out')
    lines = text.splitlines()
    assert lines[:3] == [
        '3 of 4 images and 1 of 1 videos done, results in out',
        'skipped: 2 hidden',
        f'for example {tmp_path}/0.png',
    ]
    assert lines[3].startswith('10 images and frames in 5.0 s (0.500 s each, with reading and writing); peak: ')
    assert 100 < int(lines[3].split('peak: ')[1].split(' MiB of RAM')[0]) < 100_000
    assert problems.splitlines() == [
        'error: 1 of 5 files has a problem, and 1 folder(s):',
        'the folder x cannot be read',
        'bad.jpg is bad',
    ]
    assert report_run(results[:3], Found(), 1.5, 'x')[1] == ''
