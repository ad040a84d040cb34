"""gnConv, the recursive gated convolution (HorNet, arXiv 2207.14284, section 3.1), and its global-local filter (section 3.2).

Legend: B batch, C channels, H W grid, n order; dims = C / 2^(n-1), ..., C / 2, C; D = sum(dims).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad
from torch.nn.modules.utils import _pair

from mmfreq.layers.eval_cache import CachingModule, EvalCache
from mmfreq.layers.fused import depthwise, fusable, in_dtype, norm_of, parameters_of, scale_inside
from mmfreq.layers.layout import to_bchw, to_bhwc
from mmfreq.layers.norm import LayerNorm2d
from mmfreq.layers.spectral import GlobalFilter
from mmfreq.ops.fusing import wants_gradient, work_dtype
from mmfreq.ops.gated import gated_linear
from mmfreq.ops.norm_mlp import norm_linear, scaled_linear


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
        return self.post_norm(to_bchw(self.mixed_bhwc(to_bhwc(x))))

    def mixed_bhwc(self, x_bhwc: Tensor) -> Tensor:
        """The result before `post_norm`; `(B, H, W, D)` to the same."""
        local, everywhere = self.pre_norm(to_bchw(x_bhwc)).chunk(2, dim=1)
        both = (to_bhwc(self.dw(local)), to_bhwc(super().forward(everywhere.contiguous())))
        return torch.stack(both, -1).flatten(3)  # channel 2k is local k, 2k + 1 global k


class GnConv(CachingModule):
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
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        if grid is None and not all(k % 2 for k in self.kernel_size):
            raise ValueError(f'kernel_size must be odd, so that a window has a centre for the gate, got {kernel_size}')
        reach = tuple(d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation))
        self.padding = reach if padding is None else _pair(padding)
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
        self._weights = EvalCache()

    def forward(self, x: Tensor) -> Tensor:
        x_bhwc = x if self.channels_last else to_bhwc(x)
        if self.fusable_on(x_bhwc):
            y_bhwc = self.fused(x_bhwc)
        else:
            y_bhwc = to_bhwc(self.proj_out(self.mix(*self.proj_in(to_bchw(x_bhwc)).split((self.dims[0], sum(self.dims)), dim=1))))
        return y_bhwc if self.channels_last else to_bchw(y_bhwc)

    def fusable_on(self, x_bhwc: Tensor) -> bool:
        """Whether `fused` may stand in for the modules' own forward on this map: a channels-last one, or any on a CPU."""
        if not (x_bhwc.is_contiguous() or x_bhwc.device.type == 'cpu'):
            return False
        post_norm = (self.dwconv.post_norm,) if isinstance(self.dwconv, GlobalLocalFilter) else ()
        return fusable(self.proj_in, *self.pws, self.proj_out, self.dwconv, *post_norm)

    def fused(self, x_bhwc: Tensor, norm: nn.LayerNorm | None = None, out_scale: Tensor | None = None) -> Tensor:
        """`out_scale * self(norm(x))` on a channels-last map, keeping neither the normed map nor the gated products.

        The factor `scale` and the layer scale are multiplied into the weights before them.
        """
        dtype, inside = work_dtype(x_bhwc), scale_inside(x_bhwc, out_scale)
        make = partial(self.fused_weights, dtype)
        maps, spatial, pws = self._weights.get(self.training, ('gnconv', dtype), parameters_of(self), make)
        gate, rest = norm_linear(x_bhwc, (None, None, None) if norm is None else norm_of(norm), maps)
        parts = self.scaled_spatial(rest, *spatial).split(self.dims, dim=-1)
        y = to_bhwc(self.at_centres(to_bchw(gate)))
        for pw, part in zip(pws, parts):
            y = gated_linear(y, part, pw)
        if isinstance(self.proj_out, nn.Identity):
            y = y * parts[-1]
            return y if out_scale is None else out_scale * y
        sources = (self.proj_out.weight, self.proj_out.bias, out_scale if inside else None)
        prepare = partial(last_weights, dtype=dtype)
        if wants_gradient(*sources):
            y = gated_linear(y, parts[-1], sources, prepare)
        else:
            key = ('last', dtype, inside)
            y = gated_linear(y, parts[-1], self._weights.get(self.training, key, sources, lambda: prepare(*sources)))
        return y if inside or out_scale is None else out_scale * y

    def fused_weights(self, dtype: torch.dtype) -> tuple:
        """(weight, bias) in `dtype` of the two parts of proj_in, of the spatial operator with its factor, and of each of pws."""
        weight, bias = self.proj_in.weight.flatten(1), self.proj_in.bias
        halves = (self.dims[0], sum(self.dims))
        maps = zip(weight.split(halves), (None, None) if bias is None else bias.split(halves))
        pws = ((pw.weight.flatten(1), pw.bias) for pw in self.pws)
        if isinstance(self.dwconv, GlobalLocalFilter):
            norm = self.dwconv.post_norm
            spatial = (norm.weight * self.scale, norm.bias * self.scale)  # float32 under autocast, as the norm is
        else:
            weight, bias = self.dwconv.weight, self.dwconv.bias
            spatial = in_dtype(dtype, (weight * self.scale, None if bias is None else bias * self.scale))
        return [in_dtype(dtype, pair) for pair in maps], spatial, [in_dtype(dtype, pair) for pair in pws]

    def scaled_spatial(self, rest_bhwc: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The spatial operator and its factor, which is part of `weight` and `bias`, on a channels-last map, in its dtype."""
        if not isinstance(self.dwconv, GlobalLocalFilter):
            return to_bhwc(depthwise(self.dwconv, to_bchw(rest_bhwc), weight, bias))
        mixed = self.dwconv.mixed_bhwc(rest_bhwc)[:, :: self.stride[0], :: self.stride[1]]
        return layer_norm(mixed, weight.shape, weight, bias, self.dwconv.post_norm.eps).to(rest_bhwc.dtype)

    def mix(self, gate: Tensor, rest: Tensor) -> Tensor:
        """The spatial operator and the gated products: (B, dims[0], H, W) and (B, D, H, W) to (B, dim, H', W')."""
        mixed = self.dwconv(rest)
        if self.stride != (1, 1) and isinstance(self.dwconv, GlobalLocalFilter):
            mixed = mixed[..., :: self.stride[0], :: self.stride[1]]
        first, *others = (mixed * self.scale).split(self.dims, dim=1)
        y = self.at_centres(gate) * first
        for pw, other in zip(self.pws, others):
            y = pw(y) * other
        return y

    def at_centres(self, gate: Tensor) -> Tensor:
        """The gate at the centres of the depth-wise convolution's windows, 0 outside the map."""
        if any(self.border):
            gate = pad(gate, (self.border[1], self.border[1], self.border[0], self.border[0]))
        return gate if self.stride == (1, 1) else gate[..., :: self.stride[0], :: self.stride[1]]


def last_weights(weight: Tensor, bias: Tensor | None, scale: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    """Weight and bias of a 1x1 convolution as those of a linear map, scaled, in `dtype`."""
    return in_dtype(dtype, scaled_linear(weight.flatten(1), bias, scale))


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
