"""The least time that the multiply-adds alone would take: their number over the rate of large matrix products on this machine.

Convolutions and matrix products count (`analysis.complexity`), Fourier transforms do not: a published FFT would count next to
nothing. Training counts three times inference, as usual: forward, gradient of the input, gradient of the weights.
"""

import torch

from mmfreq.analysis.benchmark.precision import DTYPES, arithmetic
from mmfreq.analysis.benchmark.timing import seconds

SIDES = {'cpu': (1024, 2048, 3072), 'cuda': (4096, 8192)}
PASSES = {'inference': 1, 'training': 3}


def matrix_rate(precision: str, device: torch.device, sides: tuple[int, ...] | None = None, repeats: int = 3) -> float:
    """Multiply-adds per second of `torch.mm` on square matrices, the best of a few.

    Args:
        sides: of the matrices; by default what keeps the device busy for a moment.
    """
    best = 0.0
    with arithmetic(precision):
        for side in sides or SIDES.get(device.type, SIDES['cpu']):
            a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
            torch.mm(a, b)
            best = max(best, *(side**3 / seconds(lambda a=a, b=b: torch.mm(a, b), device) for _ in range(repeats)))
    return best
