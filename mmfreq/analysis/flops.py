"""What counting a model gives: multiply-adds by part, for the whole and for every module."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
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


# What one operator call costs, in multiply-adds, and to which part of the count it belongs.
#
# | part | operators |
# |---|---|
# | `conv_matmul` | convolutions, matrix products, attention: what the papers' counters see |
# | `fft` | transforms: FFT operators, and the matrix products that stand for them in `mmfreq.ops.spectral` |
# | `spectral` | element-wise work on a spectrum: complex products, and products and functions inside mmfreq's spectral operators |
# | `other` | norms, activations, element-wise products, means, resizing |
#
# Rules of the last two: one per element for products and for functions like exp, nothing for additions, comparisons and copies;
# norms, batch norm, pooling and bilinear resizing as mmengine's FlopAnalyzer counts them.


PARTS = ('conv_matmul', 'fft', 'spectral', 'other')

aten = torch.ops.aten
_PLACES = {  # code of a function -> what is being done while it runs
    **{f.__code__: 'basis' for f in (spectral.cos_sin, spectral.multiplicity)},
    **{f.__code__: 'transform' for f in (spectral.spectrum, spectral.grid)},
    **{f.__code__: 'spectral operator' for f in (spectral.apply_filter, spectral.map_spectrum)},
}
_MATMULS = {op: formula for op, formula in flop_registry.items() if not getattr(op, '__name__', '').endswith('backward')}
_PRODUCTS = {aten.mul, aten.mul_, aten.div, aten.div_, aten.addcmul, aten.pow, aten.reciprocal}
_FUNCTIONS = {
    *(aten.gelu, aten.silu, aten.silu_, aten.sigmoid, aten.sigmoid_, aten.tanh, aten.elu, aten.hardswish, aten.hardswish_),
    *(aten.exp, aten.log, aten.sqrt, aten.rsqrt, aten._softmax, aten._log_softmax, aten.softplus, aten.mish, aten.leaky_relu),
}
_FACTORS = {  # operator -> (per element of the first input, per element of the first output)
    **dict.fromkeys((aten.mean, aten.sum, aten.avg_pool2d, aten._adaptive_avg_pool2d), (1, 0)),
    **dict.fromkeys((aten.native_layer_norm, aten.native_group_norm), (5, 0)),
    **dict.fromkeys((aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit_no_training), (2, 0)),
    **dict.fromkeys((aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa, aten.grid_sampler_2d), (0, 4)),
    **dict.fromkeys((aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa), (0, 16)),
    **dict.fromkeys(_FUNCTIONS, (0, 1)),
}


def price(func: Callable, args: tuple, kwargs: dict, out) -> tuple[str, float]:
    """Part and multiply-adds of one call of an operator overload, as a `TorchDispatchMode` gets it."""
    op = func.overloadpacket
    if op in _FFTS:
        return 'fft', _FFTS[op](args, out)
    if op in _MATMULS:
        return ('fft' if _place() == 'transform' else 'conv_matmul'), _MATMULS[op](*args, **kwargs, out_val=out) / 2
    if op not in _PRODUCTS and op not in _FACTORS:
        return 'other', 0
    place = _place()
    if place == 'basis':  # made once for each size
        return 'other', 0
    part = 'spectral' if place else 'other'
    if op in _PRODUCTS:
        is_complex = [isinstance(arg, torch.Tensor) and arg.is_complex() for arg in args[:2]]
        per_element = (1, 2, cost.COMPLEX_PRODUCT)[sum(is_complex)]
        return 'spectral' if any(is_complex) else part, per_element * out.numel()
    per_input, per_output = _FACTORS[op]
    return part, (per_input and per_input * args[0].numel()) + (per_output and per_output * out.numel())


def published_fft(func: Callable, args: tuple, out) -> int:
    """The call by the formula of GFNet's and HorNet's scripts (`cost.published_fft_cost`); 0 for anything but an FFT."""
    if func.overloadpacket not in _FFTS:
        return 0
    full = out if func.overloadpacket is aten._fft_c2r else args[0]
    return full.numel() * ceil(log2(prod(full.shape[d] for d in args[1])))


def _r2c(args: tuple, out) -> float:
    return _real(args[0], out, args[1])


def _c2r(args: tuple, out) -> float:
    return _real(out, args[0], args[1])


def _c2c(args: tuple, out) -> float:
    return sum(args[0].numel() / args[0].shape[d] * cost.fft_cost(args[0].shape[d]) for d in args[1])


def _real(grid: torch.Tensor, half: torch.Tensor, dims: list[int]) -> float:
    """Real over the last of `dims`, complex over the others on the half spectrum."""
    *columns, row = dims
    rows = grid.numel() / grid.shape[row] * cost.rfft_cost(grid.shape[row])
    return rows + sum(half.numel() / half.shape[d] * cost.fft_cost(half.shape[d]) for d in columns)


_FFTS = {aten._fft_r2c: _r2c, aten._fft_c2r: _c2r, aten._fft_c2c: _c2c}


def _place() -> str | None:
    """Which of the functions in `_PLACES` is being executed, the innermost first; None outside of them."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code not in _PLACES:
        frame = frame.f_back
    return _PLACES[frame.f_code] if frame else None


