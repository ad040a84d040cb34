"""A loopback server that misbehaves on request, for tests of downloads."""

import hashlib
import io
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


GOOGLE_SCAN = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>Google Drive can't scan this file "
    b'for viruses.</body></html>'
)
GOOGLE_QUOTA = (
    b'<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users have viewed or downloaded '
    b'this file recently.</body></html>'
)
LOGIN = b'<html><head><title>Log in</title></head><body><form action="/login"><input type="password"></form></body></html>'
PAGE = b'<!DOCTYPE html><html><body>Not what you are looking for</body></html>'


class Resource:
    """What a path serves.

    Args:
        data: the file.
        ranges: whether `Range` is honoured.
        etag: version; '' sends none.
        announced: value of `Content-Length`; None is the true one.
        breaks: number of bytes after which the connection breaks off, for the first `times` whole requests.
        redirect: path to redirect to, which is valid for one request.
        status: of the answer.
        hold: whether to wait for the server's `release` before answering.
        stalls: whether to wait for it before the connection breaks off.
        part: value of `Content-Range` instead of the true one.
        any_version: whether `If-Range` is ignored.
        busy: number of requests that are answered with status 503 first.
    """

    def __init__(
        self,
        data=b'',
        ranges=True,
        etag='"v1"',
        announced=None,
        breaks=None,
        times=1,
        redirect='',
        status=200,
        hold=False,
        stalls=False,
        part=None,
        any_version=False,
        busy=0,
    ):
        self.part, self.any_version, self.busy = part, any_version, busy
        self.data, self.ranges, self.etag, self.announced = data, ranges, etag, announced
        self.breaks, self.times, self.redirect, self.status, self.hold, self.stalls = breaks, times, redirect, status, hold, stalls


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get('Range')
        self.server.requests.append((self.path, asked))
        resource = self.server.files.get(self.path)
        if resource is None:
            self.send_error(404)
            return
        if resource.hold:
            self.server.release.wait(20)
        if resource.redirect:
            self.server.files[resource.redirect] = self.server.once[resource.redirect]
            self.send_response(302)
            self.send_header('Location', resource.redirect)
            self.end_headers()
            return
        if self.path in self.server.once:
            del self.server.files[self.path]
        if resource.busy:
            resource.busy -= 1
            self.send_error(503)
            return
        if resource.status != 200:
            self.send_error(resource.status)
            return
        data, start = resource.data, 0
        same = resource.any_version or not self.headers.get('If-Range') or self.headers['If-Range'] == resource.etag
        partial = bool(asked) and resource.ranges and same
        end = len(data)
        if partial:
            first, _, last = asked.removeprefix('bytes=').partition('-')
            start, end = int(first), min(int(last) + 1 if last else end, end)
            if start >= len(data):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(data)}')
                self.end_headers()
                return
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header('Content-Range', resource.part or f'bytes {start}-{end - 1}/{len(data)}')
        self.send_header('Content-Length', str(resource.announced or end - start))
        if resource.etag:
            self.send_header('ETag', resource.etag)
        self.end_headers()
        data = data[start:end]
        probe = bool(asked) and not asked.endswith('-')
        if resource.breaks is not None and resource.times > 0 and not probe:
            resource.times -= 1
            data = data[: resource.breaks]
            self.close_connection = True
        with suppress(OSError):
            self.wfile.write(data)
            if resource.stalls and not probe:
                self.wfile.flush()
                self.server.release.wait(60)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """A server with `files` (path -> Resource), `once` (targets of redirects), `url(path)`, and the `requests` (path, Range)."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.files, server.once, server.requests, server.release = {}, {}, [], threading.Event()
    server.url = lambda path: f'http://127.0.0.1:{server.server_port}{path}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def sha256(data):
    return hashlib.sha256(data).hexdigest()
