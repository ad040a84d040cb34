"""Parameters and multiply-adds of a model, with the Fourier part that other counters leave out.

    report = count(mmfreq.build_classifier('gfnet-h-ti'), 224)
    report.macs.conv_matmul, report.macs.fft, report.params, report.modules['blocks.0']

The model runs once on fake tensors (shapes only), so any size is counted in seconds and without memory, and every operator that
runs is priced by `op_rules.price`. Segmentors, detectors and classifiers of OpenMMLab run in mode 'tensor'; two-stage detectors
as mmdet 2.x counted them (`two_stage_forward`).
"""

from contextlib import contextmanager

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmfreq.analysis.call_counter import CallCounter
from mmfreq.analysis.complexity_report import Complexity, Macs, ModuleCost
from mmfreq.analysis.mmengine_handles import fft_aware_mmengine, register_handles

__all__ = ['Complexity', 'Macs', 'ModuleCost', 'count', 'fft_aware_mmengine', 'register_handles']

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
