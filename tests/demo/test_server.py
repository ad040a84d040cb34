"""The HTTP API of the page: its responses and what it refuses."""

import base64
import json
import pickle
import socket
import zlib
from http.client import HTTPConnection

import cv2
import numpy as np
import pytest

from mmfreq.apis.inference import load_predictor
from mmfreq.datasets import TOY_METAINFO
from mmfreq.demo.server import MAX_BYTES, make_server
from mmfreq.errors import UserError


@pytest.fixture(scope='module')
def send(server):
    def send(method, path, body=None, **headers):
        """Status, headers and content of the reply, as data if it is JSON."""
        connection = HTTPConnection(*server.server_address[:2], timeout=60)
        connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.headers, json.loads(content) if reply.headers['Content-Type'] == 'application/json' else content

    return send


@pytest.fixture(scope='module')
def ids(send):
    return {model['name']: model['id'] for model in send('GET', '/api/state')[2]['models']}


@pytest.fixture(scope='module')
def scene(send):
    return send('GET', '/api/samples/0.png')[2]


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_state_lists_the_checkpoints(send, folders):
    status, _, state = send('GET', '/api/state')
    assert status == 200
    assert [model['name'] for model in state['models']] == ['iter_2.pth', 'iter_1.pth', 'epoch_1.pth']
    assert state['models'][0]['folder'] == f'{folders / "seg"} (toy)' and state['models'][0]['trained']
    assert state['note'] == '' and state['device'] == 'cpu' and state['max_bytes'] == MAX_BYTES


def test_page_is_one_file_without_other_hosts(send):
    status, headers, page = send('GET', '/')
    text = page.decode()
    assert status == 200 and headers['Content-Type'] == 'text/html; charset=utf-8'
    assert '<script src' not in text and '<link rel="stylesheet"' not in text and 'innerHTML' not in text
    assert [line for line in text.splitlines() if '//' in line.replace('http://www.w3.org/2000/svg', '') and 'http' in line] == []
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and policy.count('sha256-') == 2
    assert send('GET', '/?from=bookmark')[0] == 200


def test_samples_are_images(send):
    for address in send('GET', '/api/state')[2]['samples']:
        status, headers, data = send('GET', address)
        assert status == 200 and headers['Content-Type'] == 'image/png' and decoded(data).shape == (160, 240, 3)


def test_prediction_equals_that_of_the_predictor(send, ids, scene, folders):
    status, _, response = send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)
    assert status == 200, response
    expected = load_predictor(folders / 'seg/toy.py', folders / 'seg/iter_2.pth')(decoded(scene))
    got = np.frombuffer(zlib.decompress(base64.b64decode(response['labels'])), np.uint8).reshape(160, 240)
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(expected)) > 1
    assert response['uploaded_size'] == response['size'] == [240, 160] and response['seconds']['predict'] > 0
    shares = {entry['name']: entry['share'] for entry in response['legend']}
    assert shares == {TOY_METAINFO['classes'][label]: round((expected == label).mean(), 5) for label in np.unique(expected)}
    assert send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[2]['seconds']['load'] is None


def test_detection_and_segmentation_alternate(send, ids, scene):
    for _ in range(2):
        response = send('POST', f'/api/models/{ids["epoch_1.pth"]}/predict', scene)[2]
        assert response['task'] == 'detection' and len(response['detections']) == 6 and response['detections'][0]['mask'] is None
        scores = [one['score'] for one in response['detections']]
        assert scores == sorted(scores, reverse=True)
        assert send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[2]['task'] == 'segmentation'


def test_filters_or_the_note_without_filters(send, ids):
    response = send('GET', f'/api/models/{ids["iter_2.pth"]}/filters')[2]
    assert response['note'] == '' and response['count'] == len(response['layers']) == 3
    assert all(layer['name'].startswith('backbone.stages.') for layer in response['layers'])
    response = send('GET', f'/api/models/{ids["epoch_1.pth"]}/filters')[2]
    assert response['layers'] == [] and 'AFFNet stores no filters' in response['note']


def test_large_image_is_scaled_down(send, ids):
    wide = cv2.imencode('.jpg', np.zeros((300, 1500, 3), np.uint8))[1].tobytes()
    response = send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', wide)[2]
    assert response['uploaded_size'] == [1500, 300] and response['size'] == [1024, 205]


def test_status_of_invalid_and_too_small_images(send, ids):
    status, _, response = send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', b'hello')
    assert status == 400 and 'not an image' in response['error']
    tiny = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    status, _, response = send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', tiny)
    assert status == 422 and '32x32' in response['error']


def test_long_body_is_refused_without_reading_it(send, server, ids):
    path = f'/api/models/{ids["iter_2.pth"]}/predict'
    status, _, response = send('POST', path, None, Content_Length=str(MAX_BYTES + 1))
    assert status == 413 and 'at most 24 MB' in response['error']
    status, _, response = send('POST', path, b'0' * (MAX_BYTES + 2**20))  # a client that sends all of it gets the response, too
    assert status == 413
    for wrong in ('-1', 'many', '1e3'):
        assert send('POST', path, None, Content_Length=wrong)[0] == 411
    with socket.create_connection(server.server_address[:2], timeout=30) as connection:
        host = '{}:{}'.format(*server.server_address[:2])
        connection.sendall(f'POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nshort'.encode())
        connection.shutdown(socket.SHUT_WR)
        assert b'upload is incomplete' in connection.makefile('rb').read()


