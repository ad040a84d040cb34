"""Transfer one file from one URL: resumed, complete, and nothing else in its place.

torch.hub's downloader neither resumes nor compares the length. This one follows redirects (shared links of Seafile redirect to an
address that is valid once, so a transfer resumes from the link itself), sends `Range` with `If-Range`, honours the usual proxy
variables, and names pages that servers send instead of a file. Where files are kept, and which URLs a file has, is in `store`.
"""

import contextlib
import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mmfreq.compat.file_type import describe_bytes
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.version import __version__

TIMEOUT = 60.0  # seconds without data from the server
ATTEMPTS = 5  # of a transfer that breaks off and goes on from where it was
CHUNK = 1 << 20  # bytes
HEAD = 1 << 16  # bytes of a page that are searched for its meaning
BUSY = (429, 500, 502, 503, 504)  # statuses after which another attempt may succeed
PAUSE = 1.0  # seconds before it
STEP = 10  # per cent between two lines of progress where the output is not a terminal
AGENT = f'mmfreq/{__version__}'
OFFLINE = 'MMFREQ_OFFLINE'
# pattern in the address or text of a page -> what it is; the first one that matches
PAGES = (
    (r'accounts\.google\.com|ServiceLogin', "Google's login page (the file is not shared with everyone)"),
    (r'Quota exceeded|Too many users have viewed or downloaded', "Google Drive's quota page (the file was requested too often)"),
    (r'Virus scan warning|scan this file for viruses', "Google Drive's virus-scan page"),
    (r'(?i)<form[^>]*login|type=.?password|<title>[^<]*(log|sign) ?in', 'a login page'),
)
GOOGLE_FILE = re.compile(r'https://drive\.google\.com/(?:file/d/|open\?id=|uc\?(?:export=download&)?id=)([\w-]+)')


class DownloadError(CheckpointError):
    """A URL gave no file, or another one than expected."""


class MissingWeightsError(DownloadError):
    """A published file is not on this machine, and no URL serves it; the message says how to get it by hand."""


class InterruptedTransfer(Exception):
    """A transfer that broke off, and may go on from where it was."""


def is_offline(variable: str = OFFLINE) -> bool:
    """Whether an environment variable forbids connections: any value but '', 0, false, no and off."""
    return os.environ.get(variable, '').strip().lower() not in ('', '0', 'false', 'no', 'off')


def direct_url(url: str) -> str:
    """The URL that serves the file itself: of Google Drive the download form with the virus scan confirmed; others as they are.

    Google's form is not documented by Google, and was not tried: the machines on which this was written have no access to it.
    """
    found = GOOGLE_FILE.match(url)
    return f'https://drive.usercontent.google.com/download?id={found[1]}&export=download&confirm=t' if found else url


def download(url: str, partial: Path, progress: bool = True) -> None:
    """Transfer `url` to the file `partial`, from where an earlier transfer stopped if the server allows that.

    The length and the server's name for the version (ETag, or else the date) are kept beside it, in `partial` with the suffix
    `.json`. The version is sent as `If-Range`, and the length is compared: a file that has changed is transferred again.

    Raises:
        DownloadError: connections are forbidden; no answer, an error, another length than announced, an empty file or a page.
    """
    if is_offline():
        raise DownloadError(f'{url} was not downloaded: {OFFLINE} forbids connections.')
    most, stalls = -1, 0
    for attempt in range(ATTEMPTS):
        try:
            transfer(url, partial, progress)
            return
        except InterruptedTransfer as error:
            size = size_of(partial)
            stalls += size <= most
            if attempt == ATTEMPTS - 1 or stalls == 2:
                raise DownloadError(f'{url} could not be downloaded: {error}.') from error
            most = max(most, size)
            time.sleep(PAUSE)


