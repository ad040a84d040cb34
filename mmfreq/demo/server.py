"""The server of the demo page, with Python's standard library only; meant for one person on one computer.

| request | response |
|---|---|
| `GET /` | the page |
| `GET /api/state` | `models`: [{`id`, `name`, `folder`, `trained`}], the first one preselected; `samples`: URLs; `note`: a |
| | problem of the search, or empty; `device`; `max_bytes` of an upload; `max_side` of the image that a model gets |
| `GET /api/samples/N.png` | a drawn scene |
| `GET /api/models/ID/filters` | see `responses.FilterImages` |
| `POST /api/models/ID/predict` | the body is an image file; see `responses.encode_prediction`; and `uploaded_size`: [width, |
| | height], `seconds`: {`load`, `predict`}, where `load` is null if the model was in memory |

All errors are {`error`: a sentence}: 400 not an image, 403 a request of another site, 404, 411 and 413 a body without a length or
too long, 422 a model whose files are invalid, 500 any other exception.

Requests must name this computer as their host, by an IP address or by one of its names, so that a page elsewhere cannot reach the
server through a domain name that points here. A POST that comes from a page must come from this one. No part of a request is used
as a path.
"""

import hashlib
import ipaddress
import json
import re
import socket
import sys
import time
import traceback
from base64 import b64encode
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import urlsplit

from mmfreq.demo.checkpoints import UNTRAINED, Models, find_sources, one_source
from mmfreq.demo.responses import encode_prediction, sample_scenes
from mmfreq.demo.uploads import read_upload
from mmfreq.errors import DataError, UserError, is_user_error

MAX_BYTES = 24 * 2**20
DEFAULT_FOLDER = Path('work_dirs')
NOTHING_FOUND = (
    'No trained checkpoint was found in {folders}. Run "bash tools/quickstart.sh" to train a small one in a few minutes and '
    'restart this page, or give a folder with --models, or a config and its checkpoint. Until then the page offers a model with '
    'random weights.'
)


class RequestError(Exception):
    """An error response: its HTTP status and its message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Listens when constructed; `serve_forever` answers.

    Args:
        models: the models that can be selected.
        host, port: address to listen on; port 0 selects a free one.
        max_side: larger images are scaled down to it before the model gets them.
        note: shown at the top of the page.

    Raises:
        UserError: the port is invalid or in use, or the host is not an address of this computer.
    """

    def __init__(self, models: Models, host: str = '127.0.0.1', port: int = 8000, max_side: int = 1024, note: str = ''):
        self.models, self.max_side, self.note = models, max_side, note
        self.names = {'localhost', host.lower(), socket.gethostname().lower()}
        if not 0 <= port <= 65535:
            raise UserError(f'Expected a port from 0 (any free one) to 65535; port is {port}.')
        try:
            self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__(address, Handler)
        except OSError as error:
            raise UserError(f'Cannot listen on {host}, port {port}: {error}. Try --port 0 for a free one.') from error

    def server_bind(self):
        """Like http.server's, without looking up the full name of the host, which can take seconds and is not needed."""
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
        """Content-Security-Policy: only the script and style of the page, by their digests."""
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
        with self._model(key) as (loaded, fresh):
            upload = read_upload(data, self.max_side, loaded.predictor.read)
            started = time.perf_counter()
            prediction = encode_prediction(loaded.predictor, upload.image)
            seconds = {'load': round(loaded.seconds, 3) if fresh else None, 'predict': round(time.perf_counter() - started, 3)}
        return prediction | {'uploaded_size': list(upload.size), 'seconds': seconds}

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the page was closed, or another image was chosen
            super().handle_error(request, client_address)

    def _model(self, key: str):
        if key not in self.models.sources:
            raise RequestError(404, f'There is no model {key!r}. Reload the page: the server may have been restarted.')
        return self.models.use(key)


