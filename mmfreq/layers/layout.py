"""Between the two layouts of a map; views, no copies."""

from torch import Tensor


def to_bhwc(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, H, W, C)`."""
    return x.permute(0, 2, 3, 1)


def to_bchw(x: Tensor) -> Tensor:
    """`(B, H, W, C)` to `(B, C, H, W)`."""
    return x.permute(0, 3, 1, 2)
