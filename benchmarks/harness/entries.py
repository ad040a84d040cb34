"""What can be asked: the suites with their defaults, and the settings of a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

ARCHS = ('hornet-tiny-7x7', 'hornet-tiny-gf', 'dfformer-s18', 'cdfformer-s18', 'affnet')
MODES = ('inference', 'training')
LEVERS = ('ours', 'optimized', 'memory_efficient')


@dataclass(frozen=True)
class Settings:
    """What to measure and how; empty tuples are filled in by `settled` from the suite.

    Attributes:
        training_precisions: by default those of inference if these are given, else float32.
        forms: of our archs, beside the baseline; by default the model as it is, in the suite 'published' also `LEVERS`.
        repeats: rounds.
        at_least: seconds that one measurement takes.
        alone: on a CPU each entry is timed in a process of its own, so that none inherits what others have done to the allocator.
    """

    suite: str = 'published'
    archs: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    precisions: tuple[str, ...] = ()
    training_precisions: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    batch: int = 1
    repeats: int = 10
    device: str = 'cpu'
    at_least: float = 0.05
    alone: bool = True

    def precisions_of(self, mode: str) -> tuple[str, ...]:
        return self.training_precisions if mode == 'training' else self.precisions

    def modes_and_precisions(self) -> list[tuple[str, str]]:
        return [(mode, precision) for mode in self.modes for precision in self.precisions_of(mode)]


@dataclass(frozen=True)
class Suite:
    """A question and what it is asked of by default. `quick` holds the settings of a quick run."""

    question: str
    defaults: dict
    quick: dict


SUITES = {
    'published': Suite(
        'how much faster, and in how much less memory, than the published formulation with the same weights?',
        dict(archs=ARCHS, sizes=((512, 512),), precisions=('fp32', 'bf16'), modes=MODES),
        dict(sizes=((224, 224),), repeats=3),
    ),
    'peers': Suite(
        'how does it compare with what a user would pick instead, above all at high resolution?',
        dict(archs=ARCHS[1:4], sizes=((224, 224), (512, 512), (1024, 1024)), precisions=('fp32',), modes=MODES),
        dict(archs=ARCHS[2:4], sizes=((224, 224), (512, 512)), repeats=3),
    ),
    'growth': Suite(
        'does the time per pixel stay the same from 512x512 to 2048x2048?',
        dict(archs=ARCHS, sizes=((512, 512), (1024, 1024), (2048, 2048)), precisions=('fp32',), modes=('inference',)),
        dict(archs=ARCHS[2:3], repeats=3, sizes=((512, 512), (1024, 1024))),
    ),
    'resolutions': Suite(
        'time and memory against resolution, for the plot',
        dict(
            archs=ARCHS[1:4],
            sizes=((224, 224), (512, 512), (1024, 1024), (2048, 2048)),
            precisions=('fp32',),
            modes=MODES,
        ),
        dict(archs=ARCHS[2:3], sizes=((224, 224), (320, 320), (512, 512)), modes=('inference',), repeats=3),
    ),
}


def settled(settings: Settings, quick: bool = False) -> Settings:
    """The settings with what was left open filled in.

    Raises:
        ValueError: unknown suite; a growth of one size.
    """
    if settings.suite not in SUITES:
        raise ValueError(f"suite '{settings.suite}' is unknown; choose from {', '.join(SUITES)}")
    suite = SUITES[settings.suite]
    settings = replace(
        settings,
        forms=settings.forms or (LEVERS if settings.suite == 'published' else LEVERS[:1]),
        training_precisions=settings.training_precisions or settings.precisions or ('fp32',),
    )
    defaults = {**suite.defaults, **(suite.quick if quick else {})}
    filled = {key: value for key, value in defaults.items() if key != 'repeats' and not getattr(settings, key)}
    if quick:
        filled['repeats'] = min(settings.repeats, suite.quick['repeats'])
    settings = replace(settings, **filled)
    if settings.suite == 'growth' and len(set(settings.sizes)) < 2:
        raise ValueError(f'growth is from one size to another; got {len(set(settings.sizes))} size, give at least two')
    return settings


# What is measured: a model, the form it runs in, and the circumstances.


BASELINE, OURS, PEER = 'published', 'ours', 'timm'
REFERENCE = (BASELINE, 'mmpretrain', PEER)  # forms that are not of this package


ONE_MODE = {'optimized': 'inference', 'memory_efficient': 'training'}  # forms that exist for one mode only


def exists(name: str, form: str, mode: str) -> bool:
    """Whether an arch has a form in a mode: mmpretrain has HorNet only."""
    return ONE_MODE.get(form, mode) == mode and (form != 'mmpretrain' or name.startswith('hornet'))


@dataclass(frozen=True)
class ModelForm:
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

    def subject(self, name: str, form: str) -> ModelForm:
        """One form of an arch.

        Raises:
            ValueError: unknown form.
        """
        if form not in self.forms:
            raise ValueError(f"form '{form}' is unknown or cannot be made here; choose from {', '.join(self.forms)}")
        return ModelForm(name, form, partial(_turned, self.forms[form], self.ours, name), partial(self.counted, name))

    def peer(self, name: str) -> ModelForm:
        """A model of somebody else.

        Raises:
            ValueError: unknown name.
        """
        if name not in self.peers:
            raise ValueError(f"peer '{name}' is unknown; choose from {', '.join(self.peers)}")
        return ModelForm(name, PEER, self.peers[name], self.peers[name])


def _turned(form: Callable[[nn.Module], nn.Module], ours: Callable[[str], nn.Module], name: str) -> nn.Module:
    return form(ours(name))


@dataclass(frozen=True)
class Entry:
    """One thing to measure. `way` is how a low precision is reached: 'autocast' or 'converted'; '' where there is no choice."""

    subject: ModelForm
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


# Precisions, and one call of a model in one of them, as it is timed.


DTYPES = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def ways(precision: str, mode: str) -> tuple[str, ...]:
    """How a model can be run in a precision; weights that are trained stay in float32."""
    if DTYPES[precision] == torch.float32:
        return ('',)
    return ('autocast',) if mode == 'training' else ('autocast', 'converted')


def images_of(size: tuple[int, int], batch: int) -> Tensor:
    """Always the same noise: `(batch, 3, H, W)`, float32, on the CPU."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@contextmanager
