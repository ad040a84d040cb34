"""How long the forward pass takes that `complexity.count` counts."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.benchmark import Timer

from mmfreq.analysis.benchmark.machine import check_device, machine_words
from mmfreq.analysis.complexity import CountedForward

LEAST_RUNS = 5


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass, over `runs` of them, and the machine in words."""

    median: float
    interquartile_range: float
    runs: int
    machine: str


@torch.inference_mode()
def latency(model: nn.Module, size: tuple[int, int], device: torch.device | str = 'cpu', seconds: float = 3.0) -> Latency:
    """Of one image in eval mode, after a warm-up; the model is moved to the device and stays there in eval mode.

    Args:
        model: as in `complexity.count`, with memory: not on the meta device.
        size: (H, W) of the image, of random numbers.
        seconds: to measure for, at least.

    Raises:
        ValueError: a CUDA device where there is none.
    """
    check_device(device)
    forward = CountedForward(model.to(device).eval())
    images = torch.randn(1, 3, *size, device=device)
    timer = Timer('forward(images)', globals={'forward': forward, 'images': images}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=max(seconds, LEAST_RUNS * timer.timeit(1).median))
    words = machine_words(device, torch.get_num_threads())
    return Latency(measured.median, measured.iqr, len(measured.times) * measured.number_per_run, words)