def test_unknown_model_ids_are_refused(send, scene):
    for key in ('99', '-1', 'untrained', '..%2F..%2Ftoy', 'a' * 300):
        for method, what in (('POST', 'predict'), ('GET', 'filters')):
            status, _, response = send(method, f'/api/models/{key}/{what}', scene if method == 'POST' else None)
            assert status == 404 and response['error'], key


PATHS = ('/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '//etc/passwd', '/page.html', '/server.py', '/api/samples/../state')
MORE_PATHS = ('/api/samples/99.png', '/api/samples/0', '/api', '/api/models/0/predict', '/api/models/0/filters/..', '/favicon.ico')


def test_no_path_returns_a_file(send):
    replies = {path: send('GET', path)[::2] for path in PATHS + MORE_PATHS}
    assert not {path: reply for path, reply in replies.items() if reply != (404, {'error': 'There is no such page.'})}


def test_other_methods_are_refused_in_json(send):
    status, _, response = send('PUT', '/')
    assert status == 501 and 'PUT' in response['error']
    assert send('POST', '/')[0] == 404


def test_damaged_checkpoint_is_an_error_and_the_server_continues(send, ids, scene):
    for method, what in (('POST', 'predict'), ('GET', 'filters')):
        status, _, response = send(method, f'/api/models/{ids["iter_1.pth"]}/{what}', scene if method == 'POST' else None)
        assert status == 422 and 'iter_1.pth' in response['error']
    assert send('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[0] == 200


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_checkpoint_never_runs_code_and_a_broken_config_is_an_error(folders, tmp_path, scene, capsys):
    mark = tmp_path / 'was run'
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one/toy.py').write_bytes((folders / 'seg/toy.py').read_bytes())
    (tmp_path / 'one/harmful.pth').write_bytes(pickle.dumps({'state_dict': Harmful(str(mark))}))
    (tmp_path / 'two').mkdir()
    (tmp_path / 'two/broken.py').write_text("default_scope = 'mmseg'\nmodel = dict(type='NoSuchModel')\n")
    (tmp_path / 'two/x.pth').write_bytes(b'')
    with make_server(folders=[tmp_path], port=0) as server:
        for key, source in server.models.sources.items():
            with pytest.raises(Exception) as raised:
                server.predict(key, scene)
            assert ('NoSuchModel' if source.config.stem == 'broken' else 'harmful.pth') in str(raised.value)
    assert not mark.exists()


def test_other_host_names_are_refused(send):
    for host in ('evil.example', 'localhost.evil.example', '127.0.0.1.evil.example:80', '', '[', 'x]'):
        status, _, response = send('GET', '/api/state', Host=host)
        assert status == 403 and 'host' in response['error'], host


def test_names_of_this_host_and_ip_addresses_are_served(send):
    for host in ('localhost', 'LOCALHOST:1234', '127.0.0.1', '[::1]:8000', '192.168.1.5:80'):
        assert send('GET', '/api/state', Host=host)[0] == 200, host


def test_a_post_from_another_page_is_refused(send, server, ids, scene):
    path = f'/api/models/{ids["iter_2.pth"]}/predict'
    for origin in ('http://evil.example', 'null', 'http://127.0.0.1:1'):
        assert send('POST', path, scene, Origin=origin)[0] == 403
    assert send('POST', path, scene, Origin=server.url.rstrip('/'))[0] == 200


def test_used_port_is_a_user_error(server, tmp_path):
    with pytest.raises(UserError, match=r'Cannot listen on 127\.0\.0\.1.*--port 0'):
        make_server(folders=[tmp_path], port=server.server_address[1])
    with pytest.raises(UserError, match=r'Cannot listen on no\.such\.host'):
        make_server(folders=[tmp_path], host='no.such.host.invalid', port=0)


def test_untrained_model_is_offered_if_nothing_is_found(tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    with make_server(port=0) as server:
        state = server.state()
        assert 'work_dirs' in state['note'] and 'quickstart.sh' in state['note']
        assert [(model['trained'], 'NOT trained' in model['name']) for model in state['models']] == [(False, True)]
        assert server.predict('0', scene)['legend'] and server.filters('0')['layers']


def test_given_pair_is_listed_first_and_once(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = (folders / 'seg/toy.py', folders / 'seg/iter_1.pth')
    with make_server(*pair, port=0) as server:
        assert [model['name'] for model in server.state()['models']] == ['iter_1.pth']
    with make_server(*pair, folders=[folders / 'seg'], port=0) as server:
        assert [model['name'] for model in server.state()['models']] == ['iter_1.pth', 'iter_2.pth']
