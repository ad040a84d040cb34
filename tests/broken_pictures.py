"""Pictures and label maps as they come from cameras, broken downloads and other people, made on the spot."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 64)  # (H, W), not square, so that a turned picture is seen
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


def by_pillow(array, kind='PNG', mode=None, **options):
    """An RGB or grey array written by Pillow, first converted to `mode`."""
    picture = Image.fromarray(array)
    out = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(out, kind, **options)
    return out.getvalue()


def turned(orientation, size=SIZE):
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return by_pillow(pixels(size), 'JPEG', exif=exif)


def moving(kind):
    return by_pillow(pixels(), kind, save_all=True, append_images=[Image.fromarray(255 - pixels())])


def huge_png(side, channels=3):
    """A PNG of some 70 bytes whose header announces side x side pixels."""

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

# name -> (bytes, what the error must say)
UNREADABLE = {
    'empty file': (b'', 'an empty file'),
    'text': (b'a note, no picture\n', "a text file that begins with 'a note"),
    'HTML page': (HTML, 'a page of HTML'),
    'git-lfs pointer': (POINTER, 'git lfs pull'),
    'truncated JPEG': (truncated(encode(pixels(), '.jpg')), 'JPEG picture, damaged|truncated'),
    'JPEG without its last bytes': (encode(pixels(), '.jpg')[:-2], 'JPEG picture, damaged|truncated'),
    'only the head of a JPEG': (encode(pixels(), '.jpg')[:200], 'JPEG picture, damaged'),
    'truncated PNG': (truncated(encode(pixels())), 'PNG picture, damaged'),
    'PNG without its end': (encode(pixels())[:-12], 'PNG picture, damaged'),
    'PNG with a flipped bit': (flipped(encode(pixels())), 'PNG picture, damaged'),
    'truncated BMP': (truncated(encode(pixels(), '.bmp')), 'BMP picture, damaged'),
    'truncated WebP': (truncated(by_pillow(pixels(), 'WEBP')), 'WebP picture, damaged'),
    'truncated TIFF': (truncated(by_pillow(pixels(), 'TIFF')), 'TIFF picture, damaged'),
    'TIFF of real numbers': (by_pillow(np.float32(pixels()[..., 0]) / 255, 'TIFF'), 'TIFF picture, damaged or of a form'),
    'header of 60000 x 60000': (huge_png(60000), 'PNG picture, damaged'),
}
# name -> bytes
READABLE = {
    'grey': encode(pixels()[..., 0]),
    'grey with alpha': by_pillow(pixels(), mode='LA'),
    'RGBA': by_pillow(pixels(), mode='RGBA'),
    'CMYK JPEG': by_pillow(pixels(), 'JPEG', mode='CMYK'),
    'palette': by_pillow(pixels(), mode='P'),
    '16 bits': encode(pixels().astype(np.uint16) * 256),
    'grey of 16 bits': encode(pixels()[..., 0].astype(np.uint16) * 256),
    'BMP': encode(pixels(), '.bmp'),
    'WebP': by_pillow(pixels(), 'WEBP'),
    'TIFF': by_pillow(pixels(), 'TIFF'),
    'JPEG with bytes behind its end': encode(pixels(), '.jpg') + bytes(64),
    'turned upside down by EXIF': turned(3),
}
# OpenCV 4.11 and later take the first picture; those before refuse the file by name
MOVING = {'moving GIF': moving('GIF'), 'moving WebP': moving('WEBP')}
