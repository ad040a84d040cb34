"""mmdetection's own prediction for one image, with which the exported graphs are compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmfreq.export.detectors.boxes import BoxFilter


@torch.no_grad()
def predict(detector: Any, head: Any, chosen: BoxFilter, images: Tensor, image_size: Sequence[int]) -> Any:
    """The `pred_instances` of the detector's `predict`, with boxes in pixels of `images`.

    Args:
        head: the part whose test_cfg has the number of boxes and the score threshold; those of `chosen` are used instead.
        image_size: (H, W) of the image without padding.
    """
    size = tuple(int(side) for side in image_size)
    sample = DetDataSample(
        metainfo={'img_shape': size, 'ori_shape': size, 'batch_input_shape': tuple(images.shape[2:]), 'scale_factor': (1.0, 1.0)}
    )
    changes = {'max_per_img': chosen.max_boxes, 'score_thr': chosen.score}
    with _changed(head, {key: value for key, value in changes.items() if value is not None}):
        (found,) = detector.predict(images, [sample], rescale=False)
    return found.pred_instances


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The outputs of each call of the modules within the context."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _changed(head: Any, values: dict) -> Iterator[None]:
    """The head with other values in its test_cfg."""
    original = head.test_cfg
    head.test_cfg = type(original)({**original, **values})
    try:
        yield
    finally:
        head.test_cfg = original