class Handler(BaseHTTPRequestHandler):
    """One request. The connection ends with the response (HTTP/1.0)."""

    server: DemoServer
    server_version, sys_version = 'mmfreq', ''
    timeout = 60  # seconds without a byte from the client
    error_content_type, error_message_format = 'application/json', '{"error": "%(message)s"}'  # of requests that are not HTTP

    def do_GET(self):
        self._reply(self._get)

    def do_POST(self):
        self._reply(self._post)

    def log_message(self, *args):
        """Nothing: the page shows errors."""

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
        raise RequestError(404, 'There is no such page.')

    def _post(self, path: str) -> tuple[str, bytes | dict]:
        match = re.fullmatch(r'/api/models/(\w{1,20})/predict', path, re.ASCII)
        if not match:
            raise RequestError(404, 'There is no such page.')
        return 'application/json', self.server.predict(match[1], self._body())

    def _body(self) -> bytes:
        length = self.headers.get('Content-Length', '')
        if not re.fullmatch(r'[0-9]{1,15}', length):
            raise RequestError(411, 'The request has no valid Content-Length.')
        if int(length) > MAX_BYTES:
            raise RequestError(413, f'A file has at most {MAX_BYTES / 2**20:.0f} MB; this one has {int(length) / 2**20:.1f} MB.')
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise RequestError(400, 'The upload is incomplete.')
        return data

    def _reply(self, respond):
        try:
            self._refuse_other_sites()
            status, (content_type, content) = 200, respond(urlsplit(self.path).path)
        except RequestError as error:
            status, content_type, content = error.status, 'application/json', {'error': str(error)}
        except DataError as error:
            status, content_type, content = 400, 'application/json', {'error': str(error)}
        except Exception as error:
            status, content_type, content = self._failed(error)
        data = content if isinstance(content, bytes) else json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        for name, value in {
            'Content-Type': content_type,
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
        if is_user_error(error):
            return 422, 'application/json', {'error': str(error)}
        traceback.print_exc()
        message = f'{type(error).__name__}: {error}. The terminal of the server shows the traceback.'
        return 500, 'application/json', {'error': message}

    def _drain(self):
        """Read what is still sent: a browser shows the response only if it could send everything."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(2)
        left = 8 * MAX_BYTES
        while left > 0 and (part := self.rfile.read1(2**16)):
            left -= len(part)

    def _refuse_other_sites(self):
        host = self.headers.get('Host', '')
        if not self._is_this_host(host):
            raise RequestError(403, f'The request is for the host {host!r}. Use {self.server.url}.')
        origin = self.headers.get('Origin')
        if self.command == 'POST' and origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(403, f'The request comes from another page, {origin}.')

    def _is_this_host(self, host: str) -> bool:
        try:
            name = (urlsplit(f'//{host}').hostname or '').lower()
            if name in self.server.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def make_server(
    config: Path | None = None,
    checkpoint: Path | None = None,
    folders: list[Path] | None = None,
    device: str = 'cpu',
    plain: bool = False,
    **options,
) -> DemoServer:
    """A server of one pair, and of those found in `folders` (without both: in `work_dirs`); options as in `DemoServer`.

    Models are optimized with `mmfreq.optimize` unless `plain`.

    Raises:
        UserError: a given file or folder does not exist, or the address is not available.
    """
    sources = [one_source(config, checkpoint)] if config and checkpoint else []
    named = folders if folders is not None else [] if sources else [DEFAULT_FOLDER]
    found, without_config = find_sources([folder for folder in named if folders is not None or folder.is_dir()])
    sources = list(dict.fromkeys(sources + found))
    notes = [] if sources else [NOTHING_FOUND.format(folders=', '.join(map(str, named)))]
    if without_config:
        some = ', '.join(map(str, without_config[:3])) + (', ...' if len(without_config) > 3 else '')
        notes.append(f'Skipped, because it is not clear which config in the folder belongs to it: {some}.')
    return DemoServer(Models(sources or [UNTRAINED], device, plain=plain), note=' '.join(notes), **options)


def serve(**arguments) -> None:
    """Serve until Ctrl-C; arguments and errors as in `make_server`."""
    with make_server(**arguments) as server:
        count = sum(source.checkpoint is not None for source in server.models.sources.values())
        print(f'{count} checkpoint{"s" if count != 1 else ""} to choose from, on {server.models.device}.')
        if server.note:
            print(server.note)
        if not ipaddress.ip_address(server.server_address[0].split('%')[0]).is_loopback:
            print('Everyone who can reach this computer can use the page.')
        print(f'Open {server.url} in a browser; stop with Ctrl-C.', flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    with suppress(KeyboardInterrupt):  # a second Ctrl-C
        server.models.close()
    print()
