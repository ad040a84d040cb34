"""A picture from the bytes of a request, within bounds that are checked before it is decoded.

Legend: H W the picture as the model gets it.
"""

import hashlib
import io
import ipaddress
import json
import re
import socket
import sys
import time
import traceback
import warnings
from base64 import b64encode
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import urlsplit

import cv2
import numpy as np
from PIL import Image

from mmfreq.datasets.image_header import fault_of
from mmfreq.demo.answers import answer, sample_scenes
from mmfreq.demo.checkpoints import UNTRAINED, Models, find_sources, one_source
from mmfreq.errors import DataError, UserError, is_users

MAX_BYTES = 24 * 2**20
MAX_PIXELS = 60_000_000  # 180 MB decoded


@dataclass(frozen=True)
class Upload:
    """image (H, W, 3) uint8 BGR; `size` (width, height) is that of the picture as sent."""

    image: np.ndarray
    size: tuple[int, int]


def read_upload(data: bytes, max_side: int) -> Upload:
    """The picture in `data`, read as in training (see `read_picture`) and scaled down to sides of at most `max_side`.

    Raises:
        DataError: no picture, or one with too many pixels.
    """
    if not data:
        raise DataError('the file is empty; choose a PNG, JPEG, WebP or BMP picture')
    width, height = _announced_size(data)
    if width * height > MAX_PIXELS:
        raise DataError(f'the picture has {width} x {height} pixels; at most {MAX_PIXELS // 10**6} million can be read')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    cut = data.startswith(b'\xff\xd8') and not data.endswith(b'\xff\xd9')  # OpenCV 4 makes the rest of such a JPEG black
    if image is None or (cut and fault_of(io.BytesIO(data))):
        raise DataError('the picture is damaged or of a kind that cannot be read; choose a PNG, JPEG, WebP or BMP picture')
    height, width = image.shape[:2]  # an orientation in the file has turned it
    return Upload(_within(image, max_side), (width, height))