# Adds up the operators that run under it, by module.


class CallCounter(TorchDispatchMode):
    """Adds up what the operators under it cost, for the innermost module that is running and for those around it by name."""

    def __init__(self):
        super().__init__()
        self.rows: defaultdict[str, Counter] = defaultdict(Counter)  # module -> part -> multiply-adds
        self.published_fft = 0
        self.uncounted: Counter = Counter()
        self._running = ['']

    @contextmanager
    def watching(self, model: nn.Module):
        """Follows which module of `model` is running."""
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
        part, macs = price(func, args, kwargs or {}, out)
        if macs:
            self.published_fft += published_fft(func, args, out)
            name = self._running[-1]
            while name:
                self.rows[name][part] += macs
                name = name.rpartition('.')[0]
            self.rows[''][part] += macs
        return out

    def modules(self, model: nn.Module) -> dict[str, ModuleCost]:
        """The counts as a row for each module of `model`."""
        found = {}
        for name, module in model.named_modules():
            macs = Macs(**{part: round(self.rows[name][part]) for part in PARTS})
            found[name] = ModuleCost(type(module).__name__, sum(p.numel() for p in module.parameters()), macs)
        return found


# Parameters and multiply-adds of a model, with the Fourier part that other counters leave out.
#
#     report = count(mmfreq.build_classifier('gfnet-h-ti'), 224)
#     report.macs.conv_matmul, report.macs.fft, report.params, report.modules['blocks.0']
#
# The model runs once on fake tensors (shapes only), so any size is counted in seconds and without memory, and every operator that
# runs is priced by `op_rules.price`. Segmentors, detectors and classifiers of OpenMMLab run in mode 'tensor'; two-stage detectors
# as mmdet 2.x counted them (`two_stage_forward`).


PROPOSALS = {'bbox': 1000, 'mask': 100}  # regions that mmdet 2.x sends through the heads of a two-stage detector


def count(model: nn.Module, inputs: int | tuple[int, int] | Tensor | tuple[Tensor, ...], *, channels: int = 3) -> Complexity:
    """Count one forward pass of `model` in eval mode; the model is left as it was, and may be on any device, meta included.

    Args:
        model: a plain module, or a model of mmseg, mmdet or mmpretrain.
        inputs: side of a square image, its (H, W), or the tensors themselves, of which only shape and dtype matter.
        channels: of the image.

    Raises:
        ValueError: sizes that are not positive.
        RuntimeError: a shape in the model depends on values.
    """
    tensors = as_tensors(inputs, channels)
    counter = CallCounter()
    recipe = CountedForward(model)
    with _eval_mode(model), _shapes_only():
        state = {name: _fake(t) for name, t in (*recipe.named_parameters(), *recipe.named_buffers())}
        images = tuple(_fake(t) for t in tensors)
        with counter.watching(model), counter:
            torch.func.functional_call(recipe, state, images)
    shapes = tuple(tuple(t.shape) for t in tensors)
    return Complexity(shapes, counter.modules(model), counter.published_fft, dict(counter.uncounted))


def as_tensors(inputs, channels: int) -> tuple[Tensor, ...]:
    """The inputs of `count` as tensors without storage, or as they were given."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if isinstance(inputs, tuple) and inputs and all(isinstance(t, Tensor) for t in inputs):
        return inputs
    size = (inputs, inputs) if isinstance(inputs, int) else tuple(inputs)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f'inputs must be the side of an image, its (H, W), or tensors, got {inputs!r}')
    return (torch.empty(1, channels, *size, device='meta'),)


def two_stage_forward(model: nn.Module, images: Tensor) -> None:
    """Backbone, neck, proposal head, and the heads of all stages on 1000 regions for boxes and 100 for masks.

    So mmdet 2.x counted (`forward_dummy`). Which regions does not matter, so they are not computed: no NMS, no RoIAlign.
    """
    features = model.extract_feat(images)
    model.rpn_head(features)
    for kind, regions in PROPOSALS.items():
        if not getattr(model.roi_head, f'with_{kind}', False):
            continue
        heads, extractors = (getattr(model.roi_head, f'{kind}_{what}') for what in ('head', 'roi_extractor'))
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors):
            head(images.new_zeros(regions, extractor.out_channels, *extractor.roi_layers[0].output_size))


class CountedForward(nn.Module):
    """How a kind of model is run; a module, so that its parameters can be replaced for one call."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor):
        if hasattr(self.model, 'roi_head') and hasattr(self.model, 'rpn_head'):
            return two_stage_forward(self.model, *inputs)
        return self.model(*inputs, mode='tensor') if isinstance(self.model, BaseModel) else self.model(*inputs)


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device='cpu')


