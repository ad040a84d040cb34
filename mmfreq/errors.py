"""Errors that the user can fix, and how the command-line tools exit on one."""

import sys
import traceback
from contextlib import contextmanager


class UserError(RuntimeError):
    """The command, the config or the data is invalid; the message has what was expected, what was found, and what to do."""


class DataError(UserError, ValueError):
    """The data are missing or do not match the model."""


class InputError(DataError):
    """An image or a label map that cannot be read, or that the model cannot take."""


class CheckpointMismatchError(UserError, ValueError):
    """A checkpoint that was read, but whose tensors do not match the model."""


def is_user_error(error):
    """Whether the user can fix an error: a `UserError`, or a ValueError or OSError raised by mmfreq itself."""
    if isinstance(error, UserError):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_here = bool(frames) and frames[-1].f_globals.get('__name__', '').startswith(('mmfreq.', 'benchmarks.'))
    return raised_here and isinstance(error, ValueError | OSError)


def message_of(error):
    """The message of an error, without the traceback that a DataLoader's worker puts before it."""
    text, cls = str(error), type(error)
    last = f'\n{cls.__module__}.{cls.__qualname__}: '
    return text.rpartition(last)[2].rstrip('\n') if text.startswith(f'Caught {cls.__name__} in ') and last in text else text


@contextmanager
def short_user_errors():
    """Exit with status 2 and a short message on a user error (`is_user_error`); other exceptions keep their traceback."""
    try:
        yield
    except Exception as error:
        if not is_user_error(error):
            raise
        print(f'error: {message_of(error)}', file=sys.stderr)
        raise SystemExit(2) from None
