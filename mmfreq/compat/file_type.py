"""What a file contains, whatever its name, for error messages about an unexpected one."""

import os
from pathlib import Path

BYTES_READ = 4096
CHARACTERS_SHOWN = 40

LFS = b'version https://git-lfs'
HTML = (b'<!doctype html', b'<html', b'<head', b'<?xml')
SIGNATURES = (
    (b'PK\x03\x04', 'a zip archive'),
    (b'\x89PNG\r\n\x1a\n', 'a PNG image'),
    (b'\xff\xd8\xff', 'a JPEG image'),
    (b'GIF8', 'a GIF image'),
    (b'BM', 'a BMP image'),
    (b'II*\x00', 'a TIFF image'),
    (b'MM\x00*', 'a TIFF image'),
    (b'\x1f\x8b', 'a gzip archive; unpack it first'),
    (b'\xfd7zXZ\x00', 'an xz archive; unpack it first'),
    (b'7z\xbc\xaf\x27\x1c', 'a 7z archive; unpack it first'),
    (b'\x1a\x45\xdf\xa3', 'a Matroska or WebM file'),
    (b'ID3', 'an MP3 audio file'),
    (b'%PDF', 'a PDF document'),
    (b'\x89HDF', 'an HDF5 file'),
    (b'\x93NUMPY', 'a numpy array file'),
)
RIFF = {b'WEBP': 'a WebP image', b'AVI ': 'an AVI video', b'WAVE': 'a WAV audio file'}


def describe_file(path: str | os.PathLike) -> str:
    """A phrase for messages: the type of the file by its first bytes, and a remedy where one is known. Never raises."""
    path = Path(path)
    try:
        if path.is_dir():
            return 'a folder'
        with path.open('rb') as file:
            head = file.read(BYTES_READ)
    except PermissionError:
        return 'not readable: permission denied'
    except FileNotFoundError:
        return 'a link to a missing file' if path.is_symlink() else 'missing'
    except OSError as error:
        return f'not readable: {error.strerror}'
    return describe_bytes(head)


def describe_bytes(head: bytes) -> str:
    """The phrase for a file that begins with `head`."""
    if not head:
        return 'an empty file (0 bytes)'
    if head.startswith(LFS):
        return 'a git-lfs pointer, not the file itself; fetch it with `git lfs pull`'
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith(HTML):
        return 'a page of HTML (a login or error page that was saved in place of the file); download it again in a browser'
    if head[:4] == b'RIFF' and head[8:12] in RIFF:
        return RIFF[head[8:12]]
    if head[4:8] == b'ftyp':
        return 'an MP4 or MOV file'
    if head[257:262] == b'ustar':
        return 'a tar archive'
    if head[8:9] == b'{' and 0 < int.from_bytes(head[:8], 'little') < 1 << 30:
        return 'a safetensors file'
    for signature, description in SIGNATURES:
        if head.startswith(signature):
            return description
    if head[:1] == b'\x80' and head[1:2] in (b'\x02', b'\x03', b'\x04', b'\x05'):
        return 'a Python pickle'
    line = _first_line(head)
    return f'a text file that begins with {line!r}' if line else 'of a type that its first bytes do not show'


def _first_line(head: bytes) -> str:
    """The first line of a text; '' if the bytes are not a text."""
    try:
        text = head.decode('utf-8')
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character that is cut at the end is not an error
            return ''
        text = head[: error.start].decode('utf-8')
    line = text.strip().partition('\n')[0][:CHARACTERS_SHOWN]
    return line if line and line.isprintable() and all(c.isprintable() or c in '\r\n\t' for c in text) else ''


def printable_path(path: str | os.PathLike) -> str:
    """A path for a message; one with line breaks or undecodable bytes is quoted."""
    return str(path) if str(path).isprintable() else repr(str(path))
