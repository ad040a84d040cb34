"""How the two-dimensional real inverse FFT of a device transforms spectra that are not Hermitian.

    python benchmarks/irfft2_on_devices.py [--device cuda] [--out docs/measurements/irfft2_cuda.md]

Prints a Markdown table: for each grid, the difference relative to the CPU's result of `torch.fft.irfft2` on the device, and of
`mmfreq.ops.irfft2`, which makes the zero and Nyquist columns Hermitian first. Learned filters and spectral masks produce such
spectra (`mmfreq/ops/spectral.py`), so the first column shows how much models would differ between devices without that.
"""

import argparse
import platform
from pathlib import Path

import torch

from mmfreq.ops import half_width
from mmfreq.ops.spectral import hermitian_columns, irfft2

SIZES = ((7, 7), (8, 8), (14, 14), (16, 16), (28, 28), (32, 32), (56, 56), (64, 64), (25, 42))
CHANNELS = 64


def rows(device: str) -> list[tuple[str, float, float]]:
    """(grid, error of torch.fft.irfft2, error of mmfreq.ops.irfft2), relative to the CPU's result."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        spec = torch.randn(CHANNELS, height, half_width(width), dtype=torch.complex64, generator=generator)
        expected = torch.fft.irfft2(spec, s=(height, width), norm='ortho')
        on_device = spec.to(device)
        from_torch = torch.fft.irfft2(on_device, s=(height, width), norm='ortho')
        hermitian = hermitian_columns(on_device, width) if device == 'cpu' else on_device  # on others `irfft2` does it
        from_mmfreq = irfft2(hermitian, (height, width))
        found.append(
            (f'{height}x{width}', *(((out.cpu() - expected).norm() / expected.norm()).item() for out in (from_torch, from_mmfreq)))
        )
    return found


def table(device: str) -> str:
    name = torch.cuda.get_device_name(device) if device.startswith('cuda') else platform.processor() or platform.machine()
    lines = [
        f'Device: {name}; torch {torch.__version__}. Standard normal complex half spectra, {CHANNELS} channels, float32,',
        'norm of the difference to the CPU over the norm of the CPU result.',
        '',
        '| grid | `torch.fft.irfft2` | `mmfreq.ops.irfft2` |',
        '|---|---|---|',
        *(f'| {grid} | {torch_error:.1e} | {error:.1e} |' for grid, torch_error, error in rows(device)),
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--out', type=Path, help='also write the table here, with the command')
    args = parser.parse_args()
    text = table(args.device)
    print(text)
    if args.out:
        command = f'python benchmarks/irfft2_on_devices.py --device {args.device}'
        args.out.write_text(f'# Inverse FFT of non-Hermitian spectra\n\n`{command}`\n\n{text}\n', encoding='utf-8')
