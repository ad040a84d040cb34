"""What is measured: an entry is a model in one form, at one size and precision, for inference or training; `Call` runs it."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

REFERENCE, MMFREQ, PEER = 'reference', 'mmfreq', 'timm'
EXTERNAL = (REFERENCE, 'mmpretrain', PEER)  # forms that are not code of this package
ONE_MODE = {'optimized': 'inference', 'memory_efficient': 'training'}  # forms that exist for one mode only
DTYPES = {'fp32': torch.float32, 'tf32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def has_form(name: str, form: str, mode: str) -> bool:
    """Whether an arch has a form in a mode: mmpretrain has HorNet only."""
    return ONE_MODE.get(form, mode) == mode and (form != 'mmpretrain' or name.startswith('hornet'))


def conversions(precision: str, mode: str) -> tuple[str, ...]:
    """How a model can reach a precision: by autocast, or converted; trained weights stay in float32, so training uses autocast."""
    if DTYPES[precision] == torch.float32:
        return ('',)
    return ('autocast',) if mode == 'training' else ('autocast', 'converted')


@dataclass(frozen=True)
class ModelForm:
    """A model in one form; every call of `make` returns it with the same weights.

    Attributes:
        name: of the arch; forms with the same name have the same weights and must return the same outputs.
        form: 'reference', 'mmfreq', 'optimized', 'memory_efficient', 'compiled', 'compiled_blocks' or 'mmpretrain'; 'timm' for a
            timm model.
        make: returns the model, in float32 on the CPU; must be picklable to be measured in its own process.
        for_counting: returns the model whose multiply-adds are counted, the same for all forms; may be on the meta device.
    """

    name: str
    form: str
    make: Callable[[], nn.Module]
    for_counting: Callable[[], nn.Module]


@dataclass(frozen=True)
class ModelSources:
    """Where models come from.

    Attributes:
        backbone: arch name -> backbone of mmfreq, with the same weights in every call.
        for_counting: arch name -> backbone whose multiply-adds are counted.
        forms: name of a form -> function that converts a backbone of mmfreq to it, and may change it in place.
        peers: name -> function that returns a model of another library.
    """

    backbone: Callable[[str], nn.Module]
    for_counting: Callable[[str], nn.Module]
    forms: Mapping[str, Callable[[nn.Module], nn.Module]]
    peers: Mapping[str, Callable[[], nn.Module]]

    def model(self, name: str, form: str) -> ModelForm:
        """One form of an arch.

        Raises:
            ValueError: unknown form.
        """
        if form not in self.forms:
            raise ValueError(f"The form '{form}' is unknown. Choose from {', '.join(self.forms)}.")
        return ModelForm(name, form, partial(_make, self.forms[form], self.backbone, name), partial(self.for_counting, name))

    def peer(self, name: str) -> ModelForm:
        """A model of another library.

        Raises:
            ValueError: unknown name.
        """
        if name not in self.peers:
            raise ValueError(f"The peer '{name}' is unknown. Choose from {', '.join(self.peers)}.")
        return ModelForm(name, PEER, self.peers[name], self.peers[name])


def _make(form: Callable[[nn.Module], nn.Module], backbone: Callable[[str], nn.Module], name: str) -> nn.Module:
    return form(backbone(name))


@dataclass(frozen=True)
class Entry:
    """One measurement. `conversion` is how a low precision is reached: 'autocast', 'converted', or '' for 32-bit precisions."""

    model: ModelForm
    size: tuple[int, int]
    mode: str
    precision: str
    conversion: str = ''
    batch: int = 1

    @property
    def label(self) -> str:
        """A readable name, unique in a group."""
        parts = (self.model.name, self.model.form, self.precision, self.conversion, '{}x{}'.format(*self.size))
        return ' '.join(filter(None, parts))

    @property
    def pixels(self) -> int:
        """Pixels of the batch."""
        return self.batch * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Group:
    """Entries that are measured in the same rounds; ratios are relative to the first one, the baseline."""

    title: str
    entries: tuple[Entry, ...]


def random_images(size: tuple[int, int], batch: int) -> Tensor:
    """The same noise in every call: `(batch, 3, H, W)`, float32, on the CPU."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


@contextmanager
def matmul_precision(precision: str):
    """Use TF32 only if the precision is 'tf32': PyTorch uses it in cuDNN's convolutions by default."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    torch.backends.cudnn.allow_tf32 = precision == 'tf32'
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def build_model(entry: Entry, device: torch.device | str = 'cpu') -> nn.Module:
    """The model in the mode of the entry, converted to its precision unless autocast is used."""
    model = entry.model.make()
    model.train(entry.mode == 'training')  # not chained: mmpretrain's HorNet returns None
    return model.to(device, DTYPES[entry.precision] if entry.conversion == 'converted' else torch.float32)


class Call:
    """A forward pass in eval mode without gradients, or a forward and a backward pass in training mode.

    The backward pass starts from fixed random gradients of the outputs, so that no loss is timed; there is no optimizer step.

    Args:
        model: from `build_model`, on the device of the images.
        images: `(N, 3, H, W)`, float32.
    """

    def __init__(self, model: nn.Module, images: Tensor, entry: Entry):
        self.model, self.entry = model, entry
        self.training = entry.mode == 'training'
        self.images = images.to(DTYPES[entry.precision]) if entry.conversion == 'converted' else images
        self.device = images.device
        self._gradients: list[Tensor] = []

    def forward(self, images: Tensor | None = None) -> tuple[Tensor, ...]:
        """The outputs; in training mode with the autograd graph."""
        dtype = DTYPES[self.entry.precision]
        with (
            matmul_precision(self.entry.precision),
            torch.set_grad_enabled(self.training),
            torch.autocast(self.device.type, dtype if self.entry.conversion else None, enabled=self.entry.conversion == 'autocast'),
        ):
            return tuple(self.model(self.images if images is None else images.to(self.images.dtype)))

    def backward(self, outputs: tuple[Tensor, ...]) -> None:
        """Compute the gradients of all parameters."""
        if not self._gradients:
            generator = torch.Generator().manual_seed(1)
            self._gradients = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
        with matmul_precision(self.entry.precision):
            torch.autograd.backward(outputs, self._gradients)

    def clear(self) -> None:
        """Delete the gradients of the last backward pass."""
        self.model.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        if self.training:
            self.clear()
            self.backward(self.forward())
        else:
            self.forward()
