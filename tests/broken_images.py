"""Broken and unusual images and label maps, generated."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 64)  # (H, W), not square, so that a rotated image has another size
ORIENTATION = 274


def pixels(size=SIZE):
    """(H, W, 3) uint8, smooth."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)


def ids(size=SIZE):
    """(H, W) uint8, 1..6: the toy classes before `reduce_zero_label`."""
    return np.random.default_rng(1).integers(1, 7, size, np.uint8)


def encode(array, suffix='.png'):
    return cv2.imencode(suffix, array)[1].tobytes()


def by_pillow(array, format='PNG', mode=None, **options):
    """An RGB or gray array written by Pillow, converted to `mode` first."""
    image = Image.fromarray(array)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, format, **options)
    return out.getvalue()


def turned(orientation, size=SIZE):
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return by_pillow(pixels(size), 'JPEG', exif=exif)


def animation(format):
    """Two frames: the image and its negative."""
    return by_pillow(pixels(), format, save_all=True, append_images=[Image.fromarray(255 - pixels())])


def huge_png(side, channels=3):
    """A PNG of some 70 bytes whose header states side x side pixels."""

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = struct.pack('>IIBBBBB', side, side, 8, 2 if channels == 3 else 0, 0, 0, 0)
    content = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + content


def flipped(data, share=0.5):
    """The same bytes with one bit changed."""
    out = bytearray(data)
    out[int(len(data) * share)] ^= 0x10
    return bytes(out)


def truncated(data, share=0.5):
    return data[: int(len(data) * share)]


HTML = b'<!DOCTYPE html>\n<html><body>Please log in</body></html>'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n'

# name -> (bytes, regular expression for the error)
UNREADABLE = {
    'empty file': (b'', 'an empty file'),
    'text': (b'a note, no image\n', "a text file that begins with 'a note"),
    'HTML page': (HTML, 'a page of HTML'),
    'git-lfs pointer': (POINTER, 'git lfs pull'),
    'truncated JPEG': (truncated(encode(pixels(), '.jpg')), 'JPEG image, damaged|truncated'),
    'JPEG without its last bytes': (encode(pixels(), '.jpg')[:-2], 'JPEG image, damaged|truncated'),
    'only the head of a JPEG': (encode(pixels(), '.jpg')[:200], 'JPEG image, damaged'),
    'truncated PNG': (truncated(encode(pixels())), 'PNG image, damaged'),
    'PNG without its end': (encode(pixels())[:-12], 'PNG image, damaged'),
    'PNG with a flipped bit': (flipped(encode(pixels())), 'PNG image, damaged'),
    'truncated BMP': (truncated(encode(pixels(), '.bmp')), 'BMP image, damaged'),
    'truncated WebP': (truncated(by_pillow(pixels(), 'WEBP')), 'WebP image, damaged'),
    'truncated TIFF': (truncated(by_pillow(pixels(), 'TIFF')), 'TIFF image, damaged'),
    'TIFF of real numbers': (by_pillow(np.float32(pixels()[..., 0]) / 255, 'TIFF'), 'TIFF image, damaged or of a format'),
    'header of 60000 x 60000': (huge_png(60000), 'PNG image, damaged'),
}
# name -> bytes
READABLE = {
    'gray': encode(pixels()[..., 0]),
    'gray with alpha': by_pillow(pixels(), mode='LA'),
    'RGBA': by_pillow(pixels(), mode='RGBA'),
    'CMYK JPEG': by_pillow(pixels(), 'JPEG', mode='CMYK'),
    'palette': by_pillow(pixels(), mode='P'),
    '16 bits': encode(pixels().astype(np.uint16) * 256),
    'gray of 16 bits': encode(pixels()[..., 0].astype(np.uint16) * 256),
    'BMP': encode(pixels(), '.bmp'),
    'WebP': by_pillow(pixels(), 'WEBP'),
    'TIFF': by_pillow(pixels(), 'TIFF'),
    'JPEG with bytes after its end': encode(pixels(), '.jpg') + bytes(64),
    'turned upside down by EXIF': turned(3),
}
# OpenCV 4.11 and later read the first frame; older versions fail
ANIMATIONS = {'animated GIF': animation('GIF'), 'animated WebP': animation('WEBP')}
