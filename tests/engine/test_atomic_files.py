"""A file is complete or absent; a full disk is an error that leaves earlier files unchanged."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys

import pytest
from mmengine.fileio import get_file_backend

from mmfreq.engine.resume.atomic_files import ATOMIC, DiskFullError, remove_parts, write_atomically


def test_old_content_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / 'iter_1.pth'
    write_atomically(path, b'old')
    seen = []

    def replace(source, target):
        seen.append((path.read_bytes(), os.path.getsize(source)))
        os.rename(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    write_atomically(path, b'newer')
    assert seen == [(b'old', 5)] and path.read_bytes() == b'newer' and os.listdir(tmp_path) == ['iter_1.pth']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_no_partial_file(tmp_path, monkeypatch, number):
    path = tmp_path / 'iter_1.pth'
    path.write_bytes(b'old')

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(DiskFullError, match=r'iter_1\.pth.*max_keep_ckpts'):
        write_atomically(path, b'newer')
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['iter_1.pth']


def test_other_errors_propagate(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'replace', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / 'x', b'')
    assert not os.listdir(tmp_path)


def write_within_a_limit(path):
    """In a child process: exits with the error's number."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        write_atomically(path, bytes(1 << 20))
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)


def test_file_size_limit_of_the_system(tmp_path):
    """A file size limit stands for the quota: the write itself fails."""
    process = multiprocessing.get_context('fork').Process(target=write_within_a_limit, args=(tmp_path / 'big',))
    process.start()
    process.join()
    assert process.exitcode == errno.EFBIG and not os.listdir(tmp_path)


def test_partial_files_of_dead_processes_are_removed(tmp_path):
    gone = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True, check=True)
    dead, living = f'.iter_1.pth.{gone.stdout.strip()}.part', f'.iter_2.pth.{os.getpid()}.part'
    for name in (dead, living, 'iter_3.pth', '.x.part'):
        (tmp_path / name).write_bytes(b'')
    assert remove_parts(tmp_path) == [dead, '.x.part'][:: 1 if dead < '.x.part' else -1]
    assert sorted(os.listdir(tmp_path)) == sorted([living, 'iter_3.pth'])


def test_backend_is_registered_with_mmengine(tmp_path):
    backend = get_file_backend(str(tmp_path), backend_args={'backend': ATOMIC})
    backend.put(b'content', tmp_path / 'new' / 'file')
    backend.put_text('text', tmp_path / 'new' / 'other')
    assert backend.get(tmp_path / 'new' / 'file') == b'content' and backend.get_text(tmp_path / 'new' / 'other') == 'text'
