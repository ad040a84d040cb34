"""Predictions for videos: frames are read, predicted, drawn and written one batch after the other.

Videos are read and written by OpenCV, which drops sound. Results get their final names when they are complete.
"""

import json
import math
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from mmfreq.analysis.results import Written, draw, make_folder, predict_each, report_of, save_label_map, writing
from mmfreq.compat.file_type import describe_file, printable_path
from mmfreq.errors import InputError, UserError

CODEC = 'mp4v'  # MPEG-4, which each build of OpenCV with FFmpeg writes; MJPG needs no FFmpeg
IN_AVI = ('MJPG', 'XVID', 'DIVX')  # other codecs are written to .mp4
SMALLEST = 16  # pixels of a side: with smaller ones, OpenCV 5 writes outside of its memory
UNKNOWN_RATE = 25.0  # frames per second, if the file has none
HIGHEST_RATE = 1000.0  # files with more state the ticks of a clock
COUNTED = ('.3gp', '.avi', '.m4v', '.mov', '.mp4')  # contain their number of frames; for others OpenCV estimates it
CONTAINERS = ('MOV file', 'WebM file', 'AVI video')  # how `describe_file` names files that may hold a video
CONVERT = 'Convert it, for example by: ffmpeg -i INPUT OUTPUT.mp4'


