"""Parameters and multiply-adds of a model, including the Fourier transforms that other counters skip.

    report = count(mmfreq.build_classifier('gfnet-h-ti'), 224)
    report.params, report.macs.conv_matmul, report.macs.fft, report.modules['blocks.0'].macs

The model runs once on fake tensors, which have a shape and no values, so any image size is counted in seconds and without memory.
A dispatch mode sees every operator call and looks up its cost in `OPERATOR_COSTS`. Costs are summed for four parts:

| part | operators |
|---|---|
| `conv_matmul` | convolutions, matrix products, attention: what papers report as FLOPs |
| `fft` | FFT operators, and the matrix products that replace them with the backend 'matmul' of `mmfreq.ops.spectral` |
| `spectral` | complex products, and element-wise products and functions inside mmfreq's spectral operators |
| `other` | norms, activations, element-wise products, means, resizing |

Element-wise products and functions such as exp cost one per element; additions, comparisons and copies cost nothing. Norms, pooling
and bilinear resizing cost what mmengine's FlopAnalyzer counts. `mmfreq.ops.cost` has the formulas of the transforms.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from functools import partial
from importlib import import_module
from math import ceil, log2, prod
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.models._factory import build_classifier
from mmfreq.ops import cost, spectral
from mmfreq.registry import without_pretraining

PROPOSALS = {'bbox': 1000, 'mask': 100}  # regions that mmdet 2.x sends through the heads of a two-stage detector
COCO_SCALE, COCO_SIZE = (1333, 800), (800, 1280)  # test scale (W, H) of COCO configs, and the (H, W) that mmdet reports FLOPs for


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of each part, see the module's docstring. Papers report `conv_matmul` as FLOPs."""

    conv_matmul: int = 0
    fft: int = 0
    spectral: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class ModuleCost:
    """One module including its submodules. Operators that run outside of a module's forward count for its caller."""

    type_name: str
    params: int
    macs: Macs


@dataclass(frozen=True)
class Complexity:
    """The result of `count`.

    Attributes:
        inputs: shapes of the inputs.
        modules: by name, in the order of `named_modules`; '' is the whole model.
        published_fft: multiply-adds of the FFT operators by the formula of GFNet's and HorNet's scripts, N C ceil(log2 N) each.
        uncounted: number of calls of each operator that is not part of PyTorch; their costs are unknown.
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
        """FLOPs as GFNet's and HorNet's papers count them: convolutions, matrix products, and FFTs by their formula."""
        return self.macs.conv_matmul + self.published_fft

    def rows(self, depth: int = 1) -> Iterator[tuple[str, ModuleCost]]:
        """The modules whose names have at most `depth` parts, without those that have neither parameters nor costs."""
        for name, module in self.modules.items():
            if name and name.count('.') < depth and (module.params or module.macs.total):
                yield name, module


def count(model: nn.Module, inputs: int | tuple[int, int] | Tensor | tuple[Tensor, ...], *, channels: int = 3) -> Complexity:
    """Count the parameters and the multiply-adds of one forward pass in eval mode.

    The unit is one multiply-add (MAC), which the papers of all four families call one FLOP. The count is for the whole batch; an
    image size stands for a batch of one. The model is not changed and may be on any device, including meta.

    Args:
        model: a plain module, or a model of mmseg, mmdet or mmpretrain, which runs in mode 'tensor'. Two-stage detectors are
            counted as in mmdet 2.x, see `two_stage_forward`.
        inputs: the side of a square image, its (H, W), or the input tensors, of which only shape and dtype are used.
        channels: of the image.

    Raises:
        ValueError: the image size is not positive.
        RuntimeError: a shape inside the model depends on values.
    """
    tensors = as_tensors(inputs, channels)
    counter = MacCounter()
    forward = CountedForward(model)
    with _eval_mode(model), torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _fake(t) for name, t in (*forward.named_parameters(), *forward.named_buffers())}
        images = tuple(_fake(t) for t in tensors)
        with counter.track_modules(model), counter:
            torch.func.functional_call(forward, state, images)
    shapes = tuple(tuple(t.shape) for t in tensors)
    return Complexity(shapes, counter.modules(model), counter.published_fft, dict(counter.uncounted))


def as_tensors(inputs, channels: int) -> tuple[Tensor, ...]:
    """The inputs of `count` as tensors; an image size becomes a tensor on the meta device."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, tuple) and inputs and all(isinstance(t, Tensor) for t in inputs):
        return inputs
    size = (inputs, inputs) if isinstance(inputs, int) else tuple(inputs)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f'inputs must be the side of an image, its (H, W), or tensors, got {inputs!r}')
    return (torch.empty(1, channels, *size, device='meta'),)


