"""Image files as the model of a config gets them: read by the first transform of its test pipeline, whatever their channels.

Legend: H W the size of the image, C its channels.
"""

import os
from functools import cached_property
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from mmengine.registry import TRANSFORMS

from mmfreq.compat.decoders import missing_decoder
from mmfreq.compat.file_type import describe_file, printable_path
from mmfreq.datasets.image_header import channel_count, decoding_fault, is_truncated, read_header, sample_bits
from mmfreq.errors import InputError, UserError

PLAIN = 'LoadImageFromFile'
MULTI_BAND = f"{PLAIN}(imdecode_backend='tifffile', color_type='unchanged')"
COLOR_TYPE = 'test_dataloader.dataset.pipeline.0.color_type'  # in configs
MAX_BANDS = 4  # of files that OpenCV and Pillow read
# transforms that load several files, or none
NOT_ONE_FILE = ('LoadMultipleRSImageFromFile', 'LoadMultiChannelImageFromFiles', 'LoadImageFromNDArray')
REMOTE = ('backend_args', 'file_client_args', 'ignore_empty')  # arguments for the files of a data set, which may be remote


def type_name(step: dict) -> str:
    """The name of a transform's class, without its scope or module."""
    return step['type'].split('.')[-1] if isinstance(step['type'], str) else step['type'].__name__


def loads_an_image(step: dict) -> bool:
    """Whether a transform loads an image from one file: LoadImageFromFile, LoadSingleRSImageFromFile, or one of the user."""
    name = type_name(step)
    return name.startswith('Load') and 'Image' in name and name not in NOT_ONE_FILE


class ImageReader:
    """Reads local image files as a transform of a pipeline does.

    Args:
        step: config of the transform; by default LoadImageFromFile, which gives three channels of 8 bits.
        scope: in which its type is registered.
        channels: of the model.
    """

    def __init__(self, step: dict | None = None, scope: str = 'mmengine', channels: int = 3):
        self.step = {key: value for key, value in (step or {'type': PLAIN}).items() if key not in REMOTE}
        self.scope, self.channels = scope, channels

    @property
    def plain(self) -> bool:
        """Whether the transform is LoadImageFromFile."""
        return type_name(self.step) == PLAIN

    @property
    def bgr(self) -> bool:
        """Whether colors are read in the order blue, green, red. Otherwise channels have the order of the file."""
        return self.plain and self.step.get('imdecode_backend') != 'tifffile'

    @property
    def color(self) -> bool:
        """Whether every file is read as three channels: gray is repeated, alpha dropped."""
        return self.bgr and self.step.get('color_type', 'color').startswith('color')

    @property
    def keeps_values(self) -> bool:
        """Whether values are kept as in the file. Otherwise they are converted to 0..255."""
        return not self.bgr or self.step.get('color_type', 'color') == 'unchanged'

    def __call__(self, path: str | Path) -> np.ndarray:
        """The image in a file, (H, W) or (H, W, C), of the type that the transform gives.

        Raises:
            InputError: the file is not an image that this transform reads.
            UserError: the transform needs a package that is not installed.
        """
        load = self._transform
        try:
            image = load({'img_path': str(path)})['img']
            cut = not read_header(str(path)).complete and decoding_fault(str(path))
        except Exception as error:  # decoders raise all types for broken bytes
            raise InputError(f'{printable_path(path)} cannot be read as an image: {self._reason(path, error)}.') from error
        if cut:  # OpenCV 4 fills the rest of a truncated JPEG with black
            raise InputError(f'{printable_path(path)} cannot be read as an image: {_damage(path, "a JPEG image")}.')
        self._check_shape(image.shape, path)
        return image

    def bands(self, path: str | Path) -> np.ndarray:
        """The image in a file as `(H, W, channels)`: colors as RGB, other channels in the order of the file.

        Raises:
            InputError: as when called, or the image does not have `channels`.
        """
        image = self(path)
        if self.color and self.channels == 1:  # a later transform of the pipeline converts it
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        image = image if image.ndim == 3 else image[..., None]
        check_channels(image.shape[2], self.channels, f'of {printable_path(path)}', self.step)
        return image[..., ::-1] if self.channels == 3 and self.bgr else image

    def of_color_image(self, image: np.ndarray) -> np.ndarray:
        """What reading a file with this image, (H, W, 3) uint8 BGR, would give: for models of gray images a gray one.

        Raises:
            InputError: the model takes neither color nor gray images.
        """
        if not self.color and self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        elif not self.color and self.channels != 3:
            raise InputError(
                f'The image has 3 channels, but the model takes {self.channels}. Give a file with {self.channels} bands.'
            )
        elif not self.bgr:
            image = np.ascontiguousarray(image[..., ::-1])
        return image.astype(np.float32) if self.step.get('to_float32') else image

    def shown(self, image: np.ndarray) -> np.ndarray:
        """An image that was read, as (H, W, 3) uint8 RGB for drawing; see `as_rgb`."""
        rgb = as_rgb(image)
        return np.ascontiguousarray(rgb[..., ::-1]) if self.bgr else rgb

    @cached_property
    def _transform(self):
        if missing := missing_decoder(self.step.get('imdecode_backend')):
            raise UserError(missing)
        try:
            import_module('mmcv.transforms')  # registers LoadImageFromFile
            with TRANSFORMS.switch_scope_and_registry(self.scope) as registry:
                return registry.build(self.step)
        except Exception as error:
            raise UserError(
                f'The test pipeline loads images with {type_name(self.step)}, which cannot be built ({error}). '
                f'Install what it needs, or read multi-band TIFF files with {MULTI_BAND}.'
            ) from error

    def _reason(self, path: str | Path, error: Exception) -> str:
        """What the file is, for an error message."""
        description, channels = describe_file(path), channel_count(str(path))
        others = f'it is {description} with {_channels(channels)}, and the model takes {self.channels}'
        if self.bgr and channels > MAX_BANDS:
            return f'{others}. It is read with {MULTI_BAND}'
        bits, color_type = sample_bits(str(path)), self.step.get('color_type', 'color')
        if self.bgr and bits > 16 and color_type != 'unchanged' and not is_truncated(str(path)):
            return (
                f"it is {description} with {bits} bits per sample, which OpenCV cannot read with color_type='{color_type}'. "
                f"Set color_type='unchanged' or imdecode_backend='tifffile' in {PLAIN} of the test pipeline"
            )
        if self.bgr:
            return _damage(path, description) if description.endswith('image') else f'it is {description}'
        cause = f'({type_name(self.step)}: {type(error).__name__}: {" ".join(str(error).split())})'
        if channels not in (0, self.channels):
            return f'{others}. Give an image with {self.channels} channels {cause}'
        return f'it is {description} {cause}'

    def _check_shape(self, shape: tuple[int, ...], path: str | Path) -> None:
        found = f'{printable_path(path)} has the shape {shape}'
        if len(shape) not in (2, 3):
            raise InputError(f'Expected an image (H, W) or (H, W, C), but {found}. Write one image to a file.')
        if len(shape) == 3 and shape[0] == self.channels > 1 and shape[2] != self.channels:
            raise InputError(
                f'Expected {self.channels} channels in the last dimension, but {found}: its bands come first. '
                "Write the file as (H, W, C); with tifffile: imwrite(..., planarconfig='contig')."
            )