def transfer(url: str, partial: Path, progress: bool) -> None:
    """One attempt of `download`; raises an InterruptedTransfer if another one may go on."""
    note = read_note(partial, url)
    done = size_of(partial) if note.get('version') else 0  # without a version, the rest may be of another file
    headers = {'Range': f'bytes={done}-', 'If-Range': note['version']} if done else {}
    try:
        with connect(url, headers, TIMEOUT) as answer:
            start, total = extent(answer, done)
            if start < 0 or (start and (total, version_of(answer) or note['version']) != (note['total'], note['version'])):
                forget(partial)
                raise InterruptedTransfer('the rest that the server sent is not that of an earlier transfer')
            head = b''
            if start == 0:
                head = answer.read(HEAD)
                refuse_page(answer.url, head, total)
                write_note(partial, url, total, answer)
            with open(partial, 'r+b' if start else 'wb') as file:
                file.seek(start)
                file.truncate()
                file.write(head)
                copy(answer, file, start + len(head), total, url, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # the range begins at the end of the file: complete, or not of this file
            if total_of_range(error.headers.get('Content-Range')) == done == note['total']:
                return
            forget(partial)
            raise InterruptedTransfer(f'the server announced {note["total"]} bytes and sent {done}') from error
        kind = InterruptedTransfer if error.code in BUSY else DownloadError
        begin = '' if error.code in BUSY else f'{url} could not be downloaded: '
        raise kind(f'{begin}the server answered {error.code} {error.reason}') from error
    except DownloadError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', None) or error
        text = 'timed out' if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
        if size_of(partial) > done or isinstance(reason, (ConnectionResetError, ConnectionAbortedError)):
            raise InterruptedTransfer(f'the connection broke off after {size_of(partial)} bytes ({text})') from error
        raise DownloadError(f'{url} could not be downloaded: {text}.') from error
    size = size_of(partial)
    if total is not None and size != total:
        raise InterruptedTransfer(f'the server announced {total} bytes and sent {size}')


def connect(url: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
    """Open a URL, following redirects; the headers go along."""
    request = urllib.request.Request(url, headers={'User-Agent': AGENT, 'Accept-Encoding': 'identity', **headers})
    return urllib.request.build_opener().open(request, timeout=timeout)  # reads the proxy variables as they are now


def extent(answer: HTTPResponse, done: int) -> tuple[int, int | None]:
    """(position of the first byte that the server sends, -1 if it is after `done`; length of the file, None if not announced)."""
    length = answer.headers.get('Content-Length')
    if answer.status == 206:
        found = re.match(r'bytes (\d+)-', answer.headers.get('Content-Range', ''))
        if done and not (found and int(found[1]) <= done):
            return -1, None
        if found:
            whole = total_of_range(answer.headers['Content-Range'])
            return int(found[1]), whole if whole is not None else int(length) + int(found[1]) if length else None
    return 0, int(length) if length else None


def total_of_range(value: str | None) -> int | None:
    """The length of the file in a `Content-Range`."""
    found = re.search(r'/(\d+)$', value or '')
    return int(found[1]) if found else None


def copy(answer: HTTPResponse, file: IO[bytes], done: int, total: int | None, url: str, progress: bool) -> None:
    """Copy the rest of an answer; progress is a bar on a terminal, and a line for each 10 % elsewhere."""
    terminal = progress and sys.stderr.isatty()
    name = urlsplit(url).path.rstrip('/').rpartition('/')[2] or url
    shown = done * 100 // total // STEP if total else 0
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not terminal) as bar:
        task = bar.add_task(name, total=total, completed=done)
        while chunk := answer.read1(CHUNK):  # what has arrived, so that little is lost when the process ends
            file.write(chunk)
            done += len(chunk)
            bar.update(task, completed=done)
            if progress and not terminal and total and done * 100 // total // STEP > shown:
                shown = done * 100 // total // STEP
                print(f'{name}: {shown * STEP} % of {total / 2**20:.1f} MiB', file=sys.stderr, flush=True)


def refuse_page(url: str, head: bytes, length: int | None) -> None:
    """Raise if an answer is empty, or a page in place of a file."""
    if not head and not length:
        raise DownloadError(f'{url} could not be downloaded: the server sent an empty file (0 bytes).')
    found = describe_bytes(head)
    if 'HTML' in found:
        page = describe_page(url, head)
        raise DownloadError(f'{url} could not be downloaded: the server sent {page or "a page of HTML"} instead of the file.')


def describe_page(url: str, head: bytes) -> str:
    """What a page of HTML is, '' if it is not known."""
    text = f'{url}\n{head.decode("utf-8", "replace")}'
    return next((what for pattern, what in PAGES if re.search(pattern, text)), '')


def answering(urls: Iterable[str], seconds: float) -> tuple[list[str], dict[str, str]]:
    """(the URLs that answer with a file, URL to the reason of the others), all asked at once.

    Each is asked in a thread, since looking up a name has no timeout; what has not answered after `seconds` is left to itself.
    """
    urls = list(dict.fromkeys(urls))
    if is_offline():
        return [], dict.fromkeys(urls, f'{OFFLINE} forbids connections')
    found: dict[str, str] = {}

    def ask(url: str) -> None:
        try:
            with connect(url, {'Range': f'bytes=0-{HEAD - 1}'}, seconds) as answer:
                refuse_page(answer.url, answer.read(HEAD), extent(answer, 0)[1])
            found[url] = ''
        except urllib.error.HTTPError as error:
            empty = error.code == 416 and total_of_range(error.headers.get('Content-Range')) == 0
            found[url] = 'the server sent an empty file (0 bytes)' if empty else f'the server answered {error.code} {error.reason}'
        except DownloadError as error:
            found[url] = str(error).partition('could not be downloaded: ')[2].removesuffix('.')
        except Exception as error:
            reason = getattr(error, 'reason', None) or error
            found[url] = str(reason) or type(reason).__name__

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answers = dict(found)
    faults = {url: answers.get(url, f'no answer within {seconds:.0f} s') for url in urls}
    return [url for url in urls if not faults[url]], {url: fault for url, fault in faults.items() if fault}


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def note_of(partial: Path) -> Path:
    return partial.with_name(f'{partial.name}.json')


def write_note(partial: Path, url: str, total: int | None, answer: HTTPResponse) -> None:
    """Note the length and version of the file that is being transferred."""
    note_of(partial).write_text(json.dumps({'url': url, 'total': total, 'version': version_of(answer)}), encoding='utf-8')


def version_of(answer: HTTPResponse) -> str:
    """The server's name for the bytes of a file, '' if it has none; a weak ETag does not identify bytes."""
    etag = answer.headers.get('ETag', '')
    return etag if etag and not etag.startswith('W/') else answer.headers.get('Last-Modified', '')


def read_note(partial: Path, url: str) -> dict[str, Any]:
    """The note beside a partial file, {} if there is none or it is of another URL."""
    with contextlib.suppress(OSError, ValueError):
        note = json.loads(note_of(partial).read_text(encoding='utf-8'))
        if isinstance(note, dict) and note.get('url') == url and {'total', 'version'} <= note.keys():
            return note
    return {}


def forget(partial: Path) -> None:
    """Delete a partial file and its note."""
    partial.unlink(missing_ok=True)
    note_of(partial).unlink(missing_ok=True)