class CountedForward(nn.Module):
    """The forward pass that is counted; a module, so that `functional_call` can replace its parameters."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor):
        if hasattr(self.model, 'roi_head') and hasattr(self.model, 'rpn_head'):
            return two_stage_forward(self.model, *inputs)
        return self.model(*inputs, mode='tensor') if isinstance(self.model, BaseModel) else self.model(*inputs)


def two_stage_forward(model: nn.Module, images: Tensor) -> None:
    """Backbone, neck, proposal head, and the heads of all stages on 1000 regions for boxes and 100 for masks.

    mmdet 2.x counted this (`forward_dummy`). The cost does not depend on the regions, so there is no NMS and no RoIAlign.
    """
    features = model.extract_feat(images)
    model.rpn_head(features)
    for branch, regions in PROPOSALS.items():
        if not getattr(model.roi_head, f'with_{branch}', False):
            continue
        heads, extractors = (getattr(model.roi_head, f'{branch}_{part}') for part in ('head', 'roi_extractor'))
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors):
            head(images.new_zeros(regions, extractor.out_channels, *extractor.roi_layers[0].output_size))


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device='cpu')


@contextmanager
def _eval_mode(model: nn.Module):
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


class MacCounter(TorchDispatchMode):
    """Sums the costs of the operators that run inside it, for the innermost running module and for the modules that contain it."""

    def __init__(self):
        super().__init__()
        self.macs: defaultdict[str, Counter] = defaultdict(Counter)  # module name -> part -> multiply-adds
        self.published_fft = 0
        self.uncounted: Counter = Counter()
        self._running = ['']

    @contextmanager
    def track_modules(self, model: nn.Module):
        """Hook the modules of `model`, so that the counter knows which one is running."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *_) -> None:
        self._running.append(name)

    def _leave(self, *_) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace not in ('aten', 'prim', 'prims'):
            self.uncounted[str(func.overloadpacket)] += 1
        part, macs = operator_cost(func, args, kwargs or {}, out)
        if macs:
            self.published_fft += published_fft(func, args, out)
            name = self._running[-1]
            while name:
                self.macs[name][part] += macs
                name = name.rpartition('.')[0]
            self.macs[''][part] += macs
        return out

    def modules(self, model: nn.Module) -> dict[str, ModuleCost]:
        """The sums for each module of `model`, by name."""
        parts = [field.name for field in fields(Macs)]
        return {
            name: ModuleCost(
                type(module).__name__,
                sum(p.numel() for p in module.parameters()),
                Macs(**{part: round(self.macs[name][part]) for part in parts}),
            )
            for name, module in model.named_modules()
        }


def operator_cost(func: Callable, args: tuple, kwargs: dict, out) -> tuple[str, float]:
    """Part and multiply-adds of one call of an operator overload, as a `TorchDispatchMode` receives it."""
    part, macs = OPERATOR_COSTS.get(func.overloadpacket, ('other', None))
    if macs is None:
        return part, 0
    context = _spectral_context() if part != 'fft' else None
    if part == 'conv_matmul' and context == 'transform':
        part = 'fft'
    elif part == 'other' and context == 'basis':  # computed once for each size
        return part, 0
    elif part == 'other' and (context or (macs is _product and any(map(_is_complex, args[:2])))):
        part = 'spectral'
    return part, macs(args, kwargs, out)


def published_fft(func: Callable, args: tuple, out) -> int:
    """The call by the formula of GFNet's and HorNet's scripts (`cost.published_fft_cost`); 0 if it is not an FFT."""
    if OPERATOR_COSTS.get(func.overloadpacket, ('',))[0] != 'fft':
        return 0
    full = out if func.overloadpacket is aten._fft_c2r else args[0]
    return full.numel() * ceil(log2(prod(full.shape[d] for d in args[1])))


