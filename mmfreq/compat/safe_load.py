"""Reading checkpoints with torch's safe unpickler, mmengine's own included.

torch >= 2.6 loads with `weights_only=True` and refuses mmengine's checkpoints: beside tensors they hold `HistoryBuffer`s,
numpy arrays and numpy scalars. Exactly these are allowed here, and `argparse.Namespace`, a plain bag of attributes, in which the
authors' training scripts keep their options. One name on the list looks dangerous, `builtins.getattr`: a
pickled `HistoryBuffer` refers to its methods `min`, `max`, `current` and `mean` by it. What stands behind the name here is
not `getattr` but a function that hands out public methods of `HistoryBuffer` and nothing else.
"""

import os
import pickle
import re
import zipfile
import zlib
from argparse import Namespace
from functools import cache
from pathlib import Path
from types import FunctionType

from mmfreq.compat.file_kind import file_kind

SAVE_TENSORS = (
    'If you trust the origin of the file, save its tensors alone where it was made: '
    "torch.save({'state_dict': model.state_dict()}, FILE)"
)
_NUMBERS = '?bhilqBHILQefd'  # numpy's bools, integers and floats; no objects


class CheckpointError(ValueError):
    """A checkpoint could not be read; the message says why and what to do."""


def _history_buffer_method(owner, name):
    """The one use of `getattr` in mmengine's checkpoints."""
    from mmengine.logging import HistoryBuffer

    method = vars(HistoryBuffer).get(name) if isinstance(name, str) and not name.startswith('_') else None
    if owner is not HistoryBuffer or not isinstance(method, FunctionType):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr was refused: it asks for {name!r} of {owner!r}')
    return method


def _latin1(text, encoding):
    """The one use of `_codecs.encode` in checkpoints: the bytes of numpy's arrays and scalars."""
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode was refused: it asks for {encoding!r} of a {type(text).__name__}')
    return text.encode(encoding)


def _named(function, name):
    """A function for the list, under the name that checkpoints have for it: torch 2.4 and 2.5 read the name off the function."""

    def stands_for(*arguments):
        return function(*arguments)

    stands_for.__module__, _, stands_for.__name__ = name.rpartition('.')
    return stands_for


@cache
def _mmengine_globals():
    """The list: types, and functions or (function, name under which a checkpoint knows it)."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    rebuild = np.ndarray(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = [Namespace, HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in _NUMBERS}]
    functions = {'builtins.getattr': _history_buffer_method}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # before numpy 2, and since
        functions |= {f'{module}._reconstruct': rebuild, f'{module}.scalar': scalar}
    by_pair = torch.__version__ >= (2, 6)
    if not by_pair:  # later ones allow it themselves
        functions['_codecs.encode'] = _latin1
    return allowed + [(function, name) if by_pair else _named(function, name) for name, function in functions.items()]


def allow_mmengine_checkpoints():
    """Let `torch.load(..., weights_only=True)` read mmengine's checkpoints, everywhere in this process. Idempotent.

    Does nothing where torch is older than 2.4 and has no such list. Not allowed: arrays of Python objects or strings,
    statistics methods that a user has registered with `HistoryBuffer.register_statistics`, and whatever else a project puts
    into its checkpoints.
    """
    import torch

    if hasattr(torch.serialization, 'add_safe_globals'):
        torch.serialization.add_safe_globals(_mmengine_globals())


def read_checkpoint(path):
    """The object in the file `path`, on the CPU; never runs code out of it.

    Raises `CheckpointError` where there is no such file, where it is truncated, damaged or no checkpoint, and where it holds other
    types than tensors, plain containers and what mmengine writes. What is behind an address `checkpoint.download` fetches.
    """
    import torch

    allow_mmengine_checkpoints()
    if re.match('https?://', str(path)):
        raise CheckpointError(f'{path} is an address: fetch its file with mmfreq.weights.download.fetch, and read that')
    path = _existing_file(path)
    what = f'the checkpoint {path} ({path.stat().st_size} bytes)'
    if _is_torchscript(path):  # torch before 2.6 hands these on to torch.jit.load
        told = f'it is a TorchScript archive, that is a program. It was not executed. {SAVE_TENSORS}'
        raise CheckpointError(f'{what} was not loaded: {told}')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f'{what} could not be read: {error}. Check its permissions') from error
    except Exception as error:
        raise CheckpointError(f'{what} was not loaded: {_reason(error, path)}') from error
    if part := _damaged_part(path):
        raise CheckpointError(
            f'{what} is damaged: the checksum of its part {part} is wrong, so its numbers are too. Download it again'
        )
    return content


def unpickles_by_default():
    """Whether a plain `torch.load(FILE)`, such as mmengine's, would run code: before torch 2.6, or where an environment variable
    asks for it."""
    import torch

    return torch.__version__ < (2, 6) or os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower() in (
        '1',
        'y',
        'yes',
        'true',
    )


def _existing_file(path):
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        found = 'a folder' if path.is_dir() else 'no such file'
        raise CheckpointError(f'no checkpoint at {path}: {found}. Expected a file written by torch.save; check the path')
    return path


def _is_torchscript(path):
    """By the file that torch tells them by."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition('/')[2] == 'constants.pkl' for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _damaged_part(path):
    """The first record whose bytes are not those that were saved, '' if there is none; torch does not look.

    0.25 s for 320 MB, and as long again to load them. Checksums are not written under `set_crc32_options(False)`: they are 0 then.
    """
    if not zipfile.is_zipfile(path):
        return ''
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            try:
                if record.CRC:
                    with archive.open(record) as stream:
                        while stream.read(1 << 20):
                            pass
            except (zipfile.BadZipFile, EOFError, zlib.error):
                return record.filename
    return ''


def _reason(error, path):
    """What the unpickler's error means: something refused, or a file that is no checkpoint."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    refused = re.search(r'GLOBAL\s+(\w[\w.]*\w)', text)
    if refused or re.search('reduce for|Can only (create|build)', text):
        what = f'{refused[1]}, which is not on the list of allowed types' if refused else f'what is not allowed ({text})'
        return f'it asks for {what}. It was not executed. {SAVE_TENSORS}'
    kind = file_kind(path)
    if 'legacy .tar' in text or kind == 'a tar archive':  # torch 2.4 has no word for it
        return f'it is in the tar format of PyTorch before 0.2, which cannot be read safely. It was not executed. {SAVE_TENSORS}'
    if 'safetensors' in kind:
        return 'it is a safetensors file: give safetensors.torch.load_file(FILE) to load_weights, or save that with torch.save'
    known = kind.startswith('a') and kind not in ('a zip archive', 'a Python pickle')
    return f'it is truncated or not a checkpoint ({kind if known else text.splitlines()[0]}). Download it again'