def _announced_size(data: bytes) -> tuple[int, int]:
    """What the file's header says, before any memory is taken for its pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as header:
                return header.size
    except Image.DecompressionBombError:
        raise DataError(f'the picture is too large; at most {MAX_PIXELS // 10**6} million pixels can be read') from None
    except Exception:  # whatever a plug-in of Pillow makes of bytes that are no picture
        raise DataError('the file is not a picture that can be read; choose a PNG, JPEG, WebP or BMP picture') from None


def _within(image: np.ndarray, max_side: int) -> np.ndarray:
    factor = max_side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


# The routes of the page. Python's standard library alone serves them; meant for one person on one machine.
#
# | request | reply |
# |---|---|
# | `GET /` | the page |
# | `GET /api/state` | `models`: [{`id`, `name`, `folder`, `trained`}], the first one preselected; `samples`: addresses; |
# | | `note`: what is amiss with the search, or empty; `device`; `max_bytes` of an upload; `max_side` of what a model gets |
# | `GET /api/samples/N.png` | a drawn scene |
# | `GET /api/models/ID/filters` | see `filter_pictures.FilterPictures` |
# | `POST /api/models/ID/predict` | the body is a picture file as it is; see `answers.answer`; and `picture`: [width, height]
# sent, |
# | | `seconds`: {`load`, `predict`}, where `load` is null if the model was in memory |
#
# Every other reply is {`error`: a sentence}: 400 for what is no picture, 403 for a request of another site, 404, 411 and 413 for
# bodies without a length or too long, 422 for a model whose files are at fault, 500 for anything else that it raised.
#
# Who may ask: requests must name this machine as their host, by a number or a name that it has (so a page elsewhere cannot
# reach the
# server through a name of its own that points here), and a POST that comes from a page must come from this one. Nothing in a
# request
# is ever used as a path.


class RequestError(Exception):
    """A reply other than the one that was asked for: its status and its sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers.

    Args:
        models: what can be picked.
        host, port: where to listen; port 0 takes a free one.
        max_side: larger pictures are scaled down to it before the model gets them.
        note: shown at the top of the page.

    Raises:
        UserError: there is no such port, it is taken, or the host is not this machine's.
    """

    def __init__(self, models: Models, host: str = '127.0.0.1', port: int = 8000, max_side: int = 1024, note: str = ''):
        self.models, self.max_side, self.note = models, max_side, note
        self.names = {'localhost', host.lower(), socket.gethostname().lower()}
        if not 0 <= port <= 65535:
            raise UserError(f'port is {port}; expected 0 (any free one) to 65535')
        try:
            self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__(address, Handler)
        except OSError as error:
            raise UserError(f'cannot listen on {host}, port {port}: {error}. Choose another port, or --port 0 for any') from error

    def server_bind(self):
        """As http.server's, without looking up the machine's full name, which may take seconds and serves nothing here."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f'http://{f"[{host}]" if ":" in host else host}:{port}/'

    @cached_property
    def page(self) -> bytes:
        return resources.files('mmfreq.demo').joinpath('page.html').read_bytes()

    @cached_property
    def policy(self) -> str:
        """Content-Security-Policy: the page's own script and style by their digests, nothing from elsewhere."""
        text = self.page.decode()
        digests = {
            tag: b64encode(hashlib.sha256(re.search(f'<{tag}>(.*?)</{tag}>', text, re.DOTALL)[1].encode()).digest()).decode()
            for tag in ('script', 'style')
        }
        sources = [f"{tag}-src 'sha256-{digest}'" for tag, digest in digests.items()]
        fixed = "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
        return '; '.join([fixed, "frame-ancestors 'none'", *sources])

    @cached_property
    def samples(self) -> list[bytes]:
        return sample_scenes()

    def state(self) -> dict:
        listed = [
            {'id': key, 'name': source.name, 'folder': source.folder, 'trained': source.checkpoint is not None}
            for key, source in self.models.sources.items()
        ]
        samples = [f'/api/samples/{number}.png' for number in range(len(self.samples))]
        limits = {'max_bytes': MAX_BYTES, 'max_side': self.max_side}
        return {'models': listed, 'samples': samples, 'note': self.note, 'device': self.models.device, **limits}

    def filters(self, key: str) -> dict:
        with self._model(key) as (loaded, _):
            return asdict(loaded.filters)

    def predict(self, key: str, data: bytes) -> dict:
        upload = read_upload(data, self.max_side)
        with self._model(key) as (loaded, fresh):
            started = time.perf_counter()
            told = answer(loaded.predictor, upload.image)
            seconds = {'load': round(loaded.seconds, 3) if fresh else None, 'predict': round(time.perf_counter() - started, 3)}
        return told | {'picture': list(upload.size), 'seconds': seconds}

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the person closed the page or went on to another picture
            super().handle_error(request, client_address)

    def _model(self, key: str):
        if key not in self.models.sources:
            raise RequestError(404, f'there is no model {key!r}; reload the page, the server may have been started again')
        return self.models.use(key)


