"""What the first and the last bytes of a picture file say of it. Nothing is decoded, except where they leave a doubt."""

from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from PIL import Image

HEAD = 512  # bytes: an EXIF block begins here in what cameras write
ORIENTATION = 274  # the EXIF tag
PNG = b'\x89PNG\r\n\x1a\n'
BITS_AT = 24  # of a PNG's channels


@dataclass(frozen=True)
class ImageHeader:
    """kind: 'jpeg', 'png', 'tiff' or ''. bits: of a PNG's channel, else 8. exif: there is such a block.
    ended: a JPEG ends with its end-of-image marker; True for the other kinds, where decoders notice a missing end themselves."""

    kind: str
    bits: int = 8
    exif: bool = False
    ended: bool = True


def read_header(path: str) -> ImageHeader:
    """The header of a local file. Raises OSError."""
    with open(path, 'rb', buffering=0) as file:
        head = file.read(HEAD)
        if head.startswith(b'\xff\xd8'):
            file.seek(-2, 2)
            return ImageHeader('jpeg', exif=b'Exif' in head, ended=file.read() == b'\xff\xd9')
    if head.startswith(PNG) and len(head) > BITS_AT:
        return ImageHeader('png', bits=head[BITS_AT], exif=b'eXIf' in head)
    return ImageHeader('tiff' if head[:4] in (b'II*\x00', b'MM\x00*') else '')


@lru_cache(maxsize=100_000)  # a data set whose files all have bytes behind their end is decoded twice once, not in every epoch
def decoding_fault(path: str) -> str:
    """What Pillow says when it decodes the whole picture; '' if nothing.

    OpenCV 4 hands out a truncated JPEG as a picture that is black from there on.
    """
    return fault_of(path)


def fault_of(file: str | IO[bytes]) -> str:
    """The same, of a path or an open file, each time anew."""
    try:
        with Image.open(file) as picture:
            picture.load()
    except Exception as error:  # whatever a plug-in of Pillow makes of broken bytes
        return str(error)
    return ''


def orientation(path: str) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where none is stated."""
    with Image.open(path) as picture:
        return picture.getexif().get(ORIENTATION, 1)


def size_of(path: str) -> tuple[int, int]:
    """(width, height) by the header; (0, 0) of what is no picture."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # as in `decoding_fault`
        return 0, 0


def extreme(path: str) -> tuple[str, float]:
    """Pillow's mode of a picture, and its largest value; decodes it."""
    with Image.open(path) as picture:
        low_high = picture.getextrema()
        return picture.mode, low_high[1] if not isinstance(low_high[0], tuple) else max(high for _, high in low_high)
