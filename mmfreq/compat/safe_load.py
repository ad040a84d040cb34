"""Reading checkpoints, `.safetensors` or with torch's safe unpickler, mmengine's own included.

torch >= 2.6 loads with `weights_only=True` and refuses mmengine's checkpoints: beside tensors they hold `HistoryBuffer`s, numpy
arrays and numpy scalars. Exactly these are allowed here, and `argparse.Namespace`, a plain container of attributes, in which the
authors' training scripts store their options. One allowed name looks dangerous, `builtins.getattr`: a pickled `HistoryBuffer`
refers to its methods `min`, `max`, `current` and `mean` by it. It is mapped to a function that returns public methods of
`HistoryBuffer` and refuses everything else.
"""

import json
import os
import pickle
import re
import zipfile
import zlib
from argparse import Namespace
from functools import cache
from pathlib import Path
from types import FunctionType

from mmfreq.compat.file_type import describe_file

SAVE_TENSORS = (
    "If you trust the file, save only its tensors where it was made: torch.save({'state_dict': model.state_dict()}, FILE)"
)
SAFETENSORS_META = 'mmfreq_meta'  # key of the metadata of a safetensors file: the `meta` of a checkpoint of mmengine, as JSON
_NUMBERS = '?bhilqBHILQefd'  # numpy's bools, integers and floats; no objects


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model; the message gives the reason and the remedy."""


def _history_buffer_method(owner, name):
    """What `getattr` is needed for in mmengine's checkpoints: the statistics methods of `HistoryBuffer`."""
    from mmengine.logging import HistoryBuffer

    method = vars(HistoryBuffer).get(name) if isinstance(name, str) and not name.startswith('_') else None
    if owner is not HistoryBuffer or not isinstance(method, FunctionType):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr was refused: it requests {name!r} of {owner!r}')
    return method


def _latin1(text, encoding):
    """What `_codecs.encode` is needed for in checkpoints: the bytes of numpy's arrays and scalars."""
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode was refused: it requests {encoding!r} of a {type(text).__name__}')
    return text.encode(encoding)


def _renamed(function, name):
    """The function under the name that checkpoints use: torch 2.4 and 2.5 read the name from the function itself."""

    def renamed(*arguments):
        return function(*arguments)

    renamed.__module__, _, renamed.__name__ = name.rpartition('.')
    return renamed


@cache
def _mmengine_globals():
    """The allowed types, and functions or pairs (function, name in checkpoints)."""
    import numpy as np
    import torch
    from mmengine.logging import HistoryBuffer

    rebuild = np.ndarray(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed = [Namespace, HistoryBuffer, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in _NUMBERS}]
    functions = {'builtins.getattr': _history_buffer_method}
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # before numpy 2, and since
        functions |= {f'{module}._reconstruct': rebuild, f'{module}.scalar': scalar}
    if torch.__version__ >= (2, 6):  # takes pairs, and allows _codecs.encode itself
        return allowed + [(function, name) for name, function in functions.items()]
    functions['_codecs.encode'] = _latin1
    return allowed + [_renamed(function, name) for name, function in functions.items()]


def allow_mmengine_checkpoints():
    """Let `torch.load(..., weights_only=True)` read mmengine's checkpoints, everywhere in this process. Idempotent.

    Does nothing with torch older than 2.4, which has no list of allowed types. Not allowed: arrays of Python objects or strings,
    methods that a user has registered with `HistoryBuffer.register_statistics`, and other types that a project may save.
    """
    import torch

    if hasattr(torch.serialization, 'add_safe_globals'):
        torch.serialization.add_safe_globals(_mmengine_globals())


