"""What is measured: a model, the form it runs in, and the circumstances."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

BASELINE, OURS, PEER = 'published', 'ours', 'timm'
THEIRS = (BASELINE, 'mmpretrain', PEER)  # forms that are not of this package


ONE_MODE = {'optimized': 'inference', 'memory_efficient': 'training'}  # forms that exist for one mode only


def exists(name: str, form: str, mode: str) -> bool:
    """Whether an arch has a form in a mode: mmpretrain has HorNet only."""
    return ONE_MODE.get(form, mode) == mode and (form != 'mmpretrain' or name.startswith('hornet'))


@dataclass(frozen=True)
class Subject:
    """A model that can be made again and again, each time with the same weights.

    Attributes:
        name: of the arch; forms of one name have the same weights and must give the same outputs.
        form: 'published', 'ours', 'optimized', 'memory_efficient', 'compiled', 'compiled_blocks', 'mmpretrain', or 'timm' for a
            model of somebody else.
        make: the model, in float32 on the CPU; to be measured in a process of its own it must be something that pickle can name.
        counted: the model whose multiply-adds are the floor's, the same for all forms; may be on the meta device.
    """

    name: str
    form: str
    make: Callable[[], nn.Module]
    counted: Callable[[], nn.Module]


@dataclass(frozen=True)
class Makers:
    """Where models come from.

    Attributes:
        ours: from an arch's name to our backbone, with the same weights every time.
        counted: from an arch's name to the backbone whose operators are counted.
        forms: from the name of a form to a function that turns a backbone of ours into it, and may change it in place.
        peers: models of others, by name.
    """

    ours: Callable[[str], nn.Module]
    counted: Callable[[str], nn.Module]
    forms: Mapping[str, Callable[[nn.Module], nn.Module]]
    peers: Mapping[str, Callable[[], nn.Module]]

    def subject(self, name: str, form: str) -> Subject:
        """One form of an arch.

        Raises:
            ValueError: unknown form.
        """
        if form not in self.forms:
            raise ValueError(f"form '{form}' is unknown or cannot be made here; choose from {', '.join(self.forms)}")
        return Subject(name, form, partial(_turned, self.forms[form], self.ours, name), partial(self.counted, name))

    def peer(self, name: str) -> Subject:
        """A model of somebody else.

        Raises:
            ValueError: unknown name.
        """
        if name not in self.peers:
            raise ValueError(f"peer '{name}' is unknown; choose from {', '.join(self.peers)}")
        return Subject(name, PEER, self.peers[name], self.peers[name])


def _turned(form: Callable[[nn.Module], nn.Module], ours: Callable[[str], nn.Module], name: str) -> nn.Module:
    return form(ours(name))


@dataclass(frozen=True)
class Entry:
    """One thing to measure. `way` is how a low precision is reached: 'autocast' or 'converted'; '' where there is no choice."""

    subject: Subject
    size: tuple[int, int]
    mode: str
    precision: str
    way: str = ''
    batch: int = 1

    @property
    def label(self) -> str:
        """Readable, and unique in a group."""
        parts = (self.subject.name, self.subject.form, self.precision, self.way, '{}x{}'.format(*self.size))
        return ' '.join(filter(None, parts))

    @property
    def pixels(self) -> int:
        """Of the batch."""
        return self.batch * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Group:
    """Entries that are measured in the same rounds; ratios are to the first one, the baseline."""

    title: str
    entries: tuple[Entry, ...]
