"""The API by http.client: what it gives, and what it refuses."""

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
def ask(server):
    def ask(method, path, body=None, **headers):
        """Status, headers and content of the reply, as data if it is JSON."""
        connection = HTTPConnection(*server.server_address[:2], timeout=60)
        connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.headers, json.loads(content) if reply.headers['Content-Type'] == 'application/json' else content

    return ask


@pytest.fixture(scope='module')
def ids(ask):
    return {model['name']: model['id'] for model in ask('GET', '/api/state')[2]['models']}


@pytest.fixture(scope='module')
def scene(ask):
    return ask('GET', '/api/samples/0.png')[2]


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_state_lists_what_was_found_at_the_start(ask, folders):
    status, _, state = ask('GET', '/api/state')
    assert status == 200
    assert [model['name'] for model in state['models']] == ['iter_2.pth', 'iter_1.pth', 'epoch_1.pth']
    assert state['models'][0]['folder'] == f'{folders / "seg"} (toy)' and state['models'][0]['trained']
    assert state['note'] == '' and state['device'] == 'cpu' and state['max_bytes'] == MAX_BYTES


def test_the_page_is_one_file_that_names_no_other_host(ask):
    status, headers, page = ask('GET', '/')
    text = page.decode()
    assert status == 200 and headers['Content-Type'] == 'text/html; charset=utf-8'
    assert '<script src' not in text and '<link rel="stylesheet"' not in text and 'innerHTML' not in text
    assert [line for line in text.splitlines() if '//' in line.replace('http://www.w3.org/2000/svg', '') and 'http' in line] == []
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and policy.count('sha256-') == 2
    assert ask('GET', '/?from=bookmark')[0] == 200


def test_samples_are_pictures(ask):
    for address in ask('GET', '/api/state')[2]['samples']:
        status, headers, data = ask('GET', address)
        assert status == 200 and headers['Content-Type'] == 'image/png' and decoded(data).shape == (160, 240, 3)


def test_a_prediction_is_the_predictors(ask, ids, scene, folders):
    status, _, told = ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)
    assert status == 200, told
    expected = load_predictor(folders / 'seg/toy.py', folders / 'seg/iter_2.pth')(decoded(scene))
    got = np.frombuffer(zlib.decompress(base64.b64decode(told['labels'])), np.uint8).reshape(160, 240)
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(expected)) > 1
    assert told['picture'] == told['size'] == [240, 160] and told['seconds']['predict'] > 0
    shares = {entry['name']: entry['share'] for entry in told['legend']}
    assert shares == {TOY_METAINFO['classes'][label]: round((expected == label).mean(), 5) for label in np.unique(expected)}
    assert ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[2]['seconds']['load'] is None


def test_detections_and_segmentations_take_turns(ask, ids, scene):
    for _ in range(2):
        told = ask('POST', f'/api/models/{ids["epoch_1.pth"]}/predict', scene)[2]
        assert told['task'] == 'detection' and len(told['detections']) == 6 and told['detections'][0]['mask'] is None
        scores = [one['score'] for one in told['detections']]
        assert scores == sorted(scores, reverse=True)
        assert ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[2]['task'] == 'segmentation'


def test_filters_or_why_there_are_none(ask, ids):
    told = ask('GET', f'/api/models/{ids["iter_2.pth"]}/filters')[2]
    assert told['note'] == '' and told['count'] == len(told['layers']) == 3
    assert all(layer['name'].startswith('backbone.stages.') for layer in told['layers'])
    told = ask('GET', f'/api/models/{ids["epoch_1.pth"]}/filters')[2]
    assert told['layers'] == [] and 'AFFNet stores no filters' in told['note']


def test_a_large_picture_is_scaled_down(ask, ids):
    wide = cv2.imencode('.jpg', np.zeros((300, 1500, 3), np.uint8))[1].tobytes()
    told = ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', wide)[2]
    assert told['picture'] == [1500, 300] and told['size'] == [1024, 205]


def test_what_is_no_picture_is_the_clients_fault(ask, ids):
    status, _, told = ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', b'hello')
    assert status == 400 and 'not a picture' in told['error']
    tiny = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    status, _, told = ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', tiny)
    assert status == 422 and '32x32' in told['error']


