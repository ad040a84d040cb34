"""Errors that are the caller's to mend, and how the command-line tools end on one."""

import sys
import traceback
from contextlib import contextmanager


class UserError(RuntimeError):
    """Something in the command, the config or the data is wrong; the message says what was got, expected and to do."""


class DataError(UserError, ValueError):
    """The data are missing or are not what the model was built for."""


class InputError(DataError):
    """A picture or a label map that cannot be read, or that the model cannot take."""


class CheckpointMismatchError(UserError, ValueError):
    """A checkpoint was read, and its tensors are not this model's."""


def is_users(error):
    """Whether an error is the caller's to mend: a `UserError`, or a ValueError or OSError that mmfreq itself raised."""
    if isinstance(error, UserError):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = bool(frames) and frames[-1].f_globals.get('__name__', '').startswith(('mmfreq.', 'benchmarks.'))
    return ours and isinstance(error, ValueError | OSError)


def message_of(error):
    """The message of an error; of one that a worker of a DataLoader raised what stands behind the worker's traceback."""
    text, kind = str(error), type(error)
    last = f'\n{kind.__module__}.{kind.__qualname__}: '
    return text.rpartition(last)[2].rstrip('\n') if text.startswith(f'Caught {kind.__name__} in ') and last in text else text


@contextmanager
def short_user_errors():
    """End the process with a short message and exit status 2 on an error that is the caller's to mend (`is_users`).

    Every other exception keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        if not is_users(error):
            raise
        print(f'error: {message_of(error)}', file=sys.stderr)
        raise SystemExit(2) from None
