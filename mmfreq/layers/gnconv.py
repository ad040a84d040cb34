"""gnConv, the recursive gated convolution (HorNet, arXiv 2207.14284, section 3.1), and its global-local filter (section 3.2).

Legend: B batch, C channels, H W grid, n order; dims = C / 2^(n-1), ..., C / 2, C; D = sum(dims).
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mmfreq.layers.basic import LayerNorm2d, to_bchw, to_bhwc
from mmfreq.layers.filters import GlobalFilter


class GlobalLocalFilter(GlobalFilter):
    """The first half of the channels through a 3x3 depth-wise convolution, the second through a global filter, interleaved.

    Args:
        channels: D, even.
        grid: stored grid of the global filter, (h, w) or the side of a square one.
        filter_resize, spectral: as in `GlobalFilter`.

    Shape:
        `(B, D, H, W)` to the same; the filter is `(D/2, h, w // 2 + 1, 2)`.
    """

    def __init__(self, channels: int, grid: int | tuple[int, int], filter_resize: str = 'bilinear', spectral: str = 'auto'):
        if channels % 2:
            raise ValueError(f'a global-local filter halves its channels, which must be even, got {channels}')
        super().__init__(channels // 2, grid, filter_resize, spectral)
        self.dw = nn.Conv2d(channels // 2, channels // 2, 3, padding=1, bias=False, groups=channels // 2)
        self.pre_norm = LayerNorm2d(channels)
        self.post_norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        local, everywhere = self.pre_norm(x).chunk(2, dim=1)
        both = (to_bhwc(self.dw(local)), to_bhwc(super().forward(everywhere.contiguous())))
        return self.post_norm(to_bchw(torch.stack(both, -1).flatten(3)))  # channel 2k is local k, 2k + 1 global k


class GnConv(nn.Module):
    """Recursive gated convolution of order n.

    A 1x1 projection to 2 dim channels, split into a gate (the first dim / 2^(n-1)) and the rest, which one depth-wise operator
    mixes in space; then n gated products with 1x1 convolutions that double the width in between; no activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; default `in_channels`.
        order: n >= 1.
        kernel_size: of the depth-wise convolution, odd; not used with a grid.
        grid: None for the depth-wise convolution, or the stored grid of a `GlobalLocalFilter`, (h, w) or one side.
        dim_ratio: dim = out_channels * dim_ratio.
        proj_out: a final 1x1 convolution from dim to out_channels; without it dim_ratio must be 1.
        scale: factor after the spatial operator (HorNet's backbone: 1/3).
        stride, padding, dilation, padding_mode: of the depth-wise convolution, as in `Conv2d`; `padding=None` keeps the grid. The
            gate is taken at the centres of its windows. With a grid, `padding` and `dilation` have no meaning and are left alone.
        filter_resize, spectral: as in `GlobalFilter`.
        channels_last: maps are BHWC, else BCHW; the parameters are the same.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H', W')`, or `(B, H, W, in_channels)` to `(B, H', W', out_channels)`; H' and
        W' are those of a `Conv2d` of the same numbers, H and W by default.

    Raises:
        ValueError: dim not divisible by 2^(order-1), an even kernel, padding or dilation with a grid, or dim_ratio other than 1
            without `proj_out`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        order: int = 2,
        kernel_size: int | tuple[int, int] = 7,
        grid: int | tuple[int, int] | None = None,
        dim_ratio: int = 1,
        proj_out: bool = True,
        scale: float = 1.0,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = 'zeros',
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
            raise ValueError(f'without proj_out the output has out_channels * dim_ratio channels; dim_ratio={dim_ratio} is not 1')
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        if grid is None and not all(k % 2 for k in self.kernel_size):
            raise ValueError(f'kernel_size must be odd, so that a window has a centre for the gate, got {kernel_size}')
        reach = tuple(d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation))
        self.padding = reach if padding is None else pair(padding)
        self.border = tuple(p - r for p, r in zip(self.padding, reach))  # what the padding adds to the map; negative: takes off
        self.proj_in = nn.Conv2d(in_channels, 2 * dim, 1)
        if grid is None:
            self.dwconv = nn.Conv2d(
                total, total, self.kernel_size, self.stride, self.padding, self.dilation, groups=total, padding_mode=padding_mode
            )
        elif (padding is not None and any(self.border)) or self.dilation != (1, 1) or padding_mode != 'zeros':
            raise ValueError(
                f'a global filter sees the whole map: with grid={grid}, padding must keep the size ({reach} here), dilation be 1; '
                f'got padding={padding} of mode {padding_mode}, dilation={dilation}; use grid=None for these'
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
        y = self.at_centres(gate) * parts[0]
        for i, pw in enumerate(self.pws):
            y = pw(y) * parts[i + 1]
        return y

    def at_centres(self, gate: Tensor) -> Tensor:
        """The gate at the centres of the depth-wise convolution's windows, 0 outside the map."""
        if any(self.border):
            gate = pad(gate, (self.border[1], self.border[1], self.border[0], self.border[0]))
        return gate if self.stride == (1, 1) else gate[..., :: self.stride[0], :: self.stride[1]]


class _Conv2d(nn.Conv2d):
    pass


class SelfInitialisedConv2d(_Conv2d):
    """A `Conv2d` that mmengine's `init_cfg=dict(layer='Conv2d')` leaves alone: it looks at a class's name and its direct bases.

    A head that draws all its convolutions with std 0.01 would make the products of a gnConv vanish.
    """


class GnConvLayer(GnConv):
    """A `GnConv` in the place of a k x k `Conv2d`: same arguments, same output size, same dtype. Not published.

    Starts with 1x1 convolutions that keep the variance and a spatial operator that gives one and a tenth of its usual spread, so
    that products pass what they gate: gnConvs stacked without norms neither die out nor explode.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as in `Conv2d`; `bias` is that of the
            last projection. kernel_size is the side of the depth-wise convolution, odd.
        order, grid, dim_ratio, proj_out, filter_resize, spectral: as in `GnConv`.
        dw_kernel_size: side of the depth-wise convolution where it should differ from that of the replaced one (the published
            HorFPN has 7 for 3); the padding grows with it.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, H', W')`, as `Conv2d` says.

    Raises:
        ValueError: what `GnConv` refuses.
    """

    transposed = False
    output_padding = (0, 0)
    groups = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        *,
        dw_kernel_size: int | tuple[int, int] | None = None,
        **gnconv,
    ):
        if padding == 'same' and pair(stride) != (1, 1):
            raise ValueError(f"padding='same' is for stride 1 alone, as in Conv2d, got stride={stride}; give it as a number")
        padding = {'same': None, 'valid': 0}.get(padding, padding) if isinstance(padding, str) else padding
        if dw_kernel_size is not None and padding is not None:
            grown = zip(pair(padding), pair(dw_kernel_size), pair(kernel_size), pair(dilation))
            padding = tuple(p + d * (new - old) // 2 for p, new, old, d in grown)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=kernel_size if dw_kernel_size is None else dw_kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
            **gnconv,
        )
        self.padding_mode = padding_mode
        if not bias and isinstance(self.proj_out, nn.Conv2d):
            self.proj_out.bias = None
        for conv in (m for m in self.modules() if type(m) is nn.Conv2d):
            conv.__class__ = SelfInitialisedConv2d
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The initialisation that the class describes; the filter of a grid keeps `GlobalFilter`'s."""
        for conv in (self.proj_in, *self.pws, self.proj_out):
            if isinstance(conv, nn.Conv2d):
                gain = sqrt(2) if conv is self.proj_out else 1  # of the activation that mostly follows, as mmcv's ConvModule has it
                nn.init.normal_(conv.weight, std=gain / sqrt(conv.in_channels))
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        last = self.dwconv.post_norm if isinstance(self.dwconv, GlobalLocalFilter) else self.dwconv
        last.reset_parameters()
        last.weight.mul_(0.1)
        nn.init.ones_(last.bias)

    def mix(self, gate: Tensor, rest: Tensor) -> Tensor:
        return super().mix(gate, rest).to(gate.dtype)  # under autocast the norms of a global-local filter give float32


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(vertical, horizontal) from one number for both or from the pair itself."""
    return (value, value) if isinstance(value, int) else tuple(value)


def gate_dims(dim: int, order: int) -> list[int]:
    """Widths of the n gated products, narrow to wide; with the gate they add up to 2 dim."""
    if order < 1:
        raise ValueError(f'the order of a gnConv is at least 1, got {order}')
    step = 2 ** (order - 1)
    if dim % step:
        below, above = dim // step * step, (dim // step + 1) * step
        raise ValueError(
            f'a gnConv of order {order} needs channels divisible by {step}, got {dim}; '
            f'the nearest valid counts are {f"{below} and {above}" if below else above}'
        )
    return [dim // 2**i for i in reversed(range(order))]
