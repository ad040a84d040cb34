"""Weights behind an address: downloaded once, whole and checked, or an error that says where else they are.

They lie where torch.hub keeps its own, under the name that torch.hub would give them, so that either finds the other's.
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

TIMEOUT = 60  # seconds in which a server must send something
HASHED_NAMES = {'download.openmmlab.com', 'download.pytorch.org'}  # hosts whose files are named after their sha256
HASHED = re.compile(r'-([0-9a-f]{8,64})\.pth$')


class DownloadError(CheckpointError):
    """No file, or another one, came from an address."""


def is_address(source: object) -> bool:
    return re.match('https?://', str(source)) is not None


def local_file(source: str | os.PathLike) -> str | os.PathLike:
    """A path as it is, and for an http(s) address that of its file here; see `fetch`."""
    return fetch(str(source)) if is_address(source) else source


def fetch(url: str) -> Path:
    """The file behind an address, in torch.hub's folder `checkpoints`.

    Its sha256 is compared where the zoo or the file's name states it, also of a file that was there; of another one it is only
    known that it can be read to its end. The file gets its name when it is whole and checked. Of several processes one downloads.

    Raises:
        DownloadError: no answer, no checkpoint, or another sha256; names mirrors, and how to give a file. No file that was there is
            touched.
    """
    known = next((each for each in ZOO if url in (each.url, *each.mirrors)), None)
    expected = stated_hash(url, known)
    path = Path(torch.hub.get_dir()) / 'checkpoints' / cached_name(url, known)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{path}.lock'):
        if path.exists():
            check_hash(path, expected, url, 'Move it away to have it downloaded again')
            return path
        begun = path.with_name(f'.{path.name}.download')
        for left in path.parent.glob(f'{glob.escape(begun.name)}*'):  # by a process that was killed; nobody else is here
            left.unlink()
        try:
            download(url, begun)
            check_content(begun, expected, url)
            os.replace(begun, path)
        except DownloadError as error:
            raise DownloadError(f'{error}{elsewhere(url, known, path)}') from error
        finally:
            begun.unlink(missing_ok=True)
    return path


def stated_hash(url: str, known: Weights | None) -> str:
    """The sha256 of the file, or how it begins; '' where nothing states it."""
    for stated in (known.sha256, known.sha256_prefix) if known else ():
        if stated != UNKNOWN:
            return stated
    named = HASHED.search(urlsplit(url).path)
    return named[1] if named and urlsplit(url).hostname in HASHED_NAMES else ''


def cached_name(url: str, known: Weights | None) -> str:
    """The last part of the address; where that is no file's name (shares), one that cannot be another file's."""
    name = Path(urlsplit(url).path).name
    if Path(name).suffix in ('.pth', '.pt', '.tar', '.bin', '.ckpt') and not url.partition('?')[2]:
        return name
    what = f'{known.arch}_{known.task}' if known else urlsplit(url).hostname
    return f'{what}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.pth'


def download(url: str, path: Path) -> None:
    print(f'downloading {url} to {path.parent}', file=sys.stderr)
    try:
        with answer_within(TIMEOUT):
            torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, HTTPException, ValueError) as error:  # among them urllib's errors and timeouts
        raise DownloadError(f'{url} could not be downloaded: {str(error) or type(error).__name__}.') from error


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """torch.hub has no timeout of its own, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def check_content(path: Path, expected: str, url: str) -> None:
    """Raise DownloadError unless the file is what was meant or, where no sha256 is known, can be read safely."""
    kind = describe_file(path)
    if 'HTML' in kind or 'empty' in kind:
        raise DownloadError(f'{url} could not be downloaded: what came is {kind}.')
    if expected:
        check_hash(path, expected, url, 'It was not kept')
        return
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        raise DownloadError(f'what came from {url} is no checkpoint, and was not kept: {error}') from error


def check_hash(path: Path, expected: str, url: str, remedy: str) -> None:
    if not expected:
        return
    got = sha256_of(path)
    if not got.startswith(expected):
        raise DownloadError(
            f'{path} is not the file that was published at {url}: expected the sha256 {expected}{"..." * (len(expected) < 64)}, '
            f'got {got}. {remedy}.'
        )


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def elsewhere(url: str, known: Weights | None, path: Path) -> str:
    """What else to try, as sentences."""
    others = [each for each in (known.url, *known.mirrors) if each not in (url, UNKNOWN)] if known else []
    others += [known.repository] if known else []
    said = f' Other places: {", ".join(others)}.' if others else ''
    return (
        f'{said} Once you have the file: give its path in place of the address (load_weights(model, FILE), load_from=FILE, '
        f'init_cfg.checkpoint=FILE), or save it as {path}.'
    )