class Handler(BaseHTTPRequestHandler):
    """One request. The connection ends with the reply (HTTP/1.0)."""

    server: DemoServer
    server_version, sys_version = 'mmfreq', ''
    timeout = 60  # seconds without a byte from the client
    error_content_type, error_message_format = 'application/json', '{"error": "%(message)s"}'  # of requests that are no HTTP

    def do_GET(self):
        self._reply(self._get)

    def do_POST(self):
        self._reply(self._post)

    def log_message(self, *args):
        """The page tells what happened."""

    def _get(self, path: str) -> tuple[str, bytes | dict]:
        if path == '/':
            return 'text/html; charset=utf-8', self.server.page
        if path == '/api/state':
            return 'application/json', self.server.state()
        if match := re.fullmatch(r'/api/samples/(\d{1,3})\.png', path, re.ASCII):
            number = int(match[1])
            if number < len(self.server.samples):
                return 'image/png', self.server.samples[number]
        if match := re.fullmatch(r'/api/models/(\w{1,20})/filters', path, re.ASCII):
            return 'application/json', self.server.filters(match[1])
        raise RequestError(404, 'there is no such page')

    def _post(self, path: str) -> tuple[str, bytes | dict]:
        match = re.fullmatch(r'/api/models/(\w{1,20})/predict', path, re.ASCII)
        if not match:
            raise RequestError(404, 'there is no such page')
        return 'application/json', self.server.predict(match[1], self._body())

    def _body(self) -> bytes:
        length = self.headers.get('Content-Length', '')
        if not re.fullmatch(r'[0-9]{1,15}', length):
            raise RequestError(411, 'the request does not say how long its body is')
        if int(length) > MAX_BYTES:
            raise RequestError(413, f'the file has {int(length) / 2**20:.1f} MB; at most {MAX_BYTES / 2**20:.0f} MB can be sent')
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise RequestError(400, 'the file did not arrive whole')
        return data

    def _reply(self, respond):
        try:
            self._refuse_other_sites()
            status, (kind, content) = 200, respond(urlsplit(self.path).path)
        except RequestError as error:
            status, kind, content = error.status, 'application/json', {'error': str(error)}
        except DataError as error:
            status, kind, content = 400, 'application/json', {'error': str(error)}
        except Exception as error:
            status, kind, content = self._failed(error)
        data = content if isinstance(content, bytes) else json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        for name, value in {
            'Content-Type': kind,
            'Content-Length': len(data),
            'Cache-Control': 'no-store',
            'Content-Security-Policy': self.server.policy,
            'X-Content-Type-Options': 'nosniff',
            'Referrer-Policy': 'no-referrer',
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)
        if status == 413:
            self._drain()

    def _failed(self, error: Exception) -> tuple[int, str, dict]:
        if isinstance(error, ConnectionError | TimeoutError):
            raise error
        if is_users(error):
            return 422, 'application/json', {'error': str(error)}
        traceback.print_exc()
        told = f'{type(error).__name__}: {error}. The terminal that started the page shows where.'
        return 500, 'application/json', {'error': told}

    def _drain(self):
        """A browser that is still sending when the connection closes would not show the reply."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(2)
        left = 8 * MAX_BYTES
        while left > 0 and (part := self.rfile.read1(2**16)):
            left -= len(part)

    def _refuse_other_sites(self):
        host = self.headers.get('Host', '')
        if not self._is_ours(host):
            raise RequestError(403, f'the request is for the host {host!r}; use {self.server.url}')
        origin = self.headers.get('Origin')
        if self.command == 'POST' and origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(403, f'the request comes from {origin}, another page')

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f'//{host}').hostname or '').lower()
            if name in self.server.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


# From what a person named, or nothing, to a page that is served.


DEFAULT_FOLDER = Path('work_dirs')
NOTHING_FOUND = (
    'No trained checkpoint was found in {folders}. Run "bash tools/quickstart.sh" to train a small one in some minutes, then start '
    'this page again; or name a folder with --models, or a config and its checkpoint. Until then there is a model with random '
    'weights to look around with.'
)


def make_server(
    config: Path | None = None,
    checkpoint: Path | None = None,
    folders: list[Path] | None = None,
    device: str = 'cpu',
    plain: bool = False,
    **options,
) -> DemoServer:
    """A server of one pair and of those found in `folders` (None without a pair: in `work_dirs`); options as of `DemoServer`.

    Models are optimised with `mmfreq.optimize` unless `plain`.

    Raises:
        UserError: a file or folder that was named does not exist, or the address cannot be had.
    """
    sources = [one_source(config, checkpoint)] if config and checkpoint else []
    named = folders if folders is not None else [] if sources else [DEFAULT_FOLDER]
    found, alone = find_sources([folder for folder in named if folders is not None or folder.is_dir()])
    sources = list(dict.fromkeys(sources + found))
    notes = [] if sources else [NOTHING_FOUND.format(folders=', '.join(map(str, named)))]
    if alone:
        some = ', '.join(map(str, alone[:3])) + (', ...' if len(alone) > 3 else '')
        notes.append(f'Left out, because no config beside it is clearly its own: {some}.')
    return DemoServer(Models(sources or [UNTRAINED], device, plain=plain), note=' '.join(notes), **options)


def serve(**arguments) -> None:
    """Answers until Ctrl-C; arguments and errors as of `make_server`."""
    with make_server(**arguments) as server:
        count = sum(source.checkpoint is not None for source in server.models.sources.values())
        print(f'{count} checkpoint{"s" if count != 1 else ""} to choose from, on {server.models.device}.')
        if server.note:
            print(server.note)
        if not ipaddress.ip_address(server.server_address[0].split('%')[0]).is_loopback:
            print('Everyone who can reach this machine can use the page.')
        print(f'Open {server.url} in a browser; Ctrl-C ends.', flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    with suppress(KeyboardInterrupt):  # of the impatient
        server.models.close()
    print()
