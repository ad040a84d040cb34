"""Which local file a source of weights is: paths, names of published files, URLs and repositories of the Hugging Face Hub.

| source | file |
|---|---|
| a path | itself; of a folder, the `model.safetensors` in it |
| `mmfreq://ARCH[/TAG]` | the published file, see `files`; without a tag the one that dense configs start from |
| `https://...` | the file at this URL; the URL of a published file means the published file |
| `hf-hub:OWNER/NAME[@REVISION]` | `model.safetensors`, or else `pytorch_model.bin`, of the repository |

Published files are looked for in the folder that `MMFREQ_WEIGHTS` names, then in torch.hub's folder `checkpoints`, then at each URL
that serves the file itself. One process at a time downloads a file; those that waited for it use the file, or raise its error. The
sha256 of a file is compared where a release states it, and otherwise with that of the first download from the same URL, which is
noted beside the file in `FILE.json`.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import torch
from filelock import FileLock, Timeout

from mmfreq.compat.file_type import describe_file
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.weights.download import OFFLINE, DownloadError, MissingWeightsError, answering, direct_url, download, forget, is_offline
from mmfreq.weights.files import UNKNOWN, find_weights, weights_at
from mmfreq.weights.hub import HUB, HUB_FILES, hub_file, hub_urls

FOLDER = 'MMFREQ_WEIGHTS'
SCHEME = 'mmfreq://'
SUFFIXES = ('.pth', '.safetensors', '.pt', '.tar', '.bin', '.ckpt')
HASH_HOSTS = {'download.openmmlab.com', 'download.pytorch.org'}  # their file names end with the sha256
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.pth$')
CHECK_SECONDS = 7.0  # for all URLs of a run to answer
LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
FIRST_BEGINS = 120.0  # seconds in which the first process of a machine checks the run, before another one downloads in its place


@dataclass(frozen=True)
class Wanted:
    """A file to find or download.

    Attributes:
        label: its name in messages.
        filename: its name in a folder of weights.
        urls: URLs that serve the file itself, in the order in which they are tried.
        sha256: URL to the sha256 of its file, or its first digits, where a release states it.
        pages: where a person can download it.
        other_names: further accepted names in a folder of weights.
    """

    label: str
    filename: str
    urls: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    pages: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()


def is_address(source: object) -> bool:
    """Whether a source is an http(s) URL."""
    return re.match('https?://', str(source)) is not None


def is_named(source: object) -> bool:
    """Whether a source is a name that `local_file` resolves, not a path."""
    return is_address(source) or str(source).startswith((SCHEME, HUB))


def local_file(source: str | os.PathLike, asked: bool = False) -> str | os.PathLike:
    """The local file of a source, downloaded if necessary; a path stays as it is.

    Args:
        asked: whether `unavailable` has just found that a URL answers, so that none is asked again.

    Raises:
        CheckpointError: unknown arch or tag.
        MissingWeightsError: it is not here, and nothing serves it.
        DownloadError: the file that is here has another sha256 than expected, or cannot be read.
    """
    name = str(source)
    if name.startswith(HUB):
        return hub_file(name)
    if is_named(name):
        return obtain(wanted(name), asked)
    folder = Path(name).expanduser()
    return next((folder / each for each in HUB_FILES if (folder / each).is_file()), source)  # of tools/publish.py, or of the Hub


def here(source: str | os.PathLike) -> str | os.PathLike | None:
    """The local file of a source if it is on this machine, without any connection; a path stays as it is."""
    name = str(source)
    if name.startswith(HUB):
        return None
    if is_named(name):
        return find_local(wanted(name))
    return None if re.match(r'[\w.+-]+://', name) else source


def wanted(source: str) -> Wanted:
    """The file that an `mmfreq://` name or a URL means."""
    weights = find_weights(source.removeprefix(SCHEME)) if source.startswith(SCHEME) else weights_at(source)
    if weights is None:
        stated = hash_in_name(source)
        return Wanted(source, cached_name(source), (direct_url(source),), {direct_url(source): stated} if stated else {}, (source,))
    stated = next((each for each in (weights.sha256, weights.sha256_prefix) if each != UNKNOWN), '')
    published = [name for url in (weights.url, *weights.mirrors) if (name := name_in_url(url))]
    return Wanted(
        label=f'{SCHEME}{weights.arch}/{weights.tag}',
        filename=published[0] if published else f'{weights.arch}_{weights.tag}.pth',
        urls=weights.urls,
        sha256={direct_url(weights.url): stated} if stated else {},
        pages=weights.pages if weights.urls else (f'{weights.repository} ({weights.note})',),
        other_names=tuple(f'{weights.arch}_{weights.tag}{suffix}' for suffix in SUFFIXES) + tuple(published[1:]),
    )


def find_local(file: Wanted) -> Path | None:
    """The file in the folder that `MMFREQ_WEIGHTS` names, or in the cache; verified.

    Raises:
        DownloadError: the file has another sha256 than expected, or is not a checkpoint.
        MissingWeightsError: `MMFREQ_WEIGHTS` is not a folder.
    """
    names = (file.filename, *file.other_names)
    if given := os.environ.get(FOLDER):
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise MissingWeightsError(f'Expected a folder of weights in {FOLDER}, but {folder.absolute()} is not a folder.')
        if path := next((folder / name for name in names if (folder / name).is_file()), None):
            refuse_page_file(path, f'{path} cannot be used')
            return path
    path = next((cache_folder() / name for name in names if (cache_folder() / name).is_file()), None)
    if path is not None:
        verify(path, file)
    return path


def obtain(file: Wanted, asked: bool = False) -> Path:
    """`find_local`, or else the downloaded file. One process of each machine downloads, and one at a time of each folder."""
    started = time.time()
    path = cache_folder() / file.filename
    found = find_local(file) or (None if is_first_here() else wait_for_first(file, path, started))
    if found:
        return found
    urls, faults = (list(file.urls), {}) if asked and not is_offline() else answering(file.urls, CHECK_SECONDS)
    if not urls:
        raise MissingWeightsError(how_to_get(file, faults))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):
            if found := find_local(file):
                return found
            raise_failure(started, path)
            try:
                return download_first(file, urls, path)
            except DownloadError as error:
                failure_file(path).write_text(f'{os.getppid()}\n{error}', encoding='utf-8')  # the launcher, which others share
                raise
    except OSError as error:
        raise DownloadError(
            f'{file.label} cannot be saved in {path.parent} ({error.strerror or error}). Set TORCH_HOME to a folder that can be '
            f'written, or give the file: {FOLDER}=FOLDER with {file.filename} in it.'
        ) from error


def is_first_here() -> bool:
    """Whether this is the first process of a run on this machine, by the variables of torchrun, Slurm and MPI."""
    return int(next((os.environ[name] for name in LOCAL_RANKS if os.environ.get(name)), 0)) == 0


def wait_for_first(file: Wanted, path: Path, started: float) -> Path | None:
    """The file, as soon as the first process of this machine has it; None if that process does not even begin.

    Raises:
        DownloadError: the error of the process that tried to download it.
    """
    deadline = time.monotonic() + FIRST_BEGINS
    with ended_by_sigterm():
        while time.monotonic() < deadline:
            if found := find_local(file):
                return found
            raise_failure(started, path, of_launcher=os.getppid())
            if is_locked(path):
                deadline = time.monotonic() + FIRST_BEGINS
            time.sleep(0.2)
    return None


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process: a launcher sends it when the first process fails. A run would only stop at its next step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_locked(path: Path) -> bool:
    """Whether a process is downloading to `path`."""
    if not Path(f'{path}.lock').exists():
        return False
    try:
        with FileLock(f'{path}.lock', timeout=0):
            return False
    except Timeout:
        return True


def raise_failure(started: float, path: Path, of_launcher: int | None = None) -> None:
    """Raise the error of another process that tried to download this file after `started`, or under the same launcher."""
    note = failure_file(path)
    with contextlib.suppress(FileNotFoundError):
        parent, _, message = note.read_text(encoding='utf-8').partition('\n')
        if note.stat().st_mtime >= started or parent == str(of_launcher):
            raise DownloadError(message)


def failure_file(path: Path) -> Path:
    return path.with_name(f'.{path.name}.failed')


def download_first(file: Wanted, urls: Iterable[str], path: Path) -> Path:
    """Download the file from the first of the URLs that serves it; raises a MissingWeightsError with the reason of each."""
    partial = path.with_name(f'.{path.name}.download')
    faults = {}
    for url in urls:
        print(f'Downloading {file.label} from {url} to {path.parent}', file=sys.stderr, flush=True)
        try:
            download(url, partial)
            try:
                digest = check_content(partial, url, file, path)
            except DownloadError:
                forget(partial)
                raise
            write_note(path, partial, url, digest)
            os.replace(partial, path)
            forget(partial)
            failure_file(path).unlink(missing_ok=True)
            return path
        except DownloadError as error:
            faults[url] = str(error)
    raise MissingWeightsError(how_to_get(file, faults))


def check_content(partial: Path, url: str, file: Wanted, path: Path) -> str:
    """The sha256 of a downloaded file; raises a DownloadError if it is another one than expected, or not a checkpoint."""
    digest = sha256_of(partial)
    expected, origin = file.sha256.get(url, ''), 'as published'
    if not expected:
        noted = read_note(path)
        expected, origin = (noted.get('sha256', ''), 'as at the first download') if noted.get('url') == url else ('', '')
    if not digest.startswith(expected):
        remedy = '' if origin == 'as published' else f' If the change is intended, delete {note_file(path)}.'
        raise DownloadError(
            f'Expected the sha256 {shown(expected)} {origin} at {url}, got a file with {digest}; it was not kept.{remedy}'
        )
    if not expected or len(expected) < 64:
        refuse_other_content(partial, url)
    return digest


def refuse_other_content(path: Path, url: str = '') -> None:
    """Raise a DownloadError unless a file can be read to its end as a checkpoint."""
    where = f'The file from {url} was not kept' if url else f'{path} cannot be used'
    refuse_page_file(path, where)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        raise DownloadError(f'{where}: it is not a checkpoint. {error}') from error


def refuse_page_file(path: Path, where: str) -> None:
    """Raise a DownloadError if the first bytes of a file are those of a page, or if there are none."""
    found = describe_file(path)
    if any(word in found for word in ('HTML', 'empty', 'git-lfs')):
        raise DownloadError(f'{where}: expected a checkpoint, found {found}.')


def verify(path: Path, file: Wanted) -> None:
    """Compare a cached file with what was noted when it was downloaded; without a note, with what is published.

    The file is read only if its size or time differs from the note.

    Raises:
        DownloadError: another sha256 than expected, or not a checkpoint. The file stays as it is.
    """
    noted, status = read_note(path), path.stat()
    if noted and (noted.get('size'), noted.get('mtime_ns')) == (status.st_size, status.st_mtime_ns):
        return
    digest = sha256_of(path)
    url = noted.get('url') or next(iter(file.sha256), '')
    expected = noted.get('sha256') or file.sha256.get(url, '')
    if not digest.startswith(expected):
        raise DownloadError(
            f'Expected the sha256 {shown(expected)} for the file published at {url}, but {path} has {digest}. Move it away to '
            'download it again.'
        )
    if not expected:
        refuse_other_content(path)
    with contextlib.suppress(OSError):  # the folder may be read-only
        write_note(path, path, url, digest)


def write_note(path: Path, content: Path, url: str, sha256: str) -> None:
    """Write the note of `path`: where the file is from, and what it was when it was verified; its content is in `content`."""
    status = content.stat()
    fields = dict(url=url, sha256=sha256, size=status.st_size, mtime_ns=status.st_mtime_ns)
    note_file(path).write_text(json.dumps(fields), encoding='utf-8')


def read_note(path: Path) -> dict:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(note_file(path).read_text(encoding='utf-8'))
        return content if isinstance(content, dict) else {}
    return {}


def note_file(path: Path) -> Path:
    return path.with_name(f'{path.name}.json')


def how_to_get(file: Wanted, faults: Mapping[str, str]) -> str:
    """That a file is not here, why each URL failed, and how to put it here by hand."""
    why = f', and {OFFLINE} forbids connections.' if is_offline() else ', and no URL served them:' if faults else '.'
    lines = [f'The weights {file.label} are not on this machine{why}']
    if not is_offline():
        lines += [f'  {fault if url in fault else f"{url}: {fault}"}' for url, fault in faults.items()]
    pages = [page for page in file.pages if page != UNKNOWN]
    lines.append(f'Download the file by hand from {" or ".join(pages)}' if pages else 'Get the file by hand')
    lines[-1] += (
        f', name it {file.filename}, and put it into a folder that {FOLDER} names (now: {os.environ.get(FOLDER) or "not set"}) or '
        f'into {cache_folder()}.'
    )
    if file.urls and file.label.startswith(SCHEME):
        name = file.label.removeprefix(SCHEME)
        lines.append(f'On a machine with a network, python tools/weights.py get {name} --out FOLDER writes it.')
    return '\n'.join(lines)


def unavailable(sources: Iterable[str], seconds: float = CHECK_SECONDS) -> str:
    """Which sources are neither here nor answered by a URL, and how to get them; '' if all are available.

    All URLs are asked at once, and all have answered, or count as silent, after `seconds`.
    """
    sources = list(sources)
    files = [wanted(source) for source in sources if not source.startswith(HUB)]
    missing = [file for file in files if find_local(file) is None]
    hub = {source: hub_urls(source) for source in sources if source.startswith(HUB)}
    asked = [url for urls in (*(file.urls for file in missing), *hub.values()) for url in urls]
    good, faults = answering(asked, seconds) if asked else ([], {})
    dead = [how_to_get(file, {url: faults[url] for url in file.urls}) for file in missing if not set(file.urls) & set(good)]
    for source, urls in hub.items():
        silent = [url for url in urls if url not in good and 'the server answered' not in faults[url]]
        if urls and silent == urls:  # an error of the server may depend on the user's login: `hub_file` names it
            dead.append(f'{source} is not on this machine, and the Hub does not answer: {urls[0]}: {faults[urls[0]]}.')
    return '\n\n'.join(dead)


def cache_folder() -> Path:
    return Path(torch.hub.get_dir()) / 'checkpoints'


def hash_in_name(url: str) -> str:
    """The first digits of the sha256 in a URL of a host that writes them there; '' for others."""
    found = HASH_IN_NAME.search(urlsplit(url).path)
    return found[1] if found and urlsplit(url).hostname in HASH_HOSTS else ''


def name_in_url(url: str) -> str:
    """The file name at the end of a URL; '' if there is none, as in shared links."""
    name = Path(urlsplit(url).path).name
    return name if Path(name).suffix in SUFFIXES and not url.partition('?')[2] else ''


def cached_name(url: str) -> str:
    """Name in the cache for an unknown URL: as torch.hub's, or a unique one if a file from another URL has that name."""
    name, digest = name_in_url(url), hashlib.sha256(url.encode()).hexdigest()[:12]
    if not name:
        return f'{urlsplit(url).hostname}-{digest}.pth'
    taken = read_note(cache_folder() / name).get('url', url) != url
    return f'{Path(name).stem}-{digest}{Path(name).suffix}' if taken else name


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def shown(expected: str) -> str:
    return expected + '...' * (len(expected) < 64)
