"""Videos are predicted frame by frame, and only complete results get their names."""

import json
import subprocess
import sys
import wave

import cv2
import numpy as np
import pytest
from PIL import Image

from mmfreq.analysis import videos
from mmfreq.analysis.drawing import overlay
from mmfreq.analysis.results import PredictionError, Results, choose_results
from mmfreq.analysis.videos import VideoFile, VideoReader, check_codec, video_suffix, write_video
from mmfreq.apis.reading import ImageReader
from mmfreq.errors import InputError, UserError

SIZE = (48, 64)
EVERYTHING = Results(('overlay',), ('overlay', 'mask', 'json'))


def _clip(path, count=12, rate=10, codec='mp4v', size=SIZE, backend=cv2.CAP_ANY):
    """A video of a white square that moves on gray; returns its frames (BGR) before compression."""
    writer = cv2.VideoWriter(str(path), backend, cv2.VideoWriter_fourcc(*codec), rate, size[::-1])
    frames = []
    for number in range(count):
        frame = np.full((*size, 3), 60, np.uint8)
        frame[8:32, 2 * number + 4 : 2 * number + 28] = 255
        frames.append(frame)
        writer.write(frame)
    writer.release()
    return frames


def _read(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return frames, capture.get(cv2.CAP_PROP_FPS)


class Bright:
    """Segments bright pixels, and records the sizes of batches."""

    task, classes, palette = 'segmentation', ['dark', 'bright'], [(0, 0, 200), (200, 0, 0)]

    def __init__(self, reader=None):
        self.read = reader or ImageReader()
        self.batches = []

    def __call__(self, image):
        return self.predict_batch([image])[0]

    def predict_batch(self, images):
        self.batches.append(len(images))
        return [(image if image.ndim == 2 else image[..., 0]).astype(int).__gt__(150).astype(np.uint8) for image in images]


class Boxes(Bright):
    task = 'detection'

    def predict_batch(self, images):
        found = {'boxes': np.array([[4.004, 8, 28, 32]]), 'labels': np.array([1]), 'scores': np.array([0.75]), 'masks': None}
        return [found] * len(images)


class Failing(Bright):
    """Raises an error at frame 7."""

    def __init__(self, error):
        super().__init__()
        self.error, self.count = error, 0

    def predict_batch(self, images):
        self.count += len(images)
        if self.count > 7:
            raise self.error
        return super().predict_batch(images)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_annotated_video_has_the_size_rate_and_frames_of_the_video(tmp_path):
    frames = _clip(tmp_path / 'in.mp4', rate=12.5)
    written = write_video(Bright(), tmp_path / 'in.mp4', tmp_path / 'out/in', choose_results('segmentation'))
    assert written.files == [tmp_path / 'out/in_overlay.mp4'] and written.problem is None and written.frames == 12
    drawn, rate = _read(written.files[0])
    assert rate == 12.5 and len(drawn) == 12 and drawn[0].shape == (*SIZE, 3)
    for frame, image in zip(frames, drawn):
        expected = overlay(frame[..., ::-1], (frame[..., 0] > 150).astype(np.uint8), Bright.palette)[..., ::-1]
        assert np.abs(expected.astype(int) - image).mean() < 12  # the codec loses details at edges
    assert _names(tmp_path / 'out') == ['in_overlay.mp4']


def test_frames_have_lines_of_json_and_label_maps(tmp_path):
    _clip(tmp_path / 'in.avi', codec='MJPG')
    written = write_video(Bright(), tmp_path / 'in.avi', tmp_path / 'in_pred', EVERYTHING, batch_size=5, codec='MJPG')
    assert [file.name for file in written.files] == ['in_pred_overlay.avi', 'in_pred.jsonl', 'in_pred_frames']
    lines = [json.loads(line) for line in written.files[1].read_text().splitlines()]
    assert [line['frame'] for line in lines] == list(range(12)) and lines[3]['seconds'] == 0.3 and lines[0]['size'] == [48, 64]
    ids = [np.array(Image.open(written.files[2] / f'{number:06}.png')) for number in range(12)]
    for line, labels in zip(lines, ids):
        assert line['names'] == ['dark', 'bright'] and line['pixels'] == [(labels == 0).sum(), (labels == 1).sum()]
        assert line['shares'] == [round(count / labels.size, 6) for count in line['pixels']]
    assert 500 < ids[0].sum() < 650  # 24 x 24
    _clip(tmp_path / 'in.avi', count=3, codec='MJPG')
    write_video(Bright(), tmp_path / 'in.avi', tmp_path / 'in_pred', EVERYTHING, codec='MJPG')
    assert len(_names(tmp_path / 'in_pred_frames')) == 3  # none of the longer video


def test_detections_of_each_frame(tmp_path):
    _clip(tmp_path / 'in.mp4', count=4)
    written = write_video(Boxes(), tmp_path / 'in.mp4', tmp_path / 'in_pred', choose_results('detection'))
    assert [file.name for file in written.files] == ['in_pred_overlay.mp4', 'in_pred.jsonl']
    lines = [json.loads(line) for line in written.files[1].read_text().splitlines()]
    assert len(lines) == 4
    expected = {'size': [48, 64], 'boxes': [[4.0, 8, 28, 32]], 'labels': [1], 'names': ['bright'], 'scores': [0.75]}
    assert lines[2] == {'frame': 2, 'seconds': 0.2} | expected


def test_frames_are_read_in_batches_and_never_all_held(tmp_path, monkeypatch):
    _clip(tmp_path / 'in.mp4')
    read, numbers, progress, ahead = VideoReader._read, [0], [], []

    def counted(self):
        numbers[0] += 1
        return read(self)

    class Watching(Bright):
        def predict_batch(self, images):
            ahead.append(numbers[0] - sum(self.batches))
            return super().predict_batch(images)

    monkeypatch.setattr(VideoReader, '_read', counted)
    predictor = Watching()
    target, report = tmp_path / 'in_pred', lambda *numbers: progress.append(numbers)
    write_video(predictor, tmp_path / 'in.mp4', target, EVERYTHING, 5, progress=report)
    assert predictor.batches == [5, 5, 2] and progress == [(5, 12), (10, 12), (12, 12)]
    assert ahead == [5, 5, 3]  # the last one found the end


def test_models_of_gray_images_get_gray_frames_and_others_are_refused(tmp_path):
    _clip(tmp_path / 'in.mp4', count=2)
    gray = Bright(ImageReader({'type': 'LoadImageFromFile', 'color_type': 'grayscale'}, 'mmcv', 1))
    assert not write_video(gray, tmp_path / 'in.mp4', tmp_path / 'gray', EVERYTHING).problem
    bands = Bright(ImageReader({'type': 'LoadImageFromFile', 'imdecode_backend': 'tifffile'}, 'mmcv', 5))
    written = write_video(bands, tmp_path / 'in.mp4', tmp_path / 'bands', EVERYTHING)
    assert 'in.mp4, frame 0, 64 x 48 pixels' in written.problem and 'the model takes 5' in written.problem


@pytest.mark.parametrize(('rate', 'size'), [(29.97, SIZE), (0.5, SIZE), (1000, SIZE), (25, (47, 63)), (25, (16, 16))])
def test_unusual_rates_and_sizes(tmp_path, rate, size):
    if size[0] % 2:
        _clip(tmp_path / 'in.avi', 3, rate, 'MJPG', size, cv2.CAP_OPENCV_MJPEG)  # which alone writes odd sizes
    else:
        _clip(tmp_path / 'in.avi', 3, rate, 'XVID', size)
    written = write_video(Bright(), tmp_path / 'in.avi', tmp_path / 'x', EVERYTHING)
    frames, found = _read(written.files[0])
    assert found == pytest.approx(rate, rel=1e-4) and len(frames) == 3
    assert frames[0].shape == tuple(side + side % 2 for side in size) + (3,)
    assert np.array(Image.open(written.files[2] / '000000.png')).shape == size


def test_tiny_frames_are_refused_where_a_video_would_be_written(tmp_path):
    _clip(tmp_path / 'in.avi', 3, 25, 'MJPG', (15, 40), cv2.CAP_OPENCV_MJPEG)
    written = write_video(Bright(), tmp_path / 'in.avi', tmp_path / 'out/x', EVERYTHING)
    assert 'at least 16 x 16' in written.problem and 'got 40 x 15' in written.problem and not _names(tmp_path / 'out')
    written = write_video(Bright(), tmp_path / 'in.avi', tmp_path / 'out/x', Results((), ('json',)))
    assert written.frames == 3 and not written.problem


@pytest.mark.parametrize('rate', [0, float('nan'), -1, 90_000])
def test_a_video_without_a_valid_rate_gets_a_usual_one(rate, monkeypatch):
    class Capture:
        def __init__(self, path):
            assert path == '/in.mp4'

        def isOpened(self):
            return True

        def get(self, name):
            return rate

    monkeypatch.setattr(videos.cv2, 'VideoCapture', Capture)
    reader = VideoReader('/in.mp4')
    assert reader.rate == 25 and reader.count == (90_000 if rate == 90_000 else 0)


def _half(path, **options):
    _clip(path, 40, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _sound(path):
    with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, 8000, 0, 'NONE', 'not compressed'))
        file.writeframes(bytes(16000))


