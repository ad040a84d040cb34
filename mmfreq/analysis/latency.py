"""Latency of a model's forward pass, and a description of the hardware that a measurement was made on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.benchmark import Timer

from mmfreq.analysis.flops import CountedForward

MIN_RUNS, MIN_SECONDS = 5, 3.0
NUMBERS = ('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve')
EXTENSIONS = (('AVX-512', 'avx512f'), ('AMX', 'amx_tile'), ('AVX2', 'avx2'), ('SVE', 'sve'))  # name, flag in /proc/cpuinfo


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass, measured over `runs` of them, and the hardware in words."""

    median: float
    interquartile_range: float
    runs: int
    hardware: str


@torch.inference_mode()
def latency(model: nn.Module, size: tuple[int, int], device: torch.device | str = 'cpu', channels: int = 3) -> Latency:
    """Measure the forward pass of `flops.count` on one random image in eval mode, after a warm-up.

    The model is moved to the device and left there in eval mode.

    Args:
        model: as in `flops.count`, but not on the meta device.
        size: (H, W) of the image.
        channels: of the image.

    Raises:
        ValueError: a CUDA device is requested and there is none.
    """
    check_device(device)
    forward = CountedForward(model.to(device).eval())
    images = torch.randn(1, channels, *size, device=device)
    timer = Timer('forward(images)', globals={'forward': forward, 'images': images}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=max(MIN_SECONDS, MIN_RUNS * timer.timeit(1).median))
    hardware = describe_hardware(device, torch.get_num_threads())
    return Latency(measured.median, measured.iqr, len(measured.times) * measured.number_per_run, hardware)


def check_device(device: torch.device | str) -> None:
    """Raise a ValueError for a CUDA device if CUDA is not available."""
    if torch.device(device).type == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f"There is no CUDA device here for '{device}'. Omit --device to measure on the CPU.")


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def free_bytes() -> int | None:
    """Free memory; None if the system does not report it."""
    path = Path('/proc/meminfo')
    lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')]
    return found[0] if found else None


def describe_hardware(device: torch.device | str, threads: int, cpu_info: str | None = None) -> str:
    """For example 'two x86-64 cores with AVX-512 and AMX, no GPU; torch 2.9.0', and the settings of the allocator.

    Contains what a reader needs to interpret a measurement, and nothing that identifies the computer.

    Args:
        cpu_info: the text of /proc/cpuinfo; by default the file is read if it exists.
    """
    device = torch.device(device)
    if cpu_info is None:
        path = Path('/proc/cpuinfo')
        cpu_info = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
    lines = (line for line in cpu_info.splitlines() if line.startswith(('flags', 'Features')))
    flags = set(next(lines, '').partition(':')[2].split())
    names = [name for name, flag in EXTENSIONS if flag in flags]
    if 'AVX-512' in names and 'AVX2' in names:
        names.remove('AVX2')
    number = NUMBERS[threads] if threads < len(NUMBERS) else str(threads)
    cpu = platform.machine().replace('_', '-') or 'CPU'
    cores = f'{number} {cpu} core{"" if threads == 1 else "s"}' + (f' with {" and ".join(names)}' if names else '')
    gpu = f'one {torch.cuda.get_device_name(device)}' if device.type == 'cuda' else 'no GPU'
    return '; '.join((f'{cores}, {gpu}', f'torch {torch.__version__}', *_allocator_settings()))


def _allocator_settings() -> list[str]:
    """Environment variables of the CPU memory allocator: glibc's limits, and preloaded libraries."""
    limits = [f'{name}={value}' for name, value in sorted(os.environ.items()) if name.startswith(('MALLOC_', 'GLIBC_TUNABLES'))]
    loaded = [Path(path).name for path in os.environ.get('LD_PRELOAD', '').replace(':', ' ').split()]
    return limits + loaded
