"""Our backbones as a config describes them, without weights and without memory."""

from inspect import signature

import torch

from mmfreq.engine.errors import UserError
from mmfreq.models._factory import backbone_class, list_archs


def is_ours(kind):
    """Whether the `type` of a config is of mmfreq."""
    return kind.startswith('mmfreq.') if isinstance(kind, str) else getattr(kind, '__module__', '').startswith('mmfreq.')


def class_named(name, arch=None):
    """Our backbone class of a bare name, which must be that of `arch`, if this is a name.

    Raises:
        UserError: there is none, or the arch is of another.
        ValueError: unknown arch.
    """
    kinds = {kind.__name__: kind for kind in map(backbone_class, list_archs())}
    if name not in kinds:
        raise UserError(f'there is no backbone mmfreq.{name}; expected one of {", ".join(f"mmfreq.{each}" for each in kinds)}')
    if isinstance(arch, str) and (right := backbone_class(arch)) is not kinds[name]:
        raise UserError(f"arch '{arch}' is of type mmfreq.{right.__name__}, got type mmfreq.{name}: change one of them")
    return kinds[name]


def stated_backbone(arch, **options):
    """Our backbone of an arch, given by name, on the meta device; `options` and errors as in `state`."""
    return state(backbone_class(arch), arch=arch, **options)


def state(kind, **arguments):
    """A backbone of one of our classes on the meta device.

    Raises:
        ValueError: unknown arch, or a value that the class refuses.
        UserError: an argument that the class does not have, or of another type than it takes.
    """
    known = [name for function in (kind.__init__, kind.build) for name in signature(function).parameters]
    known = [name for name in dict.fromkeys(known) if name not in ('self', 'options')]
    if unknown := [name for name in arguments if name not in known]:
        raise UserError(f'mmfreq.{kind.__name__} has no argument {", ".join(unknown)}; it takes {", ".join(known)}')
    try:
        with torch.device('meta'):
            return kind(**arguments)
    except TypeError as error:
        raise UserError(
            f'mmfreq.{kind.__name__} cannot be made of {arguments}: {error}; its docstring says what it takes'
        ) from error
