"""Which parts of a detector of mmdetection the graphs can replace: those whose predictions are computed by known methods."""

from typing import Any

from mmfreq.errors import UserError

ADVICE = "Export the output 'features', and run the heads in PyTorch."


def expect_part(part: Any, known: tuple[type, ...], methods: tuple[str, ...], role: str) -> None:
    """Check that `part` is of a known class or a subclass that does not replace the methods that predict.

    Args:
        methods: names of the methods; those that a known class does not have are not compared.
        role: what the part is in the detector.

    Raises:
        UserError: it is of another class, or replaces one of the methods.
    """
    for cls in known:
        if isinstance(part, cls) and all(getattr(type(part), name) is getattr(cls, name) for name in methods if hasattr(cls, name)):
            return
    names = ' or '.join(cls.__name__ for cls in known)
    raise UserError(f'Expected {names} as {role} for the output of boxes, found {type(part).__name__}. {ADVICE}')


def expect(condition: bool, expected: str, found: str) -> None:
    """Raise a UserError with both texts unless the condition holds."""
    if not condition:
        raise UserError(f'Expected {expected} for the output of boxes, found {found}. {ADVICE}')
