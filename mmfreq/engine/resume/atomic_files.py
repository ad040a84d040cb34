"""Files that are whole or not there: written under a temporary name, then renamed.

mmengine writes a checkpoint in place; a process that dies on the way leaves half a file under the final name. The backend here
is chosen by `backend_args=dict(backend='mmfreq.atomic')` wherever mmengine takes `backend_args`.
"""

import errno
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmfreq.errors import UserError

ATOMIC = 'mmfreq.atomic'
PART = '.part'  # end of the temporary names
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(UserError, OSError):
    """There was no room for a file; what was there before is as it was."""


def write_atomically(path, content):
    """Write bytes to a file, which holds either all of them or what it held before, whatever happens meanwhile.

    The rename is atomic within one file system; the content is on the disk before it.

    Raises:
        DiskFullError: no space, or a quota was reached; says how much was to be written.
        OSError: anything else that kept it from being written. Nothing is left behind in either case.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.{os.getpid()}{PART}')
    try:
        with open(part, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFullError(
                f'no room for {path} ({len(content) / 2**20:.0f} MiB): {os.strerror(error.errno)}. Earlier checkpoints are as they '
                'were. Make room, or keep fewer (default_hooks.checkpoint.max_keep_ckpts=N), and go on with --resume.'
            ) from error
        raise
    _sync_folder(path.parent)


def remove_parts(folder):
    """Remove what writers that were killed have left in a folder; returns the names."""
    parts = sorted(path for path in Path(folder).glob(f'.*{PART}') if not _is_running(path))
    for path in parts:
        path.unlink(missing_ok=True)
    return [path.name for path in parts]


@register_backend(ATOMIC)
class AtomicBackend(LocalBackend):
    """The local file system of mmengine, with `put` and `put_text` that leave whole files or nothing."""

    def put(self, obj, filepath):
        write_atomically(filepath, obj)

    def put_text(self, obj, filepath, encoding='utf-8'):
        write_atomically(filepath, obj.encode(encoding))


def _is_running(part):
    """Whether the process whose number is in a temporary name is there, on this machine."""
    number = part.name.removesuffix(PART).rpartition('.')[2]
    if not number.isdecimal() or int(number) == 0:  # 0 would be this process's group
        return False
    try:
        os.kill(int(number), 0)
    except (OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder):
    """Put the new name itself on the disk; file systems that know no such thing are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
