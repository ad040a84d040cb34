"""gnConv with the signature of `torch.nn.Conv2d`, for code that builds its convolutions from a name.

Not published; HorNet (arXiv 2207.14284) puts gnConv into decoders by modules of its own (`mmfreq.models.gnconv_module`).
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from mmfreq.layers.gnconv import GlobalLocalFilter, GnConv


class _Conv2d(nn.Conv2d):
    pass


class SelfInitialisedConv2d(_Conv2d):
    """A `Conv2d` that mmengine's `init_cfg=dict(layer='Conv2d')` leaves alone: it looks at a class's name and its direct bases.

    A head that draws all its convolutions with std 0.01 would make the products of a gnConv vanish.
    """


class GnConvLayer(GnConv):
    """A `GnConv` in the place of a k x k `Conv2d`: same arguments, same output size, same dtype.

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
        if padding == 'same' and _pair(stride) != (1, 1):
            raise ValueError(f"padding='same' is for stride 1 alone, as in Conv2d, got stride={stride}; give it as a number")
        padding = {'same': None, 'valid': 0}.get(padding, padding) if isinstance(padding, str) else padding
        if dw_kernel_size is not None and padding is not None:
            grown = zip(_pair(padding), _pair(dw_kernel_size), _pair(kernel_size), _pair(dilation))
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