def test_a_long_body_is_refused_unread(ask, server, ids):
    path = f'/api/models/{ids["iter_2.pth"]}/predict'
    status, _, told = ask('POST', path, None, Content_Length=str(MAX_BYTES + 1))
    assert status == 413 and 'at most 24 MB' in told['error']
    status, _, told = ask('POST', path, b'0' * (MAX_BYTES + 2**20))  # a client that sends all of it gets the reply as well
    assert status == 413
    for wrong in ('-1', 'many', '1e3'):
        assert ask('POST', path, None, Content_Length=wrong)[0] == 411
    with socket.create_connection(server.server_address[:2], timeout=30) as connection:
        host = '{}:{}'.format(*server.server_address[:2])
        connection.sendall(f'POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nshort'.encode())
        connection.shutdown(socket.SHUT_WR)
        assert b'did not arrive whole' in connection.makefile('rb').read()


def test_only_models_that_were_found_can_be_picked(ask, scene):
    for key in ('99', '-1', 'untrained', '..%2F..%2Ftoy', 'a' * 300):
        for method, what in (('POST', 'predict'), ('GET', 'filters')):
            status, _, told = ask(method, f'/api/models/{key}/{what}', scene if method == 'POST' else None)
            assert status == 404 and told['error'], key


PATHS = ('/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '//etc/passwd', '/page.html', '/server.py', '/api/samples/../state')
MORE_PATHS = ('/api/samples/99.png', '/api/samples/0', '/api', '/api/models/0/predict', '/api/models/0/filters/..', '/favicon.ico')


def test_no_path_leads_to_a_file(ask):
    replies = {path: ask('GET', path)[::2] for path in PATHS + MORE_PATHS}
    assert not {path: reply for path, reply in replies.items() if reply != (404, {'error': 'there is no such page'})}


def test_other_methods_are_refused_in_json(ask):
    status, _, told = ask('PUT', '/')
    assert status == 501 and 'PUT' in told['error']
    assert ask('POST', '/')[0] == 404


def test_a_damaged_checkpoint_is_told_and_does_no_harm(ask, ids, scene):
    for method, what in (('POST', 'predict'), ('GET', 'filters')):
        status, _, told = ask(method, f'/api/models/{ids["iter_1.pth"]}/{what}', scene if method == 'POST' else None)
        assert status == 422 and 'iter_1.pth' in told['error']
    assert ask('POST', f'/api/models/{ids["iter_2.pth"]}/predict', scene)[0] == 200


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_a_checkpoint_never_runs_code_and_a_broken_config_is_told(folders, tmp_path, scene, capsys):
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


def test_another_hosts_name_is_refused(ask):
    for host in ('evil.example', 'localhost.evil.example', '127.0.0.1.evil.example:80', '', '[', 'x]'):
        status, _, told = ask('GET', '/api/state', Host=host)
        assert status == 403 and 'host' in told['error'], host


def test_this_machines_names_and_all_numbers_are_served(ask):
    for host in ('localhost', 'LOCALHOST:1234', '127.0.0.1', '[::1]:8000', '192.168.1.5:80'):
        assert ask('GET', '/api/state', Host=host)[0] == 200, host


def test_a_post_from_another_page_is_refused(ask, server, ids, scene):
    path = f'/api/models/{ids["iter_2.pth"]}/predict'
    for origin in ('http://evil.example', 'null', 'http://127.0.0.1:1'):
        assert ask('POST', path, scene, Origin=origin)[0] == 403
    assert ask('POST', path, scene, Origin=server.url.rstrip('/'))[0] == 200


def test_a_port_that_is_taken_is_a_users_error(server, tmp_path):
    with pytest.raises(UserError, match=r'cannot listen on 127\.0\.0\.1.*--port 0'):
        make_server(folders=[tmp_path], port=server.server_address[1])
    with pytest.raises(UserError, match=r'cannot listen on no\.such\.host'):
        make_server(folders=[tmp_path], host='no.such.host.invalid', port=0)


def test_with_nothing_found_there_is_an_untrained_model_that_says_so(tmp_path, monkeypatch, scene):
    monkeypatch.chdir(tmp_path)
    with make_server(port=0) as server:
        state = server.state()
        assert 'work_dirs' in state['note'] and 'quickstart.sh' in state['note']
        assert [(model['trained'], 'NOT trained' in model['name']) for model in state['models']] == [(False, True)]
        assert server.predict('0', scene)['legend'] and server.filters('0')['layers']


def test_a_named_pair_comes_first_and_once(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair = (folders / 'seg/toy.py', folders / 'seg/iter_1.pth')
    with make_server(*pair, port=0) as server:
        assert [model['name'] for model in server.state()['models']] == ['iter_1.pth']
    with make_server(*pair, folders=[folders / 'seg'], port=0) as server:
        assert [model['name'] for model in server.state()['models']] == ['iter_1.pth', 'iter_2.pth']