BROKEN = {  # -> (how the file is made, suffix, message)
    'an empty file': (lambda path: path.write_bytes(b''), '.mp4', 'an empty file'),
    'text': (lambda path: path.write_text('no video'), '.avi', "text file that begins with 'no video'"),
    'HTML': (lambda path: path.write_text('<!doctype html><html>'), '.webm', 'a page of HTML'),
    'random bytes': (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), '.mkv', 'cannot be read as a video'),
    'a git-lfs pointer': (lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\n'), '.mp4', 'git lfs pull'),
    'sound without images': (_sound, '.mp4', 'a WAV audio file, without images'),
    'a link to a missing file': (lambda path: path.symlink_to('nowhere.mp4'), '.mp4', 'a link to a missing file'),
    'half of an mp4': (_half, '.mp4', 'an MP4 or MOV file, without images that OpenCV can decode, or damaged.*ffmpeg -i'),
    'half of an avi': (lambda path: _half(path, codec='MJPG'), '.avi', r'truncated: it ends after \d+ of 40 frames.*ffmpeg -i'),
    'half of an mkv': (_half, '.mkv', r'truncated: it ends after \d+ of 40 frames.*ffmpeg -i'),
    'no frames': (lambda path: _clip(path, 0, codec='MJPG'), '.avi', r'video\.avi.*ffmpeg -i'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_videos_are_a_sentence_with_the_name_of_the_file(tmp_path, case):
    make, suffix, message = BROKEN[case]
    path = tmp_path / f'video{suffix}'
    make(path)
    written = write_video(Bright(), path, tmp_path / 'out/video', EVERYTHING)
    assert not written.files
    with pytest.raises(InputError, match=message):
        raise InputError(written.problem)
    assert str(path) in written.problem
    assert not (tmp_path / 'out').exists() or not _names(tmp_path / 'out')


def test_opencv_and_ffmpeg_print_nothing_about_broken_videos(tmp_path):
    for case, (make, suffix, _) in BROKEN.items():
        make(tmp_path / f'{case}{suffix}')
    code = """
import sys
import mmfreq
from mmfreq.analysis.videos import VideoReader
from mmfreq.errors import InputError
for path in sys.argv[1:]:
    try:
        list(VideoReader(path))
    except InputError:
        print('refused')
"""
    done = subprocess.run([sys.executable, '-c', code, *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=True)
    assert done.stdout.count('refused') == len(BROKEN) and done.stderr == ''


def test_frames_of_several_sizes_are_refused(tmp_path, monkeypatch):
    _clip(tmp_path / 'in.mp4')
    read, numbers = VideoReader._read, iter(range(100))
    monkeypatch.setattr(VideoReader, '_read', lambda self: read(self)[: 48 if next(numbers) < 4 else 40])
    written = write_video(Bright(), tmp_path / 'in.mp4', tmp_path / 'out/in', EVERYTHING)
    assert '64 x 48, and from frame 4 on 64 x 40' in written.problem and not _names(tmp_path / 'out')


FAILURES = {  # -> (error of the model, what is raised, message)
    'the model rejects a frame': (ValueError('too small'), None, r'in\.mp4, frame \d, 64 x 48 pixels: too small'),
    'the model fails': (RuntimeError('mismatch'), PredictionError, r'in\.mp4, frame \d, 64 x 48 pixels: mismatch'),
    'Ctrl-C': (KeyboardInterrupt('Ctrl-C'), KeyboardInterrupt, 'Ctrl-C'),
}


@pytest.mark.parametrize('case', FAILURES)
@pytest.mark.parametrize('batch_size', [1, 3])
def test_nothing_of_an_incomplete_video_gets_a_name(tmp_path, case, batch_size):
    _clip(tmp_path / 'in.mp4')
    write_video(Bright(), tmp_path / 'in.mp4', tmp_path / 'out/in', EVERYTHING)
    before = {path: path.read_bytes() for path in sorted((tmp_path / 'out').rglob('*')) if path.is_file()}
    error, raised, message = FAILURES[case]

    def run():
        return write_video(Failing(error), tmp_path / 'in.mp4', tmp_path / 'out/in', EVERYTHING, batch_size)

    with pytest.raises(raised or InputError, match=message):
        raise InputError(run().problem)
    after = {path: path.read_bytes() for path in sorted((tmp_path / 'out').rglob('*')) if path.is_file()}
    assert after == before and len(before) == 14  # results of the earlier run


def test_a_video_that_was_not_written_completely_is_an_error(tmp_path):
    file = VideoFile(tmp_path / 'x.mp4', 25, SIZE)
    file.write(np.zeros((*SIZE, 3), np.uint8))
    file._count += 1  # a frame that did not reach the disk
    with pytest.raises(UserError, match=r'x\.mp4 is incomplete: 1 of 2 frames.*free disk space'):
        file.finish()
    assert not _names(tmp_path)


CODECS = {
    'unknown': ('XXXX', r'^This build of OpenCV cannot write videos with the codec XXXX\. Use --codec mp4v or MJPG\.$'),
    'not for this container': ('HFYU', 'cannot write videos with the codec HFYU'),
    'a name': ('mpeg4', r"four characters, for example mp4v or MJPG; got 'mpeg4'"),
    'three characters': ('mp4', "got 'mp4'"),
    'other characters': ('\u00e9\u00e9\u00e9\u00e9', 'Change --codec'),
}


@pytest.mark.parametrize('case', CODECS)
def test_a_codec_that_cannot_be_written_is_refused(case):
    codec, message = CODECS[case]
    with pytest.raises(UserError, match=message):
        check_codec(codec)


@pytest.mark.parametrize('codec', ['mp4v', 'MJPG'])
def test_documented_codecs_are_written(codec):
    check_codec(codec)
    assert video_suffix(codec) == {'mp4v': '.mp4', 'MJPG': '.avi'}[codec]