@contextmanager
def _quiet_opencv():
    """No messages of OpenCV and FFmpeg on stderr: errors are raised with the name of the file."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # read by OpenCV at its first video
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class VideoReader:
    """The frames of a video file, in order; iterate once.

    Attributes:
        rate: frames per second, constant; `UNKNOWN_RATE` if the file has none.
        count: number of frames as in the file's header, 0 if unknown.

    Raises:
        InputError: OpenCV cannot open the file; while frames are read: there are none, they end too early, or their size changes.
    """

    def __init__(self, path):
        self.path = Path(path)
        with _quiet_opencv():
            self._capture = cv2.VideoCapture(os.path.abspath(path))
        if not self._capture.isOpened():
            kind = describe_file(path)
            remedy = f'. {CONVERT}' if kind.endswith(CONTAINERS) else ''
            self._refuse(f'cannot be read as a video: it is {kind}, without images that OpenCV can decode, or damaged{remedy}')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= HIGHEST_RATE else UNKNOWN_RATE  # also if it is NaN
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if math.isfinite(count) and 0 < count < 2**40 else 0

    def __iter__(self):
        """Frames (H, W, 3) uint8 BGR, upright."""
        shape, number = None, 0
        while (frame := self._read()) is not None:
            shape = shape or frame.shape
            if frame.shape != shape:
                first, this = (f'{shape[1]} x {shape[0]}', f'{frame.shape[1]} x {frame.shape[0]}')
                self._refuse(f'has frames of several sizes: {first}, and from frame {number} on {this} pixels. Split it there')
            yield frame
            number += 1
        if not number:
            self._refuse(f'has no frames that OpenCV can decode. {CONVERT}')
        missing = max(2, self.count // (100 if self.path.suffix.lower() in COUNTED else 10))
        if number < self.count - missing:
            self._refuse(f'is damaged or truncated: it ends after {number} of {self.count} frames. {CONVERT}')

    def _read(self):
        with _quiet_opencv():
            return self._capture.read()[1]

    def _refuse(self, fact):
        raise InputError(f'{printable_path(self.path)} {fact}.')

    def close(self):
        self._capture.release()


class VideoFile:
    """A video file that gets its name when it is finished. Sides that are odd are padded by a pixel, as codecs need even ones.

    Raises:
        InputError: the frames are too small.
        UserError: OpenCV cannot write such a file, or it could not be written completely.
    """

    def __init__(self, path, rate, size, codec=CODEC):
        if min(size) < SMALLEST:
            raise InputError(
                f'Expected frames of at least {SMALLEST} x {SMALLEST} pixels for {path}, got {size[1]} x {size[0]}. '
                'Use --save json, which writes no video.'
            )
        self.path, self._part = path, path.with_name(f'.part-{path.name}')
        self._padding = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        self._codec, self._count = codec, 0
        height, width = (side + side % 2 for side in size)
        with _quiet_opencv():
            self._writer = cv2.VideoWriter(os.path.abspath(self._part), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
        if not self._writer.isOpened():
            self.discard()
            raise UserError(
                f'This build of OpenCV cannot write {path.name} with the codec {codec} '
                f'({width} x {height} pixels, {rate:g} frames per second). Use --codec mp4v or, without FFmpeg, --codec MJPG.'
            )

    def write(self, frame):
        """Append a frame (H, W, 3) uint8 RGB."""
        self._writer.write(np.pad(frame, self._padding, mode='edge')[..., ::-1])
        self._count += 1

    def finish(self):
        """Give the file its name; returns the path."""
        self._writer.release()
        with _quiet_opencv():
            written = int(cv2.VideoCapture(os.path.abspath(self._part)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != self._count:
            self.discard()
            raise UserError(
                f'{self.path} is incomplete: {written} of {self._count} frames were written. Check the free disk space.'
            )
        os.replace(self._part, self.path)
        return self.path

    def discard(self):
        self._writer.release()
        self._part.unlink(missing_ok=True)


def video_suffix(codec):
    """The suffix of files with a codec. Raises UserError for one that is not four ASCII characters."""
    if len(codec) != 4 or not codec.isascii():
        raise UserError(f'A codec has four characters, for example mp4v or MJPG; got {codec!r}. Change --codec.')
    return '.avi' if codec.upper() in IN_AVI else '.mp4'


def check_codec(codec):
    """Raise a UserError if OpenCV cannot write videos with it."""
    suffix = video_suffix(codec)
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = VideoFile(Path(folder) / f'video{suffix}', UNKNOWN_RATE, (64, 64), codec)
            file.write(np.zeros((64, 64, 3), np.uint8))
            file.finish()
        except UserError as error:
            raise UserError(
                f'This build of OpenCV cannot write videos with the codec {codec}. Use --codec mp4v or MJPG.'
            ) from error


def write_video(predictor, path, target, results, batch_size=1, codec=CODEC, progress=None):
    """Predict for each frame, and write the results of the whole video; returns a `Written`.

    `TARGET_overlay.mp4` or `.avi` has the frame rate and size of the video; `TARGET.jsonl` a JSON object per frame with its number
    and its seconds; `TARGET_frames/000000.png` label maps. Of a video that cannot be read to its end nothing is kept.

    Args:
        progress: called with the numbers of frames that are done and that there are (0: unknown) after each batch.
    """
    outputs = None
    try:
        reader = VideoReader(path)
    except InputError as error:
        return Written(path, problem=str(error))
    try:
        outputs = _Outputs(predictor, target, results, reader.rate, codec)
        frames = iter(reader)
        while batch := list(islice(frames, batch_size)):
            for frame, prediction in zip(batch, _predictions(predictor, batch, path, outputs.count)):
                outputs.add(np.ascontiguousarray(frame[..., ::-1]), prediction)
            if progress:
                progress(outputs.count, reader.count)
        return Written(path, outputs.finish(), frames=outputs.count)
    except InputError as error:
        return Written(path, problem=str(error))
    finally:
        reader.close()
        if outputs:
            outputs.discard()


def _predictions(predictor, batch, path, start):
    size = f'{batch[0].shape[1]} x {batch[0].shape[0]} pixels'
    names = [f'{printable_path(path)}, frame {start + number}, {size}' for number in range(len(batch))]
    try:
        images = [predictor.read.of_color_image(frame) for frame in batch]
    except ValueError as error:  # the model takes neither color nor gray images
        raise InputError(f'{names[0]}: {error}') from error
    predictions = predict_each(predictor, images, names)
    for name, prediction in zip(names, predictions):
        if isinstance(prediction, ValueError):
            raise InputError(f'{name}: {prediction}') from prediction
    return predictions


class _Outputs:
    """The results of a video under temporary names."""

    def __init__(self, predictor, target, results, rate, codec):
        self.predictor, self.target, self.results, self.rate, self.codec = predictor, target, results, rate, codec
        self.count, self._video, self._lines = 0, None, None
        self._lines_part = target.with_name(f'.part-{target.name}.jsonl')
        self._maps_part = target.with_name(f'.part-{target.name}_frames')
        make_folder(target.parent)
        if 'mask' in results.of_video:
            make_folder(self._maps_part)

    def add(self, image, prediction):
        """Write the results of the next frame, an image (H, W, 3) uint8 RGB."""
        if 'overlay' in self.results.of_video:
            if self._video is None:
                path = self.target.with_name(f'{self.target.name}_overlay{video_suffix(self.codec)}')
                self._video = VideoFile(path, self.rate, image.shape[:2], self.codec)
            self._video.write(draw(self.predictor, image, prediction, self.results))
        if 'json' in self.results.of_video:
            fields = {'frame': self.count, 'seconds': round(self.count / self.rate, 4), 'size': list(image.shape[:2])}
            with writing(self._lines_part):
                self._lines = self._lines or self._lines_part.open('w')
                self._lines.write(json.dumps(fields | report_of(self.predictor, prediction)) + '\n')
        if 'mask' in self.results.of_video:
            save_label_map(prediction, self.predictor.palette, self._maps_part / f'{self.count:06}.png')
        self.count += 1

    def finish(self):
        """Give the results their names; returns their paths."""
        files = []
        if self._video:
            files.append(self._video.finish())
        if self._lines:
            with writing(self._lines_part):
                self._lines.close()
            files.append(self.target.with_name(f'{self.target.name}.jsonl'))
            os.replace(self._lines_part, files[-1])
        if 'mask' in self.results.of_video:
            files.append(self.target.with_name(f'{self.target.name}_frames'))
            _replace_maps(self._maps_part, files[-1])
        return files

    def discard(self):
        """Remove what is not finished."""
        if self._video:
            self._video.discard()
        if self._lines:
            with suppress(OSError):  # the disk is full
                self._lines.close()
            self._lines_part.unlink(missing_ok=True)
        shutil.rmtree(self._maps_part, ignore_errors=True)


def _replace_maps(part, folder):
    """Move label maps into a folder, in place of those of an earlier run, which may have had more frames."""
    make_folder(folder)
    for old in folder.glob('[0-9]*.png'):
        old.unlink()
    for file in part.iterdir():
        os.replace(file, folder / file.name)
