"""Download weights from a URL: once, completely and verified.

Files are cached in torch.hub's folder, under the names that torch.hub gives them, so both use the same files.
"""

import glob
import hashlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch
from filelock import FileLock

from mmfreq.compat.file_type import describe_file
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.weights.files import UNKNOWN, ZOO, Weights

TIMEOUT = 60  # seconds without data from the server
HASH_HOSTS = {'download.openmmlab.com', 'download.pytorch.org'}  # their file names end with the sha256
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.pth$')


class DownloadError(CheckpointError):
    """A URL gave no file, or another one than expected."""


def is_address(source: object) -> bool:
    return re.match('https?://', str(source)) is not None


def local_file(source: str | os.PathLike) -> str | os.PathLike:
    """A path as it is; for an http(s) URL the path of the downloaded file, see `fetch`."""
    return fetch(str(source)) if is_address(source) else source


def fetch(url: str) -> Path:
    """The file of a URL in torch.hub's folder `checkpoints`; one process at a time downloads it.

    The sha256 is compared where `mmfreq.weights.files` or the file name states it, also for a cached file. Otherwise the file must
    be readable to its end. A partial or wrong download never gets the final name.

    Raises:
        DownloadError: no answer, not a checkpoint, or another sha256. The message names mirrors, and how to use a local file. A
            cached file stays as it is.
    """
    known = next((each for each in ZOO if url in (each.url, *each.mirrors)), None)
    expected = stated_hash(url, known)
    path = Path(torch.hub.get_dir()) / 'checkpoints' / cached_name(url, known)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{path}.lock'):
        if path.exists():
            check_hash(path, expected, url, 'Move it away to download it again')
            return path
        partial = path.with_name(f'.{path.name}.download')
        for stale in path.parent.glob(f'{glob.escape(partial.name)}*'):  # of a killed process: this one has the lock
            stale.unlink()
        try:
            download(url, partial)
            check_content(partial, expected, url)
            os.replace(partial, path)
        except DownloadError as error:
            raise DownloadError(f'{error}{alternatives(url, known, path)}') from error
        finally:
            partial.unlink(missing_ok=True)
    return path


def stated_hash(url: str, known: Weights | None) -> str:
    """The sha256 of the file, or its first digits; '' where it is not stated."""
    for stated in (known.sha256, known.sha256_prefix) if known else ():
        if stated != UNKNOWN:
            return stated
    found = HASH_IN_NAME.search(urlsplit(url).path)
    return found[1] if found and urlsplit(url).hostname in HASH_HOSTS else ''


def cached_name(url: str, known: Weights | None) -> str:
    """The last part of the URL; where that is not a file name (shared links), a unique one."""
    name = Path(urlsplit(url).path).name
    if Path(name).suffix in ('.pth', '.pt', '.tar', '.bin', '.ckpt') and not url.partition('?')[2]:
        return name
    stem = f'{known.arch}_{known.task}' if known else urlsplit(url).hostname
    return f'{stem}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.pth'


def download(url: str, path: Path) -> None:
    print(f'downloading {url} to {path.parent}', file=sys.stderr)
    try:
        with socket_timeout(TIMEOUT):
            torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, HTTPException, ValueError) as error:  # including urllib's errors and timeouts
        raise DownloadError(f'{url} could not be downloaded: {str(error) or type(error).__name__}.') from error


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """A timeout for torch.hub, which sets none and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def check_content(path: Path, expected: str, url: str) -> None:
    """Raise a DownloadError unless the file has the expected sha256 or, where that is not known, can be read safely."""
    found = describe_file(path)
    if 'HTML' in found or 'empty' in found:
        raise DownloadError(f'{url} could not be downloaded: the server sent {found}.')
    if expected:
        check_hash(path, expected, url, 'It was not kept')
        return
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        raise DownloadError(f'The file from {url} is not a checkpoint, and was not kept: {error}') from error


def check_hash(path: Path, expected: str, url: str, remedy: str) -> None:
    found = sha256_of(path) if expected else ''
    if not found.startswith(expected):
        raise DownloadError(
            f'Expected the sha256 {expected}{"..." * (len(expected) < 64)} for the file published at {url}, but {path} has '
            f'{found}. {remedy}.'
        )


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def alternatives(url: str, known: Weights | None, path: Path) -> str:
    """What else to try, as sentences."""
    others = [each for each in (known.url, *known.mirrors, known.repository) if each not in (url, UNKNOWN)] if known else []
    mirrors = f' Other sources: {", ".join(others)}.' if others else ''
    return (
        f'{mirrors} To use a local file, give its path instead of the URL (load_weights(model, FILE), load_from=FILE, '
        f'init_cfg.checkpoint=FILE), or save it as {path}.'
    )
