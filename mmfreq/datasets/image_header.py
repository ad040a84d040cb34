"""The format, size and faults of image files, read from their first and last bytes; decoded only where a function states it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

HEAD = 512  # bytes; in the files of cameras an EXIF block begins within these
ORIENTATION = 274  # EXIF tag
PNG = b'\x89PNG\r\n\x1a\n'
TIFF = (b'II*\x00', b'MM\x00*')
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_BANDS = 256, 257, 258, 277  # tags
PNG_END = 12  # bytes of the last block
BITS_AT = 24  # offset of the bits per channel in a PNG


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file.

    Attributes:
        format: 'jpeg', 'png', 'tiff' or ''.
        bits: per channel of a PNG; 8 for other formats.
        exif: whether there is an EXIF block.
        complete: whether a JPEG ends with its end-of-image marker; True for other formats, whose decoders find a missing end.
    """

    format: str
    bits: int = 8
    exif: bool = False
    complete: bool = True


def read_header(path: str) -> ImageHeader:
    """The header of a local file. Raises OSError."""
    with open(path, 'rb', buffering=0) as file:
        head = file.read(HEAD)
        if head.startswith(b'\xff\xd8'):
            file.seek(-2, 2)
            return ImageHeader('jpeg', exif=b'Exif' in head, complete=file.read() == b'\xff\xd9')
    if head.startswith(PNG) and len(head) > BITS_AT:
        return ImageHeader('png', bits=head[BITS_AT], exif=b'eXIf' in head)
    return ImageHeader('tiff' if head[:4] in TIFF else '')


@lru_cache(maxsize=100_000)  # a file with extra bytes after its end looks truncated: it is decoded twice once, not in every epoch
def decoding_fault(path: str) -> str:
    """`fault_of` a path, computed once. OpenCV 4 returns a truncated JPEG as an image with a black rest."""
    return fault_of(path)


def fault_of(file: str | IO[bytes]) -> str:
    """Pillow's error when it decodes the whole image of a path or an open file; '' if there is none."""
    try:
        with Image.open(file) as image:
            image.load()
    except Exception as error:  # plug-ins of Pillow raise all types for broken bytes
        return str(error)
    return ''


def orientation(path: str) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if there is none."""
    with Image.open(path) as image:
        return image.getexif().get(ORIENTATION, 1)


def image_size(path: str) -> tuple[int, int]:
    """(width, height) in the header; (0, 0) if the file is not an image."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # as in `fault_of`
        return 0, 0


def max_value(path: str) -> tuple[str, float]:
    """Pillow's mode of an image and its largest value; decodes it."""
    with Image.open(path) as image:
        extrema = image.getextrema()
        return image.mode, extrema[1] if not isinstance(extrema[0], tuple) else max(high for _, high in extrema)


def tiff_shape(file: IO[bytes]) -> tuple[int, int, int]:
    """(height, width, bands) in the header of a TIFF file, whose pixels Pillow may not be able to read; zeros for other files."""
    try:
        tags = _tiff_tags(file)
        return int(tags[TIFF_HEIGHT]), int(tags[TIFF_WIDTH]), int(tags.get(TIFF_BANDS, 1))
    except Exception:  # as in `fault_of`
        return 0, 0, 0


def sample_bits(path: str) -> int:
    """The bits per sample in the header of a TIFF file; 0 for other files."""
    try:
        with open(path, 'rb') as file:
            return int(_tiff_tags(file)[TIFF_BITS][0])
    except Exception:  # as in `fault_of`
        return 0


def _tiff_tags(file: IO[bytes]) -> ImageFileDirectory_v2:
    """The tags of a TIFF file; other files raise errors of all types."""
    start = file.read(8)
    if start[:4] not in TIFF:
        raise ValueError('not a TIFF file')
    tags = ImageFileDirectory_v2(start)
    file.seek(tags.next)
    tags.load(file)
    return tags


def is_truncated(path: str) -> bool:
    """Whether an image file that cannot be decoded lacks its end."""
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError:
        return False
    if content.startswith(b'\xff\xd8'):
        return not content.endswith(b'\xff\xd9')
    if content.startswith(PNG):
        return b'IEND' not in content[-PNG_END:]
    if content[:2] == b'BM' or content[:4] == b'RIFF':
        at, extra = (2, 0) if content[:2] == b'BM' else (4, 8)  # where the header states the size
        return len(content) < int.from_bytes(content[at : at + 4], 'little') + extra
    return 'truncated' in fault_of(path)  # in Pillow's words


def channel_count(path: str) -> int:
    """The channels of an image file, by its header; 0 if the file is not an image."""
    try:
        with open(path, 'rb') as file:
            bands = tiff_shape(file)[2]
        if bands:
            return bands
        with Image.open(path) as image:
            return len(image.getbands())
    except Exception:  # as in `fault_of`
        return 0
