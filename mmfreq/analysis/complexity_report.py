"""What counting a model gives: multiply-adds by part, for the whole and for every module."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Macs:
    """Multiply-adds by part (see `op_rules`). What papers call FLOPs is `conv_matmul`."""

    conv_matmul: int = 0
    fft: int = 0
    spectral: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class ModuleCost:
    """One module with everything inside it. Work that a caller does without calling the module is the caller's."""

    kind: str
    params: int
    macs: Macs


@dataclass(frozen=True)
class Complexity:
    """What `count` found.

    Attributes:
        inputs: shapes of the inputs.
        modules: by name, in the order of `named_modules`; '' is the whole model.
        published_fft: the FFT operators by the formula of GFNet's and HorNet's scripts, N C ceil(log2 N) each.
        uncounted: how often operators from outside torch's core ran, which nothing here can price.
    """

    inputs: tuple[tuple[int, ...], ...]
    modules: dict[str, ModuleCost]
    published_fft: int
    uncounted: dict[str, int]

    @property
    def params(self) -> int:
        return self.modules[''].params

    @property
    def macs(self) -> Macs:
        return self.modules[''].macs

    @property
    def published(self) -> int:
        """FLOPs as GFNet's and HorNet's papers count them: convolutions, matrix products, FFTs by their formula."""
        return self.macs.conv_matmul + self.published_fft

    def rows(self, depth: int = 1) -> Iterator[tuple[str, ModuleCost]]:
        """Modules at most `depth` names deep that have parameters or cost something."""
        for name, module in self.modules.items():
            if name and name.count('.') < depth and (module.params or module.macs.total):
                yield name, module
