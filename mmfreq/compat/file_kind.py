"""What a file really is, whatever its name: for messages about one that is not what it should be."""

import os
from pathlib import Path

HEAD = 4096  # bytes read
SHOWN = 40  # of a text

LFS = b'version https://git-lfs'
HTML = (b'<!doctype html', b'<html', b'<head', b'<?xml')
STARTS = (
    (b'PK\x03\x04', 'a zip archive'),
    (b'\x89PNG\r\n\x1a\n', 'a PNG picture'),
    (b'\xff\xd8\xff', 'a JPEG picture'),
    (b'GIF8', 'a GIF picture'),
    (b'BM', 'a BMP picture'),
    (b'II*\x00', 'a TIFF picture'),
    (b'MM\x00*', 'a TIFF picture'),
    (b'\x1f\x8b', 'a gzip archive; unpack it first'),
    (b'\xfd7zXZ\x00', 'an xz archive; unpack it first'),
    (b'7z\xbc\xaf\x27\x1c', 'a 7z archive; unpack it first'),
    (b'%PDF', 'a PDF document'),
    (b'\x89HDF', 'an HDF5 file'),
    (b'\x93NUMPY', 'a numpy array file'),
)


def file_kind(path: str | os.PathLike) -> str:
    """A phrase: what is at `path`, by its first bytes; what to do, where that is clear. Never raises."""
    path = Path(path)
    try:
        if path.is_dir():
            return 'a folder'
        with path.open('rb') as file:
            head = file.read(HEAD)
    except PermissionError:
        return 'not readable: permission denied'
    except OSError as error:
        return 'not there' if isinstance(error, FileNotFoundError) else f'not readable: {error.strerror}'
    return kind_of(head)


def printable_path(path: str | os.PathLike) -> str:
    """A path for a message; one with line breaks or undecodable bytes is quoted."""
    return str(path) if str(path).isprintable() else repr(str(path))


def kind_of(head: bytes) -> str:
    """The phrase for a file that begins with `head`."""
    if not head:
        return 'an empty file (0 bytes)'
    if head.startswith(LFS):
        return 'a git-lfs pointer, not the file itself; fetch it with `git lfs pull`'
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith(HTML):
        return 'a page of HTML (a login or error page that was saved in place of the file); download it again in a browser'
    if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
        return 'a WebP picture'
    if head[257:262] == b'ustar':
        return 'a tar archive'
    if head[8:9] == b'{' and 0 < int.from_bytes(head[:8], 'little') < 1 << 30:
        return 'a safetensors file'
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    if head[:1] == b'\x80' and head[1:2] in (b'\x02', b'\x03', b'\x04', b'\x05'):
        return 'a Python pickle'
    text = _text(head)
    return f'a text file that begins with {text!r}' if text else 'of a kind that its first bytes do not tell'


def _text(head: bytes) -> str:
    """The first line of a text, '' if it is none."""
    try:
        text = head.decode('utf-8')
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character cut at the end is no fault
            return ''
        text = head[: error.start].decode('utf-8')
    line = text.strip().partition('\n')[0][:SHOWN]
    return line if line and line.isprintable() and all(c.isprintable() or c in '\r\n\t' for c in text) else ''
