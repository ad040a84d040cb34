"""Stubs for the mmcv ops that have no stand-in: they can be imported and handed around, not called."""

from functools import cache


class MissingOpError(NotImplementedError):
    """An op of mmcv was called that exists only in its compiled module."""


def explain(op):
    """The error for `op`, with the two remedies."""
    return MissingOpError(
        f"mmcv op '{op}' was called, but mmcv has no compiled ops here and mmfreq supplies no stand-in for this one. "
        'Install a compiled mmcv that fits your torch (mmcv>=2.0.0,<2.2.0, or the OneDL set), or choose a model or option '
        'without this op; `python -m mmfreq.doctor` lists which ops are there'
    )


class MissingOp:
    """Stands for the op `name`; raises when called. Pickles, copies and compares by name."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        raise explain(self.__name__)

    def __reduce__(self):
        return missing_op, (self.__name__,)

    def __repr__(self):
        return f'<mmcv op {self.__name__}: not supplied>'


@cache
def missing_op(name):
    """The one stub of that name."""
    return MissingOp(name)