def _per_input(macs: int) -> Callable:
    """`macs` for each element of the first input."""
    return lambda args, kwargs, out: macs * args[0].numel()


def _per_output(macs: int) -> Callable:
    """`macs` for each element of the output."""
    return lambda args, kwargs, out: macs * out.numel()


def _product(args: tuple, kwargs: dict, out) -> int:
    """One per element; two if one factor is complex, `COMPLEX_PRODUCT` if both are."""
    return (1, 2, cost.COMPLEX_PRODUCT)[sum(map(_is_complex, args[:2]))] * out.numel()


def _matmul(formula: Callable) -> Callable:
    """Half of the FLOPs of PyTorch's own formula."""
    return lambda args, kwargs, out: formula(*args, **kwargs, out_val=out) / 2


def _fft(args: tuple, kwargs: dict, out) -> float:
    return complex_fft_macs(args[0].shape, args[1])


def _real_fft(args: tuple, kwargs: dict, out) -> float:
    grid, half = (out, args[0]) if args[0].is_complex() else (args[0], out)
    return real_fft_macs(grid.shape, half.shape, args[1])


def complex_fft_macs(shape: Sequence[int], dims: Sequence[int]) -> float:
    """Multiply-adds of complex transforms over `dims`."""
    return sum(prod(shape) / shape[d] * cost.fft_cost(shape[d]) for d in dims)


def real_fft_macs(grid: Sequence[int], half: Sequence[int], dims: Sequence[int]) -> float:
    """Multiply-adds of a real transform over the last of `dims` and complex ones over the others on the half spectrum.

    The same in either direction. `grid` and `half` are the shapes of the real map and of its half spectrum.
    """
    *columns, row = dims
    return prod(grid) / grid[row] * cost.rfft_cost(grid[row]) + complex_fft_macs(half, columns)


def _is_complex(value) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


aten = torch.ops.aten
# operator -> (part, multiply-adds of a call with (args, kwargs, out)); operators that are not listed cost nothing
OPERATOR_COSTS: dict[Callable, tuple[str, Callable]] = {
    **{op: ('conv_matmul', _matmul(f)) for op, f in flop_registry.items() if not getattr(op, '__name__', '').endswith('backward')},
    **dict.fromkeys((aten._fft_r2c, aten._fft_c2r), ('fft', _real_fft)),
    aten._fft_c2c: ('fft', _fft),
    **dict.fromkeys(
        (aten.mul, aten.mul_, aten.div, aten.div_, aten.addcmul, aten.pow, aten.reciprocal),
        ('other', _product),
    ),
    **dict.fromkeys(
        (
            *(aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_, aten.tanh, aten.elu, aten.hardswish, aten.hardswish_),
            *(aten.exp, aten.log, aten.sqrt, aten.rsqrt, aten.softplus, aten.mish, aten.leaky_relu),
            *(aten._softmax, aten._log_softmax),
        ),
        ('other', _per_output(1)),
    ),
    **dict.fromkeys((aten.mean, aten.sum, aten.avg_pool2d, aten._adaptive_avg_pool2d), ('other', _per_input(1))),
    **dict.fromkeys((aten.native_layer_norm, aten.native_group_norm), ('other', _per_input(5))),
    **dict.fromkeys(
        (aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training),
        ('other', _per_input(2)),
    ),
    **dict.fromkeys((aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa, aten.grid_sampler_2d), ('other', _per_output(4))),
    **dict.fromkeys((aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa), ('other', _per_output(16))),
}
# code of a function of the spectral operator -> what the operators inside it belong to
_SPECTRAL_CONTEXTS = {
    **{f.__code__: 'basis' for f in (spectral.cos_sin, spectral.multiplicity)},
    **{f.__code__: 'transform' for f in (spectral.rfft2_by_matmul, spectral.irfft2_by_matmul)},
    **{f.__code__: 'spectral operator' for f in (spectral.apply_filter, spectral.map_spectrum)},
}