def _channels(count: int) -> str:
    return f'{count} channel{"s" if count > 1 else ""}'


def _damage(path: str | Path, description: str) -> str:
    """What is wrong with an image file of a known type that cannot be decoded."""
    if is_truncated(str(path)):
        return f'it is {description} that is truncated ({os.path.getsize(path)} bytes). Copy or download it again'
    return f'it is {description}, damaged or too large'


def check_channels(found: int, expected: int, name: str, step: dict | None = None) -> None:
    """Raise an InputError unless an image has the channels that the model takes.

    Args:
        name: 'of the image' or 'of FILE'.
        step: config of the transform that loaded it. If it keeps the values of the file, the remedy does, too.
    """
    if found == expected:
        return
    color_type = {1: 'grayscale', 3: 'color'}.get(expected)
    remedy = f'Convert the image, or set {COLOR_TYPE}={color_type}.'
    if step and (type_name(step) != PLAIN or step.get('color_type') == 'unchanged'):
        remedy = f'Give a file with {_channels(expected)}, as in training.'
    elif color_type is None:
        remedy = f'Give an image with {expected} bands; multi-band TIFF files are read with {MULTI_BAND} in the test pipeline.'
    raise InputError(
        f'The number of channels {name} is {found}, but the model takes {expected} (in_channels of its backbone). {remedy}'
    )


def as_rgb(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, C) as (H, W, 3) uint8 for drawing.

    Gray is repeated. Of more than three channels the first three are shown, of two the first. Channels of images with more than
    three channels, or of values other than whole numbers in 0..255, are each scaled from their own range to 0..255.
    """
    image = image if image.ndim == 3 else image[..., None]
    bands = image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]]
    if image.shape[2] > 3 or not _is_8_bit(bands):
        bands = np.dstack([_scaled(bands[..., channel]) for channel in range(3)])
    return np.ascontiguousarray(bands, np.uint8)


def _is_8_bit(image: np.ndarray) -> bool:
    """Whether all values are whole numbers in 0..255, in a type that a loader gives to 8-bit images."""
    if image.dtype == np.uint8:
        return True
    finite = np.issubdtype(image.dtype, np.floating) and np.isfinite(image).all()
    return bool(finite and image.min() >= 0 and image.max() <= 255 and (image == np.floor(image)).all())


def _scaled(band: np.ndarray) -> np.ndarray:
    """(H, W) of any numbers as uint8, from the smallest finite value to the largest; others are black."""
    values = band.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=low, neginf=low) - low) / ((high - low) or 1.0)
    return (255 * scaled).round().astype(np.uint8)
