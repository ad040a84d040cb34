"""The transform of CVNets' evaluation: the image size, rounded down to a multiple of the output stride."""

from mmcv.transforms import BaseTransform, Resize

from mmfreq.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ResizeDownToMultiple(BaseTransform):
    """Resize the image (bilinear) to sides rounded down to multiples of `size_divisor`; mmseg's `ResizeToMultiple` rounds up.

    Use it before the annotations are loaded: these keep the original size, at which predictions are evaluated.

    Args:
        size_divisor: in pixels; a shorter side is enlarged to it.

    Raises:
        ValueError: `size_divisor` is not a positive integer, or annotations are already loaded.
    """

    def __init__(self, size_divisor: int = 32):
        if not isinstance(size_divisor, int) or size_divisor < 1:
            raise ValueError(f'Expected size_divisor, in pixels, to be an integer of at least 1, got {size_divisor!r}.')
        self.size_divisor = size_divisor

    def transform(self, results: dict) -> dict:
        loaded = [key for key in results if key.startswith('gt_')]
        if loaded:
            raise ValueError(
                f'ResizeDownToMultiple resizes only the image, so {", ".join(loaded)} would no longer fit it. '
                'Put it before LoadAnnotations in the pipeline.'
            )
        height, width = (max(side // self.size_divisor, 1) * self.size_divisor for side in results['img'].shape[:2])
        return Resize(scale=(width, height), keep_ratio=False)(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size_divisor={self.size_divisor})'
