"""Precisions, and one call of a model in one of them, as it is timed."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmfreq.analysis.benchmark.subjects import Entry

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