def arithmetic(precision: str):
    """TF32 where 'tf32' asks for it, and nowhere else: PyTorch by itself would use it in cuDNN's convolutions."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    torch.backends.cudnn.allow_tf32 = precision == 'tf32'
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def made(entry: Entry, device: torch.device | str = 'cpu') -> nn.Module:
    """The model in the entry's mode, and in its precision if that is reached by conversion."""
    model = entry.subject.make()
    model.train(entry.mode == 'training')  # mmpretrain's HorNet returns None
    return model.to(device, DTYPES[entry.precision] if entry.way == 'converted' else torch.float32)


class Call:
    """A forward pass in eval mode without gradients, or a forward and a backward pass in training mode.

    The backward pass starts from fixed random gradients of the outputs, so that no loss is timed; there is no optimizer step.

    Args:
        model: on the device of the images, converted already.
        images: `(N, 3, H, W)`, float32.
    """

    def __init__(self, model: nn.Module, images: Tensor, entry: Entry):
        self.model, self.entry = model, entry
        self.training = entry.mode == 'training'
        self.images = images.to(DTYPES[entry.precision]) if entry.way == 'converted' else images
        self.device = images.device
        self._gradients: list[Tensor] = []

    def forward(self, images: Tensor | None = None) -> tuple[Tensor, ...]:
        """The outputs; with the graph in training mode."""
        dtype = DTYPES[self.entry.precision]
        with (
            arithmetic(self.entry.precision),
            torch.set_grad_enabled(self.training),
            torch.autocast(self.device.type, dtype if self.entry.way else None, enabled=self.entry.way == 'autocast'),
        ):
            return tuple(self.model(self.images if images is None else images.to(self.images.dtype)))

    def backward(self, outputs: tuple[Tensor, ...]) -> None:
        """Gradients of all parameters."""
        if not self._gradients:
            generator = torch.Generator().manual_seed(1)
            self._gradients = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
        with arithmetic(self.entry.precision):
            torch.autograd.backward(outputs, self._gradients)

    def clear(self) -> None:
        """Forget the gradients of the last backward pass."""
        self.model.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        if self.training:
            self.clear()
            self.backward(self.forward())
        else:
            self.forward()


# What is compared with what: each suite turns archs, sizes, modes and precisions into groups of entries.


PEERS = ('convformer_s18', 'caformer_s18', 'convnext_tiny')  # the first is the baseline


def published(settings: Settings, makers: Makers) -> Iterator[Group]:
    """Each arch against its published formulation in float32, all forms and precisions in the same rounds."""
    for name, size, mode in product(settings.archs, settings.sizes, settings.modes):
        where = {'size': size, 'mode': mode, 'batch': settings.batch}
        entries = [Entry(makers.subject(name, BASELINE), precision='fp32', **where)]
        for form, precision in product(settings.forms, settings.precisions_of(mode)):
            if exists(name, form, mode):
                subject = makers.subject(name, form)
                entries += [Entry(subject, precision=precision, way=way, **where) for way in ways(precision, mode)]
        yield Group(f'{name}, {size[0]}x{size[1]}, {mode}', tuple(entries))


def peers(settings: Settings, makers: Makers, forms: tuple[str, ...] = ()) -> Iterator[Group]:
    """Our archs beside what a user would pick instead; the baseline is ConvFormer in the same precision."""
    for size, (mode, precision) in product(settings.sizes, settings.modes_and_precisions()):
        subjects = [makers.peer(name) for name in PEERS]
        for name, form in product(settings.archs, (*settings.forms, *forms)):
            if exists(name, form, mode) and (form != BASELINE or precision == 'fp32'):
                subjects.append(makers.subject(name, form))
        way = ways(precision, mode)[-1]
        entries = (Entry(subject, size, mode, precision, way, settings.batch) for subject in subjects)
        yield Group(f'{size[0]}x{size[1]}, {mode}, {precision}', tuple(entries))


def resolutions(settings: Settings, makers: Makers) -> Iterator[Group]:
    """As `peers`, with the published formulation of each arch, and from 224 to 2048: for the plot."""
    return peers(settings, makers, forms=(BASELINE,))


def growth(settings: Settings, makers: Makers) -> Iterator[Group]:
    """One model at several sizes in the same rounds; the smallest is the baseline."""
    sizes = sorted(settings.sizes, key=lambda size: size[0] * size[1])
    for name, (mode, precision), form in product(settings.archs, settings.modes_and_precisions(), settings.forms):
        if exists(name, form, mode):
            subject, way = makers.subject(name, form), ways(precision, mode)[-1]
            entries = (Entry(subject, size, mode, precision, way, settings.batch) for size in sizes)
            yield Group(f'{name}, {form}, {mode}, {precision}', tuple(entries))


PLANS = {'published': published, 'peers': peers, 'growth': growth, 'resolutions': resolutions}


def plan(settings: Settings, makers: Makers) -> list[Group]:
    """The groups of a suite; `settings` are settled."""
    return list(PLANS[settings.suite](settings, makers))
