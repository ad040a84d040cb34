"""Downloads from a local server: complete, verified and under their names, or an error that helps."""

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.weights import download
from mmfreq.weights.download import DownloadError, cached_name, fetch, local_file, stated_hash
from mmfreq.weights.files import ZOO, Weights


def saved(value):
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


WEIGHTS = saved({'state_dict': {'weight': torch.arange(1000.0)}})
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`: path -> (bytes, announced length); records the requests."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == '/silent.pth':
            self.server.hold.wait(20)
            return
        if self.path not in self.server.files:
            self.send_error(404)
            return
        data, announced = self.server.files[self.path]
        self.send_response(200)
        self.send_header('Content-Length', str(announced))
        self.end_headers()
        self.wfile.write(data)
        if self.path == '/slow.pth':
            self.wfile.flush()
            self.server.hold.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server with `url(path)`; torch.hub's folder is temporary, `server.cache`."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    made = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    made.daemon_threads = True
    made.files, made.requests, made.hold = {'/w.pth': (WEIGHTS, len(WEIGHTS))}, [], threading.Event()
    made.cache = tmp_path / 'torch' / 'hub' / 'checkpoints'
    made.url = lambda path: f'http://127.0.0.1:{made.server_port}{path}'
    thread = threading.Thread(target=made.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    yield made
    made.hold.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def zoo(server, monkeypatch):
    """Adds an entry for a path of the server to the list of published files."""

    def add(path='/w.pth', **fields):
        entry = Weights('hornet-tiny-gf', 'imagenet-1k', server.url(path), 'https://github.com/of/it', 'MIT', **fields)
        monkeypatch.setattr(download, 'ZOO', (*ZOO, entry))
        return entry.url

    return add


def files_in(folder):
    """All files but the locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock') if folder.is_dir() else []


def test_a_file_is_downloaded_once_under_the_name_of_torch_hub(server):
    path = fetch(server.url('/w.pth'))
    assert path == server.cache / 'w.pth' and path.read_bytes() == WEIGHTS
    assert fetch(server.url('/w.pth')) == path
    assert server.requests == ['/w.pth'] and files_in(server.cache) == ['w.pth']
    assert torch.hub.load_state_dict_from_url(server.url('/w.pth'), weights_only=True)['state_dict']['weight'].sum() == 499500
    assert len(server.requests) == 1


def test_paths_and_other_schemes_stay_as_they_are(tmp_path):
    for given in ('weights.pth', tmp_path / 'a', 's3://bucket/a.pth', 'torchvision://resnet50'):
        assert local_file(given) is given


def test_a_cached_file_is_verified(server, zoo):
    url = zoo(sha256=DIGEST)
    path = fetch(url)
    path.write_bytes(b'changed by the user')
    with pytest.raises(DownloadError, match=f'(?s){DIGEST}.*[0-9a-f]{{64}}'):
        fetch(url)
    assert path.read_bytes() == b'changed by the user'
    path.unlink()
    assert fetch(url).read_bytes() == WEIGHTS


@pytest.mark.parametrize('field', ['sha256', 'sha256_prefix'])
def test_a_file_with_another_sha256_is_not_kept(server, zoo, field):
    expected = '0' * (64 if field == 'sha256' else 8)
    url = zoo(**{field: expected}, mirrors=('https://drive.google.com/file/d/x/view',))
    with pytest.raises(DownloadError) as caught:
        fetch(url)
    message = str(caught.value)
    for part in (expected, DIGEST, 'https://drive.google.com/file/d/x/view', 'https://github.com/of/it'):
        assert part in message
    assert files_in(server.cache) == []


def test_names_of_openmmlab_contain_the_hash():
    stem = 'https://download.openmmlab.com/mmclassification/v0/hornet/hornet-tiny_3rdparty_in1k_20220915-0e8eedff.pth'
    assert stated_hash(stem, None) == '0e8eedff'
    assert stated_hash('https://example.org/model-20220915.pth', None) == ''  # it could be a date
    known = [each for each in ZOO if each.sha256_prefix != 'unknown']
    assert len(known) == 9
    assert all(stated_hash(each.url, each) == each.sha256_prefix == stated_hash(each.url, None) for each in known)


def test_every_published_url_has_its_own_file_name():
    """Shared links end with a slash, and torch.hub would use the folder as the file."""
    addresses = {url for each in ZOO for url in (each.url, *each.mirrors) if url.startswith('http')}
    names = {cached_name(url, next(each for each in ZOO if url in (each.url, *each.mirrors))) for url in addresses}
    assert len(names) == len(addresses) > 50
    assert all(name.endswith('.pth') and '/' not in name and len(name) > 8 for name in names)
    assert cached_name('https://example.org/f/?dl=1', None) != cached_name('https://example.org/g/?dl=1', None)


def test_a_dead_link_names_mirrors_and_how_to_give_a_file(server, zoo):
    url = zoo('/gone.pth', mirrors=('https://elsewhere.org/gone.pth',))
    with pytest.raises(DownloadError) as caught:
        fetch(url)
    message = str(caught.value)
    for part in (url, '404', 'https://elsewhere.org/gone.pth', 'load_from=FILE', str(server.cache / 'gone.pth')):
        assert part in message
    assert files_in(server.cache) == [] and isinstance(caught.value, CheckpointError)


def test_a_refused_connection_is_reported(server):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        address = f'http://127.0.0.1:{unused.getsockname()[1]}/w.pth'
        with pytest.raises(DownloadError, match=r'refused|reset'):
            fetch(address)


def test_a_silent_server_times_out(server, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.5)
    with pytest.raises(DownloadError, match='timed out'):  # before the server closes the connection after 20 s
        fetch(server.url('/silent.pth'))
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ('data', 'announced', 'message'),
    [
        (b'<!DOCTYPE html><html>Please log in</html>', None, 'a page of HTML'),
        (b'', None, 'an empty file'),
        (b'\x80\x02c' + b'posix\nsystem\n.', None, 'not a checkpoint'),
        (WEIGHTS[: len(WEIGHTS) // 2], None, 'not a checkpoint'),
        (WEIGHTS[: len(WEIGHTS) // 2], len(WEIGHTS), 'not a checkpoint|could not be downloaded'),  # the connection breaks off
        (WEIGHTS[:2000] + b'\xff' + WEIGHTS[2001:], None, 'not a checkpoint'),
    ],
    ids=['login page', 'nothing', 'code', 'cut file', 'cut connection', 'damage'],
)
def test_a_wrong_download_is_not_kept(server, data, announced, message):
    server.files['/w.pth'] = (data, len(data) if announced is None else announced)
    if announced:
        server.hold.set()
    with pytest.raises(DownloadError, match=f'(?s)({message}).*path'):
        fetch(server.url('/w.pth'))
    assert files_in(server.cache) == []
    server.files['/w.pth'] = (WEIGHTS, len(WEIGHTS))
    assert fetch(server.url('/w.pth')).read_bytes() == WEIGHTS


FETCH = """
import os, sys
from mmfreq.weights.download import fetch
for _ in range(int(sys.argv[2]) - 1):
    if os.fork() == 0:
        break
os.write(1, fetch(sys.argv[1]).as_posix().encode() + bytes([10]))  # one write, as other processes print, too
"""


def start(url, server, processes=1):
    """A process that imports mmfreq and then forks; each process prints the path of its file."""
    environment = {**os.environ, 'TORCH_HOME': str(server.cache.parents[1])}
    command = [sys.executable, '-c', FETCH, url, str(processes)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_download_leaves_no_file_of_the_final_name(server):
    server.files['/slow.pth'] = (WEIGHTS[:2000], len(WEIGHTS))
    process = start(server.url('/slow.pth'), server)
    try:
        deadline = time.monotonic() + 60
        while not any('.download' in name for name in files_in(server.cache)) and time.monotonic() < deadline:
            time.sleep(0.05)
        begun = files_in(server.cache)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert begun and 'slow.pth' not in begun
    server.hold.set()
    server.files['/slow.pth'] = (WEIGHTS, len(WEIGHTS))
    assert fetch(server.url('/slow.pth')).read_bytes() == WEIGHTS
    assert files_in(server.cache) == ['slow.pth']  # the partial file is removed


@pytest.mark.slow
def test_of_several_processes_one_downloads(server):
    process = start(server.url('/w.pth'), server, processes=3)
    assert process.communicate(timeout=120)[0].splitlines() == [str(server.cache / 'w.pth')] * 3
    assert server.requests == ['/w.pth']


def test_load_weights_and_init_cfg_take_a_url(server):
    model = mmfreq.build_backbone('hornet-micro')
    data = saved(model.state_dict())
    server.files['/micro.pth'] = (data, len(data))
    url = server.url('/micro.pth')
    report = mmfreq.load_weights(mmfreq.build_backbone('hornet-micro'), url)
    assert report.source == url and report.loaded == len(model.state_dict())
    other = mmfreq.build_backbone('hornet-micro', init_cfg={'type': 'Pretrained', 'checkpoint': url})
    other.init_weights()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert server.requests == ['/micro.pth'] and read_checkpoint(server.cache / 'micro.pth')
