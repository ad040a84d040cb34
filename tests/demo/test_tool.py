"""tools/demo.py: arguments, output and termination."""

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('demo').main


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['config.py'], 'A config needs its checkpoint'),
        (['config.py', 'weights.pth'], 'There is no file config.py'),
        (['--models', 'absent'], 'There is no folder absent'),
        (['--max-side', '3'], 'must be at least 32'),
        (['--port', '99999'], 'port is 99999'),
    ],
)
def test_error_of_invalid_arguments_is_short(demo, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        demo(arguments)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and message in err and 'Traceback' not in err


def test_used_port_ends_with_status_2(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        with pytest.raises(SystemExit) as ended:
            demo(['--port', str(taken.getsockname()[1])])
    assert ended.value.code == 2 and '--port 0' in capsys.readouterr().err


@pytest.mark.slow
def test_prints_its_url_serves_and_ends_quietly_on_ctrl_c(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/demo.py'), '--port', '0', '--device', 'cpu'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell that starts the tests with `&` ignores SIGINT
    )
    try:
        printed = ''
        for line in process.stdout:
            printed += line
            if match := re.search(r'Open (http://127\.0\.0\.1:\d+/) in a browser', line):
                break
        assert b'<title>mmfreq demo</title>' in urlopen(match[1], timeout=120).read()
        assert '0 checkpoints' in printed and 'quickstart.sh' in printed
        large = cv2.imencode('.jpg', np.zeros((1024, 1024, 3), np.uint8))[1].tobytes()
        address = match[1] + 'api/models/0/predict'
        assert b'"load": null' not in urlopen(address, large, timeout=120).read()
        connections = [HTTPConnection(urlsplit(address).netloc, timeout=120) for _ in range(4)]
        for connection in connections:
            connection.request('POST', urlsplit(address).path, large)
        time.sleep(0.4)  # during a prediction, where a process that ends may abort
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert (process.returncode, 'Traceback' in err) == (0, False), err
    finally:
        process.kill()
        process.wait()
