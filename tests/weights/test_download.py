"""The transfer of one file: resumed, complete, or an error that names what the server sent instead."""

import re
import socket
import time

import pytest
import torch

from mmfreq.weights import download as module
from mmfreq.weights.download import DownloadError, answering, direct_url, download, is_offline
from tests.weights.loopback import GOOGLE_QUOTA, GOOGLE_SCAN, LOGIN, PAGE, Resource, saved, serving

DATA = saved({'state_dict': {'weight': torch.arange(300_000.0)}})  # 1.2 MB, more than a chunk
HALF = len(DATA) // 2


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, 'PAUSE', 0.0)
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'MMFREQ_OFFLINE'):
        monkeypatch.delenv(name, raising=False)
    with serving() as made:
        yield made


@pytest.fixture
def partial(tmp_path):
    return tmp_path / '.w.pth.download'


def test_a_file(server, partial, capsys):
    server.files['/w.pth'] = Resource(DATA)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and server.requests == [('/w.pth', None)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == f'w.pth: 100 % of {len(DATA) / 2**20:.1f} MiB' and len(lines) <= 10


def test_half_of_it_then_the_rest_by_range(server, partial):
    server.files['/w.pth'] = Resource(DATA, breaks=HALF)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA
    assert server.requests == [('/w.pth', None), ('/w.pth', f'bytes={HALF}-')]


def test_a_later_process_goes_on(server, partial, monkeypatch):
    server.files['/w.pth'] = Resource(DATA, breaks=HALF)
    monkeypatch.setattr(module, 'ATTEMPTS', 1)
    with pytest.raises(DownloadError, match=f'announced {len(DATA)} bytes and sent {HALF}'):
        download(server.url('/w.pth'), partial)
    assert partial.stat().st_size == HALF
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and server.requests[-1] == ('/w.pth', f'bytes={HALF}-')


CHANGES = {
    'another ETag': ('"v1"', dict(etag='"v2"')),
    'another length, no version': ('', dict(etag='')),
    'the same length, no version': ('', dict(etag='')),
    'the same length, a weak version': ('W/"v1"', dict(etag='W/"v1"')),
    'another ETag, If-Range ignored': ('"v1"', dict(etag='"v2"', any_version=True)),
}


@pytest.mark.parametrize(('name', 'etag', 'changed'), [(name, *each) for name, each in CHANGES.items()], ids=CHANGES)
def test_a_file_that_changed_meanwhile_is_transferred_again(server, partial, monkeypatch, name, etag, changed):
    server.files['/w.pth'] = Resource(DATA, breaks=HALF, etag=etag)
    with monkeypatch.context() as patch:
        patch.setattr(module, 'ATTEMPTS', 1)
        with pytest.raises(DownloadError):
            download(server.url('/w.pth'), partial)
    other = DATA + b'more' if name.startswith('another length') else DATA[::-1]
    server.files['/w.pth'] = Resource(other, **changed)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == other


def test_the_partial_file_of_another_url_is_not_continued(server, partial, monkeypatch):
    server.files['/a.pth'] = Resource(DATA, breaks=HALF)
    server.files['/b.pth'] = Resource(DATA[::-1])
    with monkeypatch.context() as patch:
        patch.setattr(module, 'ATTEMPTS', 1)
        with pytest.raises(DownloadError):
            download(server.url('/a.pth'), partial)
    download(server.url('/b.pth'), partial)
    assert partial.read_bytes() == DATA[::-1] and server.requests[-1] == ('/b.pth', None)


def test_a_server_without_ranges_sends_it_again(server, partial):
    server.files['/w.pth'] = Resource(DATA, ranges=False, breaks=HALF)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and len(server.requests) == 2


@pytest.mark.parametrize('part', ['nonsense', 'bytes 900000-1200000/1200000'])
def test_a_part_that_was_not_asked_for_is_not_taken(server, partial, part):
    server.files['/w.pth'] = Resource(DATA, breaks=HALF, part=part)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and [asked for _, asked in server.requests] == [None, f'bytes={HALF}-', None]


def test_a_busy_server_is_asked_again(server, partial, monkeypatch):
    server.files['/w.pth'] = Resource(DATA, busy=1)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and len(server.requests) == 2
    server.files['/x.pth'] = Resource(DATA, busy=9)
    with pytest.raises(DownloadError, match=r'/x\.pth could not be downloaded: the server answered 503 Service Unavailable'):
        download(server.url('/x.pth'), partial)


def test_a_complete_partial_file_is_recognised(server, partial):
    server.files['/w.pth'] = Resource(DATA)
    download(server.url('/w.pth'), partial)
    download(server.url('/w.pth'), partial)
    assert partial.read_bytes() == DATA and server.requests[-1] == ('/w.pth', f'bytes={len(DATA)}-')


def test_a_transfer_that_makes_no_progress_ends(server, partial):
    server.files['/w.pth'] = Resource(DATA, announced=len(DATA) + 1000)
    with pytest.raises(DownloadError, match=f'announced {len(DATA) + 1000} bytes and sent {len(DATA)}'):
        download(server.url('/w.pth'), partial)
    assert len(server.requests) <= 3


def test_a_link_that_redirects_once_is_asked_again(server, partial):
    """As Seafile's: the address that it redirects to is valid for one request."""
    server.once['/seafhttp/1'] = Resource(DATA, breaks=HALF)
    server.files['/f/abc/?dl=1'] = Resource(redirect='/seafhttp/1')
    download(server.url('/f/abc/?dl=1'), partial)
    assert partial.read_bytes() == DATA
    assert [path for path, _ in server.requests] == ['/f/abc/?dl=1', '/seafhttp/1'] * 2
    assert server.requests[-1][1] == f'bytes={HALF}-'


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (PAGE, 'sent a page of HTML instead of the file'),
        (LOGIN, 'sent a login page instead'),
        (GOOGLE_SCAN, "sent Google Drive's virus-scan page instead"),
        (GOOGLE_QUOTA, "sent Google Drive's quota page (the file was requested too often) instead"),
        (b'', 'sent an empty file'),
    ],
    ids=['page', 'login', 'virus scan', 'quota', 'empty'],
)
def test_what_is_no_file_is_named(server, partial, data, message):
    server.files['/w.pth'] = Resource(data)
    with pytest.raises(DownloadError, match=re.escape(message)):
        download(server.url('/w.pth'), partial)
    assert not partial.exists()
    assert message in str(answering([server.url('/w.pth')], 5)[1])