def _spectral_context() -> str | None:
    """What the innermost running function of `_SPECTRAL_CONTEXTS` does; None outside of them."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in _SPECTRAL_CONTEXTS:
        frame = frame.f_back
    return _SPECTRAL_CONTEXTS[frame.f_code] if frame else None


def paper_macs(model: nn.Module, report: Complexity, family: str, classifier: bool) -> int:
    """Multiply-adds of a counted model as the authors of its family count them.

    | model | convolutions and matrix products, and |
    |---|---|
    | GFNet's and HorNet's classifiers | `cost.published_fft_cost` for each transform |
    | AFFNet's classifiers | `cost.published_adaptive_filter_cost` in place of each mixer's matrix products |
    | others | nothing else (mmcv's counter; the tables of DFFormer) |
    """
    if not classifier or family == 'dfformer':
        return report.macs.conv_matmul
    if family != 'affnet':
        return report.published
    total, side = report.macs.conv_matmul, report.inputs[0][2]
    for name, mixer in model.named_modules():
        if isinstance(mixer, AdaptiveFrequencyFilter):
            blocks, width = mixer.w1.shape[1:3]
            level = name.partition('layer_')[2].partition('.')[0]  # layer_N has stride 2^N
            grid = side // 2 ** int(level)
            total += cost.published_adaptive_filter_cost(blocks * width, blocks, grid, grid)
            total -= report.modules[name].macs.conv_matmul
    return total


def build_for_counting(
    source: str | Config, spectral: str | None = None, device: str = 'meta'
) -> tuple[nn.Module, tuple[int, int]]:
    """Build a model without weights, and find the (H, W) to count it at.

    | source | model | size |
    |---|---|---|
    | arch | the ImageNet classifier | the published image size |
    | classification config | its model | the crop of the test pipeline |
    | segmentation config | its model, without auxiliary heads | the crop; for a square one S x 4S, as HorNet and Swin report it |
    | detection config | its model | the scale of the test pipeline; for (1333, 800) 800 x 1280, as mmdet reports it |

    Args:
        source: name of an arch, path of a config file, or a config, in which `spectral` is set.
        spectral: spectral backend of the backbone; None keeps the config's, or the default.
        device: 'meta' allocates no memory. A model whose constructor reads values is built on the CPU instead.

    Raises:
        ValueError: the source is neither an arch nor a file, or `spectral` is given for a backbone of another package.
    """
    if not isinstance(source, Config) and not Path(source).is_file():
        if source.endswith('.py'):
            raise ValueError(f'There is no config file {source}.')
        with torch.device(device):
            model = build_classifier(source, **({'spectral': spectral} if spectral else {}))
        return model, (model.img_size, model.img_size)
    cfg = source if isinstance(source, Config) else Config.fromfile(source)
    whole = cfg.model.get('detector') or cfg.model  # of a mean teacher
    backbone = whole if 'arch' in whole else whole.get('backbone', {})
    if spectral and not str(backbone.get('type')).startswith('mmfreq.'):
        raise ValueError(f'--spectral is for backbones of mmfreq, and the backbone of {cfg.filename} is {backbone.get("type")}.')
    if spectral:
        backbone['spectral'] = spectral
    scope = cfg.get('default_scope', 'mmengine')
    import_module(scope)
    with DefaultScope.overwrite_default_scope(scope):
        model = _build(without_pretraining(whole), device)
    return model, _image_size(model, cfg, scope)


def _build(cfg: dict, device: str) -> nn.Module:
    try:
        with torch.device(device):
            return MODELS.build(cfg)
    except (RuntimeError, NotImplementedError):  # the constructor reads values
        return MODELS.build(cfg)


def _image_size(model: nn.Module, cfg: Config, scope: str) -> tuple[int, int]:
    if scope == 'mmseg':
        height, width = model.data_preprocessor.size or cfg.crop_size
        return (height, 4 * width) if height == width else (height, width)
    steps = cfg.test_dataloader.dataset.pipeline if 'test_dataloader' in cfg else ()
    if scope == 'mmdet':
        scale = next((tuple(step['scale']) for step in steps if 'scale' in step), COCO_SCALE)
        return COCO_SIZE if scale == COCO_SCALE else scale[::-1]
    sides = [side for step in steps for side in (step.get('crop_size'), step.get('scale') if step['type'] == 'Resize' else None)]
    side = next(filter(None, sides), getattr(model.backbone, 'img_size', 224))
    return tuple(side) if isinstance(side, (list, tuple)) else (side, side)
