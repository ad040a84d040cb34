"""gnConv, the recursive gated convolution (HorNet, arXiv 2207.14284, section 3.1), and its global-local filter (section 3.2).

Legend: B batch, C channels, H W grid, n order; dims = C / 2^(n-1), ..., C / 2, C with C = dim_ratio *
out_channels; D = sum(dims).
"""

from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mmfreq.layers.basic import LayerNorm2d, to_bchw, to_bhwc
from mmfreq.layers.filters import GlobalFilter

PaddingMode = Literal['zeros', 'reflect', 'replicate', 'circular']
Pair = int | tuple[int, int]


class GlobalLocalFilter(GlobalFilter):
    """A 3x3 depth-wise convolution of half of the channels, a global filter of the other half, interleaved::

        local, global = halves(pre_norm(x))
        y = post_norm(interleave(dw(local), irfft2(K * rfft2(global))))

    Args:
        channels: D, even.
        grid: stored grid of the global filter, (h, w) or the side of a square.
        filter_resize, spectral: as in `GlobalFilter`.

    Shape:
        `(B, D, H, W)` to the same; the filter K is `(D/2, h, w // 2 + 1, 2)`.
    """

    def __init__(self, channels: int, grid: Pair, filter_resize: str = 'bilinear', spectral: str = 'auto'):
        if channels % 2:
            raise ValueError(f'a global-local filter needs an even number of channels, got {channels}')
        super().__init__(channels // 2, grid, filter_resize, spectral)
        self.dw = nn.Conv2d(channels // 2, channels // 2, 3, padding=1, bias=False, groups=channels // 2)
        self.pre_norm = LayerNorm2d(channels)
        self.post_norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        local_half, global_half = self.pre_norm(x).chunk(2, dim=1)
        both = (to_bhwc(self.dw(local_half)), to_bhwc(super().forward(global_half.contiguous())))
        return self.post_norm(to_bchw(torch.stack(both, -1).flatten(3)))  # channel 2k is local k, 2k + 1 global k


class GnConv(nn.Module):
    """Recursive gated convolution of order n: n gated products, each twice as wide as the one before, no activation::

        p, q = split(proj_in(x))                      widths dims[0] and D; 1x1 convolution to dims[0] + D = 2 C
        q_0, ..., q_{n-1} = split(scale * dwconv(q))  widths dims; depth-wise 7x7 or `GlobalLocalFilter`
        p = p * q_0
        p = pws[k](p) * q_{k+1}                       for k = 0 .. n-2; 1x1 convolution dims[k] to dims[k+1]
        y = proj_out(p)                               1x1 convolution

    In the paper's notation `dwconv` is f, `pws` are g_k, and `scale` is 1 / alpha.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; default `in_channels`.
        order: n >= 1.
        kernel_size: of the depth-wise convolution, odd; not used with a grid.
        grid: None for the depth-wise convolution, or the stored grid of a `GlobalLocalFilter`, (h, w) or the side of a square.
        dim_ratio: dim = out_channels * dim_ratio.
        proj_out: whether there is a final 1x1 convolution from dim to out_channels; without it dim_ratio must be 1.
        scale: factor after the spatial operator (HorNet's backbone: 1/3).
        stride, padding, dilation, padding_mode: of the depth-wise convolution, as in `Conv2d`; `padding=None` keeps the grid. The
            gate p is taken at the centers of the convolution's windows.
        filter_resize, spectral: as in `GlobalFilter`.
        channels_last: maps are `(B, H, W, C)` instead of `(B, C, H, W)`; the parameters are the same.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H', W')`, or `(B, H, W, in_channels)` to `(B, H', W', out_channels)`; H' and
        W' are those of a `Conv2d` with the same arguments, by default H and W.

    Raises:
        ValueError: dim not divisible by 2^(order-1), an even kernel, a padding that changes the size or a dilation with a grid, or
            a dim_ratio other than 1 without `proj_out`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        order: int = 2,
        kernel_size: Pair = 7,
        grid: Pair | None = None,
        dim_ratio: int = 1,
        proj_out: bool = True,
        scale: float = 1.0,
        stride: Pair = 1,
        padding: Pair | None = None,
        dilation: Pair = 1,
        padding_mode: PaddingMode = 'zeros',
        filter_resize: str = 'bilinear',
        spectral: str = 'auto',
        channels_last: bool = False,
    ):
        super().__init__()
        self.channels_last = channels_last
        self.in_channels = in_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        dim = self.out_channels * dim_ratio
        self.dims = gate_dims(dim, order)
        self.scale = scale
        total = sum(self.dims)
        if not proj_out and dim_ratio != 1:
            raise ValueError(
                f'without proj_out, dim_ratio must be 1, so that the output has out_channels channels, got dim_ratio={dim_ratio}'
            )
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        if grid is None and not all(k % 2 for k in self.kernel_size):
            raise ValueError(f'kernel_size must be odd, so that a window has a center for the gate, got {kernel_size}')
        reach = [d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation)]  # padding that keeps the size
        self.padding = (reach[0], reach[1]) if padding is None else pair(padding)
        self.border = [p - r for p, r in zip(self.padding, reach)]  # pixels that the padding adds on each side (negative: removes)
        self.proj_in = nn.Conv2d(in_channels, 2 * dim, 1)
        self.dwconv: nn.Conv2d | GlobalLocalFilter
        if grid is None:
            self.dwconv = nn.Conv2d(
                total, total, self.kernel_size, self.stride, self.padding, self.dilation, groups=total, padding_mode=padding_mode
            )
        elif (padding is not None and any(self.border)) or self.dilation != (1, 1) or padding_mode != 'zeros':
            raise ValueError(
                f'A global filter covers the whole map: with grid={grid}, padding must keep the size ({tuple(reach)} here) and '
                f'dilation must be 1, got padding={padding} of mode {padding_mode}, dilation={dilation}. Use grid=None for these.'
            )
        else:
            self.dwconv = GlobalLocalFilter(total, grid, filter_resize, spectral)
        self.proj_out = nn.Conv2d(dim, self.out_channels, 1) if proj_out else nn.Identity()
        self.pws = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(self.dims[:-1], self.dims[1:]))

    def forward(self, x: Tensor) -> Tensor:
        x = to_bchw(x) if self.channels_last else x
        gate, rest = self.proj_in(x).split((self.dims[0], sum(self.dims)), dim=1)
        y = self.proj_out(self.mix(gate, rest))
        return to_bhwc(y) if self.channels_last else y

    def mix(self, gate: Tensor, rest: Tensor) -> Tensor:
        """The spatial operator and the gated products: (B, dims[0], H, W) and (B, D, H, W) to (B, dim, H', W')."""
        mixed = self.dwconv(rest)
        if self.stride != (1, 1) and isinstance(self.dwconv, GlobalLocalFilter):
            mixed = mixed[..., :: self.stride[0], :: self.stride[1]]
        parts = (mixed * self.scale).split(self.dims, dim=1)
        y = self.at_centers(gate) * parts[0]
        for i, pw in enumerate(self.pws):
            y = pw(y) * parts[i + 1]
        return y

    def at_centers(self, gate: Tensor) -> Tensor:
        """The gate at the centers of the depth-wise convolution's windows; zero outside the map."""
        if any(self.border):
            gate = pad(gate, (self.border[1], self.border[1], self.border[0], self.border[0]))
        return gate if self.stride == (1, 1) else gate[..., :: self.stride[0], :: self.stride[1]]


class _Conv2d(nn.Conv2d):
    pass


class SelfInitializedConv2d(_Conv2d):
    """A `Conv2d` that mmengine's `init_cfg=dict(layer='Conv2d')` skips: it looks at the names of a class and its direct bases.

    A head that initializes all convolutions with std 0.01 would make the products of a gnConv vanish.
    """


class GnConvLayer(GnConv):
    """A `GnConv` with the arguments, output size and dtype of a k x k `Conv2d`. Not published.

    The 1x1 convolutions are initialized to preserve the variance, the spatial operator around 1 with a tenth of its usual spread:
    the products are close to the gate, so gnConvs stacked without norms neither vanish nor explode.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode: as in `Conv2d`; kernel_size is that of the
            depth-wise convolution and must be odd.
        bias: whether the last projection has a bias.
        order, grid, dim_ratio, proj_out, filter_resize, spectral: as in `GnConv`.
        dw_kernel_size: kernel of the depth-wise convolution if it differs from the replaced convolution's (the published HorFPN
            has 7 for 3); the padding is increased accordingly.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H', W')`, as in `Conv2d`.

    Raises:
        ValueError: as in `GnConv`.
    """

    # mmcv's ConvModule copies these attributes of its convolution
    transposed = False
    output_padding = (0, 0)
    groups = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        bias: bool = True,
        padding_mode: PaddingMode = 'zeros',
        *,
        dw_kernel_size: Pair | None = None,
        **gnconv,
    ):
        if padding == 'same' and pair(stride) != (1, 1):
            raise ValueError(f"padding='same' needs stride=1, as in Conv2d, got stride={stride}; give the padding as a number")
        number = {'same': None, 'valid': 0}[padding] if isinstance(padding, str) else padding
        if dw_kernel_size is not None and number is not None:
            grown = zip(pair(number), pair(dw_kernel_size), pair(kernel_size), pair(dilation))
            vertical, horizontal = (p + d * (new - old) // 2 for p, new, old, d in grown)
            number = (vertical, horizontal)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=kernel_size if dw_kernel_size is None else dw_kernel_size,
            stride=stride,
            padding=number,
            dilation=dilation,
            padding_mode=padding_mode,
            **gnconv,
        )
        self.padding_mode = padding_mode
        if not bias and isinstance(self.proj_out, nn.Conv2d):
            self.proj_out.bias = None
        for conv in (m for m in self.modules() if type(m) is nn.Conv2d):
            conv.__class__ = SelfInitializedConv2d
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as described for the class; a global filter keeps `GlobalFilter`'s initialization."""
        for conv in (self.proj_in, *self.pws, self.proj_out):
            if isinstance(conv, nn.Conv2d):
                gain = sqrt(2) if conv is self.proj_out else 1  # of the ReLU that usually follows, as in mmcv's ConvModule
                nn.init.normal_(conv.weight, std=gain / sqrt(conv.in_channels))
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        last = self.dwconv.post_norm if isinstance(self.dwconv, GlobalLocalFilter) else self.dwconv
        last.reset_parameters()
        last.weight.mul_(0.1)
        if last.bias is not None:
            nn.init.ones_(last.bias)

    def mix(self, gate: Tensor, rest: Tensor) -> Tensor:
        return super().mix(gate, rest).to(gate.dtype)  # under autocast the norms of a global-local filter return float32


def pair(value: Pair) -> tuple[int, int]:
    """(vertical, horizontal) of a value given as one number or as a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def gate_dims(dim: int, order: int) -> list[int]:
    """Widths of the n gated products, from narrow to wide; with the gate they add up to 2 dim."""
    if order < 1:
        raise ValueError(f'the order of a gnConv must be at least 1, got {order}')
    step = 2 ** (order - 1)
    if dim % step:
        below, above = dim // step * step, (dim // step + 1) * step
        raise ValueError(
            f'a gnConv of order {order} needs channels divisible by {step}, got {dim}; '
            f'the nearest valid counts are {f"{below} and {above}" if below else above}'
        )
    return [dim // 2**i for i in reversed(range(order))]
