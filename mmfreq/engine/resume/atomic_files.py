"""Write files that are complete or absent: under a temporary name first, which is then renamed.

mmengine writes a checkpoint in place; a process that is killed meanwhile leaves half a file under the final name. This backend is
chosen by `backend_args=dict(backend='mmfreq.atomic')`, wherever mmengine takes `backend_args`.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmfreq.errors import UserError

ATOMIC = 'mmfreq.atomic'
PART = '.part'  # suffix of the temporary names
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(UserError, OSError):
    """There is no space for a file; the previous content of the file is unchanged."""


def write_atomically(path, content):
    """Write bytes to a file, so that after a crash the file holds either all of them or its previous content.

    The content is synced to the disk before the rename, which is atomic within one file system.

    Raises:
        DiskFullError: no space, or a quota was reached; with the size of the content.
        OSError: another failure. Nothing is left behind in either case.
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
                f'There is no space for {path} ({len(content) / 2**20:.0f} MiB): {os.strerror(error.errno)}. Earlier checkpoints '
                'are unchanged. Free space or keep fewer checkpoints (default_hooks.checkpoint.max_keep_ckpts=N), and continue '
                'with --resume.'
            ) from error
        raise
    _sync_folder(path.parent)


def remove_parts(folder):
    """Remove the temporary files of killed writers from a folder; returns their names."""
    parts = sorted(path for path in Path(folder).glob(f'.*{PART}') if not _writer_is_running(path))
    for path in parts:
        path.unlink(missing_ok=True)
    return [path.name for path in parts]


@register_backend(ATOMIC)
class AtomicBackend(LocalBackend):
    """mmengine's local file system, whose `put` and `put_text` write complete files or nothing."""

    def put(self, obj, filepath):
        write_atomically(filepath, obj)

    def put_text(self, obj, filepath, encoding='utf-8'):
        write_atomically(filepath, obj.encode(encoding))


def _writer_is_running(part):
    """Whether the process whose id is in a temporary name is running on this host."""
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
    """Sync the new name to the disk, on file systems that can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