def read_checkpoint(path, map_location='cpu'):
    """The object in the file `path`; never runs code from the file.

    Files in the format of safetensors, whatever their name, give their tensors as a dict; those that
    mmfreq has written as `{'meta': ..., 'state_dict': ...}`.

    Args:
        map_location: as in `torch.load`; by default tensors are on the CPU. For safetensors, a device or None.

    Raises:
        ValueError: the device does not exist here.
        CheckpointError: the file is missing, truncated, damaged or not a checkpoint, or it holds other types than tensors, plain
            containers and what mmengine writes. URLs and names are refused, too: `weights.store.local_file` downloads them.
    """
    import torch

    allow_mmengine_checkpoints()
    _check_device(map_location)
    if re.match('https?://|mmfreq://|hf-hub:', str(path)):
        raise CheckpointError(f'Expected a file, got {path}. Download it with mmfreq.weights.store.local_file first.')
    path = _existing_file(path)
    checkpoint = f'The checkpoint {path} ({path.stat().st_size} bytes)'
    if 'safetensors' in describe_file(path):
        return _read_safetensors(path, checkpoint, map_location)
    if _is_torchscript(path):  # torch before 2.6 passes these to torch.jit.load
        raise CheckpointError(
            f'{checkpoint} was not loaded: it is a TorchScript archive, which is a program. It was not executed. {SAVE_TENSORS}'
        )
    try:
        with open(path, 'rb') as file:  # given a path, torch judges the format by the suffix
            content = torch.load(file, map_location=map_location, weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f'{checkpoint} could not be read: {error}. Check its permissions.') from error
    except Exception as error:
        raise CheckpointError(f'{checkpoint} was not loaded: {_reason(error, path)}') from error
    if part := _damaged_part(path):
        raise CheckpointError(f'{checkpoint} is damaged: the checksum of its part {part} is wrong. Download it again.')
    return content


def _check_device(map_location):
    import torch

    if isinstance(map_location, (str, torch.device)):
        try:
            torch.empty(0, device=map_location)
        except Exception as error:
            reason = str(error).partition('\n')[0]
            raise ValueError(f'Expected a device of this machine as map_location, got {str(map_location)!r}: {reason}') from error


def _read_safetensors(path, checkpoint, map_location):
    import torch

    try:
        from safetensors import safe_open
    except ImportError as error:
        raise CheckpointError(f'{checkpoint} is a safetensors file. Reading it needs: pip install safetensors.') from error
    try:
        with safe_open(path, framework='pt') as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            metadata = file.metadata() or {}
        meta = json.loads(metadata[SAFETENSORS_META]) if SAFETENSORS_META in metadata else {}
    except PermissionError as error:
        raise CheckpointError(f'{checkpoint} could not be read: {error}. Check its permissions.') from error
    except Exception as error:  # SafetensorError is a plain Exception
        raise CheckpointError(f'{checkpoint} was not loaded: it is truncated or damaged ({error}). Download it again.') from error
    if isinstance(map_location, (str, torch.device)):
        state = {name: value.to(map_location) for name, value in state.items()}
    return {'meta': meta, 'state_dict': state} if meta else state


def unpickles_by_default():
    """Whether a plain `torch.load(FILE)` runs code: with torch before 2.6, or with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD."""
    import torch

    return torch.__version__ < (2, 6) or is_forced()


def is_forced():
    """Whether TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, torch's own switch for trusted files with code."""
    return os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower() in ('1', 'y', 'yes', 'true')


def _existing_file(path):
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        found = 'a folder without weights' if path.is_dir() else 'no such file'
        raise CheckpointError(f'There is no checkpoint at {path}: {found}. Give the path of a .pth or .safetensors file.')
    return path


def _is_torchscript(path):
    """Whether the archive holds `constants.pkl`, by which torch recognizes TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition('/')[2] == 'constants.pkl' for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _damaged_part(path):
    """The first record with a wrong checksum, '' if there is none; torch itself does not check.

    Takes 0.25 s for 320 MB. A file written under `set_crc32_options(False)` has no checksums: they are 0.
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
    """Why the file was refused, from the unpickler's error: a type that is not allowed, or a file that is not a checkpoint."""
    text = str(error).rpartition('WeightsUnpickler error:')[2].strip() or type(error).__name__
    refused = re.search(r'GLOBAL\s+(\w[\w.]*\w)', text)
    if refused or re.search('reduce for|Can only (create|build)', text):
        found = f'{refused[1]}, which is not on the list of allowed types' if refused else f'what is not allowed ({text})'
        return f'it contains {found}. It was not executed. {SAVE_TENSORS}'
    found = describe_file(path)
    if 'legacy .tar' in text or found == 'a tar archive':  # torch 2.4 does not name the format
        return f'it is in the tar format of PyTorch before 0.2, which cannot be read safely. It was not executed. {SAVE_TENSORS}'
    informative = found.startswith('a') and found not in ('a zip archive', 'a Python pickle')
    return f'it is truncated or not a checkpoint ({found if informative else text.splitlines()[0]}). Download it again.'
