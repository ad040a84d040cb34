"""How a map is divided into tiles and programs for the kernels of `benchmarks.triton.triton_kernels`, and their bases.

Legend: B batch, C channels, H W grid. A side is folded once or twice, and padded to a power of two; see `triton_transforms`.
"""

from functools import lru_cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_SIDE = 128  # sixteen parts of 32 x 32 are what one program holds
LARGEST_ODD_SIDE = 64  # where 4 does not divide both sides, so that they are folded once: four such parts
FOLDED_TWICE_FROM = 33  # up to 32 a product of a side folded once fills one tile of the tensor cores
SMALLEST_TILE = 16  # on a side: what every version of Triton takes as a matrix product


class Cut(NamedTuple):
    """A map cut into tiles: its sizes, how often a side is folded, padded folded sides, sides of a tile, tiles of a sample."""

    batch: int
    channels: int
    height: int
    width: int
    folds: int
    folded: tuple[int, int]
    tile: tuple[int, int]
    tiles: int


class Launch(NamedTuple):
    """How the work is distributed and compiled; it affects the result only by rounding (`precision`)."""

    tiles: int  # of one program
    warps: int
    samples: int  # that one program computes in turn; 1 if each has its own filter
    registers: int = 255  # of a thread, at most
    stages: int = 1  # 2: the next sample is loaded ahead
    precision: str = 'tf32x3'  # three tensor-core products, nearly float32; 'ieee': float32, no tensor core; 'tf32': 11 bits


@lru_cache(maxsize=256)
def cut_up(batch: int, channels: int, height: int, width: int) -> Cut:
    """Fold twice where that makes the products smaller, otherwise once; small maps share a tile."""
    folds = 2 if height % 4 == 0 == width % 4 and max(height, width) >= FOLDED_TWICE_FROM else 1
    folded = tuple(power_of_two((side + 1) // 2 // folds) for side in (height, width))
    tile = tuple(max(SMALLEST_TILE, side) for side in folded)
    maps = tile[0] * tile[1] // (folded[0] * folded[1])
    return Cut(batch, channels, height, width, folds, folded, tile, -(-channels // maps))


def fits(height: int, width: int) -> bool:
    """Whether one program can hold a map of that size."""
    return max(height, width) <= (LARGEST_SIDE if height % 4 == 0 == width % 4 else LARGEST_ODD_SIDE)


@lru_cache(maxsize=256)
def plan_launch(cut: Cut, shared: bool, backward: bool, processors: int) -> Launch:
    """Programs for all processors first; then several tiles in each, and several samples in turn, which share a filter.

    Warps and registers follow from the machine code for Hopper: a warp per tile of 16 x 16, so that no data moves between warps,
    and few enough registers that many warps run in parallel. Not yet measured.
    """
    small = max(cut.tile) == SMALLEST_TILE
    most = 4 if cut.folds == 1 else 2
    tiles = 1
    while small and tiles < min(most, cut.tiles) and cut.batch * cut.tiles >= 8 * processors * tiles:
        tiles *= 2
    samples = cut.batch * -(-cut.tiles // tiles) // (16 * processors) if shared else 1
    warps = tiles if small else 2 if cut.folds == 1 else cut.tile[0] * cut.tile[1] // 256
    if small and cut.folds == 1:
        return Launch(tiles, warps, max(1, samples), 168 if backward else 128, stages=2)
    return Launch(tiles, warps, max(1, samples))


def grid_of(cut: Cut, launch: Launch) -> tuple[int, int]:
    """Programs along channels and samples."""
    return -(-cut.tiles // launch.tiles), -(-cut.batch // launch.samples)


def constants(cut: Cut, launch: Launch) -> dict:
    """Compile-time constants of the kernels."""
    sides = dict(zip(('NH', 'NW', 'TH', 'TW'), cut.folded + cut.tile))
    options = dict(num_warps=launch.warps, num_stages=launch.stages, maxnreg=launch.registers)
    return dict(sides, G=launch.tiles, FOLDS=cut.folds, PRECISION=launch.precision, **options)


def bases_of(cut: Cut, device: torch.device) -> tuple[Tensor, Tensor]:
    """The bases of H and of W."""
    sides = zip((cut.height, cut.width), cut.folded, cut.tile)
    return tuple(half_shifted_bases(side, cut.folds, folded, tile, device) for side, folded, tile in sides)


@lru_cache(maxsize=64)
def half_shifted_bases(side: int, folds: int, folded: int, tile: int, device: torch.device) -> Tensor:
    """Cosines and sines from the pixels of a folded side to its slots, repeated along the diagonal; 0 elsewhere.

    Shape:
        `(folds, 2, tile, tile)`, float32, computed in float64; folded twice, first for even, then for odd frequencies.
    """
    n = (side + 1) // 2 // folds
    with torch.inference_mode(False), torch.no_grad():
        frequency = (torch.arange(n) * folds + torch.arange(folds).unsqueeze(1)).unsqueeze(1).repeat(1, 2, 1)
        frequency[0, 1, 0] = side // 2 if side % 2 == 0 else 0  # the sine slot without a frequency of its own holds Nyquist
        turns = (2 * torch.arange(n).unsqueeze(1) + 1) * frequency.unsqueeze(2) % (2 * side)  # reduced first: exact
        angle = turns.double() * (pi / side)
        bases = torch.zeros(folds, 2, tile, tile, dtype=torch.float64)
        for start in range(0, tile, folded):
            bases[:, 0, start : start + n, start : start + n] = angle[:, 0].cos()
            bases[:, 1, start : start + n, start : start + n] = angle[:, 1].sin()
        return bases.to(device=device, dtype=torch.float32)


@lru_cache(maxsize=8)
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == 'cuda' else 1


def power_of_two(n: int) -> int:
    """The smallest one that is at least `n`."""
    return 1 << (n - 1).bit_length()