@contextmanager
def _shapes_only():
    """Tensors are fake."""
    with torch.inference_mode(False), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def _eval_mode(model: nn.Module):
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


# FLOPs of a model as the counters of its paper's authors saw it, of which each left out something else.
#
# | | convolutions and matrix products, and |
# |---|---|
# | GFNet's and HorNet's classifiers | `cost.published_fft_cost` for each transform |
# | AFFNet's classifiers | `cost.published_adaptive_filter_cost` in place of each mixer's matrix products |
# | all else | nothing (mmcv's counter; the tables of DFFormer) |


def paper_macs(model: nn.Module, report: Complexity, family: str, classifier: bool) -> int:
    """Multiply-adds of a counted model of a family, in its authors' counting."""
    if not classifier or family == 'dfformer':
        return report.macs.conv_matmul
    return _affnets_profiler(model, report) if family == 'affnet' else report.published


def _affnets_profiler(model, report):
    total, side = report.macs.conv_matmul, report.inputs[0][2]
    for name, mixer in model.named_modules():
        if not isinstance(mixer, AdaptiveFrequencyFilter):
            continue
        blocks, width = mixer.w1.shape[1:3]
        _, _, level = name.partition('layer_')  # of stride 2^level
        grid = side // 2 ** int(level.partition('.')[0])
        total += cost.published_adaptive_filter_cost(blocks * width, blocks, grid, grid)
        total -= report.modules[name].macs.conv_matmul
    return total


# What to count: a model from an arch's name or a config file, without weights and without memory, and the size to count it at.
#
# | subject | model | size by default |
# |---|---|---|
# | arch | the ImageNet classifier | the published image size |
# | classification config | its model | the side of the test pipeline's crop |
# | segmentation config | its model, auxiliary heads not run | the crop; for a square one S x 4S, as HorNet and Swin publish it |
# | detection config | its model | the test pipeline's scale; for (1333, 800) 800 x 1280, as mmdet publishes it |


COCO_SCALE, COCO_SIZE = (1333, 800), (800, 1280)  # width and height at most; height and width counted


def build_for_counting(
    source: str | Config, spectral: str | None = None, cfg_options: dict | None = None, device: str = 'meta'
) -> tuple[nn.Module, tuple[int, int]]:
    """The model, on the device if its constructors allow it, and the (H, W) to count it at.

    Args:
        source: name of an arch, path of a config file, or the config itself, which is changed by the next two.
        spectral: spectral backend of the backbone; None leaves the config's, or the default.
        cfg_options: changes to a config.
        device: 'meta' for shapes alone; to run it, a real one.

    Raises:
        ValueError: neither an arch nor a file; a model without spectral layers where `spectral` is given.
    """
    if not isinstance(source, Config) and not Path(source).is_file():
        if source.endswith('.py'):
            raise ValueError(f'no config file {source}')
        with torch.device(device):
            model = build_classifier(source, **({'spectral': spectral} if spectral else {}))
        return model, (model.img_size, model.img_size)
    cfg = source if isinstance(source, Config) else Config.fromfile(source)
    cfg.merge_from_dict(cfg_options or {})
    part = cfg.model if 'arch' in cfg.model else cfg.model.get('backbone', {})
    if spectral and not str(part.get('type')).startswith('mmfreq.'):
        raise ValueError(f'--spectral is for backbones of mmfreq, and the backbone of {cfg.filename} is {part.get("type")}')
    part.update({'spectral': spectral} if spectral else {})
    scope = cfg.get('default_scope', 'mmengine')
    import_module(scope)
    with DefaultScope.overwrite_default_scope(scope):
        model = _build(without_pretraining(cfg.model), device)
    return model, _size(model, cfg, scope)


def _build(cfg: dict, device: str) -> nn.Module:
    try:
        with torch.device(device):
            return MODELS.build(cfg)
    except (RuntimeError, NotImplementedError):  # a constructor that reads values
        return MODELS.build(cfg)


def _size(model: nn.Module, cfg: Config, scope: str) -> tuple[int, int]:
    if scope == 'mmdet':
        steps = cfg.test_dataloader.dataset.pipeline if 'test_dataloader' in cfg else ()
        scale = next((tuple(step['scale']) for step in steps if 'scale' in step), COCO_SCALE)
        return COCO_SIZE if scale == COCO_SCALE else scale[::-1]
    if scope == 'mmseg':
        height, width = model.data_preprocessor.size or cfg.crop_size
        return (height, 4 * width) if height == width else (height, width)
    steps = cfg.test_dataloader.dataset.pipeline if 'test_dataloader' in cfg else ()
    sides = [side for step in steps for side in (step.get('crop_size'), step.get('scale') if step['type'] == 'Resize' else None)]
    side = next(filter(None, sides), getattr(model.backbone, 'img_size', 224))
    return tuple(side) if isinstance(side, (list, tuple)) else (side, side)