@pytest.mark.parametrize('status', [403, 404, 500])
def test_a_status_is_reported(server, partial, status):
    server.files['/w.pth'] = Resource(status=status)
    with pytest.raises(DownloadError, match=f'the server answered {status}'):
        download(server.url('/w.pth'), partial)


def test_a_refused_connection_is_reported(partial):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        with pytest.raises(DownloadError, match=r'refused|reset'):
            download(f'http://127.0.0.1:{unused.getsockname()[1]}/w.pth', partial)


def test_a_silent_server_times_out(server, partial, monkeypatch):
    monkeypatch.setattr(module, 'TIMEOUT', 0.5)
    server.files['/w.pth'] = Resource(DATA, hold=True)
    with pytest.raises(DownloadError, match='timed out'):
        download(server.url('/w.pth'), partial)


def test_a_proxy_is_used(server, partial, monkeypatch):
    server.files['http://weights.example.org/w.pth'] = Resource(DATA)
    monkeypatch.setenv('http_proxy', server.url(''))
    monkeypatch.setenv('no_proxy', '')
    download('http://weights.example.org/w.pth', partial)
    assert partial.read_bytes() == DATA


@pytest.mark.parametrize('value', ['1', 'true', 'yes', 'ON'])
def test_offline_forbids_connections(server, partial, monkeypatch, value):
    monkeypatch.setenv('MMFREQ_OFFLINE', value)
    server.files['/w.pth'] = Resource(DATA)
    with pytest.raises(DownloadError, match='MMFREQ_OFFLINE forbids connections'):
        download(server.url('/w.pth'), partial)
    assert answering([server.url('/w.pth')], 5) == ([], {server.url('/w.pth'): 'MMFREQ_OFFLINE forbids connections'})
    assert not server.requests
    monkeypatch.setenv('MMFREQ_OFFLINE', '0')
    assert not is_offline()


def test_all_urls_are_asked_at_once(server, monkeypatch):
    """A host that does not answer, and a name that is not resolved, cost the deadline once."""
    server.files |= {'/silent.pth': Resource(DATA, hold=True), '/w.pth': Resource(DATA)}

    def lookup(host, *args, real=socket.getaddrinfo, **kwargs):
        if host == 'slow.example.org':
            time.sleep(12)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, 'getaddrinfo', lookup)
    urls = [server.url('/silent.pth'), server.url('/w.pth'), server.url('/none.pth'), 'http://slow.example.org/w.pth']
    start = time.monotonic()
    good, faults = answering(urls, 4)
    assert time.monotonic() - start < 8
    assert good == [server.url('/w.pth')]
    assert set(faults) == {urls[0], urls[2], urls[3]}
    assert '404' in faults[urls[2]] and faults[urls[3]] == 'no answer within 4 s'


def test_google_links_become_direct_ones():
    direct = 'https://drive.usercontent.google.com/download?id=1_xrfC7c-D&export=download&confirm=t'
    for link in ('file/d/1_xrfC7c-D/view', 'open?id=1_xrfC7c-D', 'uc?id=1_xrfC7c-D', 'uc?export=download&id=1_xrfC7c-D'):
        assert direct_url(f'https://drive.google.com/{link}') == direct
    assert direct_url('https://example.org/w.pth') == 'https://example.org/w.pth'
