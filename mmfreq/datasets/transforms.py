"""CVNets' evaluation size: an image's own, rounded down to a multiple of the output stride."""

from mmcv.transforms import BaseTransform, Resize

from mmfreq.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ResizeDownToMultiple(BaseTransform):
    """Bilinear resize of the image to the largest multiples of `size_divisor` that it holds; mmseg's `ResizeToMultiple` rounds up.

    To stand before the annotations are loaded: those keep the image's own size, at which predictions are scored.

    Args:
        size_divisor: in pixels; a side shorter than that is enlarged to it.

    Raises:
        ValueError: `size_divisor` is no positive integer, or annotations are loaded already.
    """

    def __init__(self, size_divisor: int = 32):
        if not isinstance(size_divisor, int) or size_divisor < 1:
            raise ValueError(f'size_divisor is a number of pixels, an integer of at least 1, got {size_divisor!r}')
        self.size_divisor = size_divisor

    def transform(self, results: dict) -> dict:
        loaded = [key for key in results if key.startswith('gt_')]
        if loaded:
            raise ValueError(
                f'ResizeDownToMultiple resizes the image alone, and {", ".join(loaded)} would no longer fit it: '
                'put it before LoadAnnotations in the pipeline'
            )
        height, width = (max(side // self.size_divisor, 1) * self.size_divisor for side in results['img'].shape[:2])
        return Resize(scale=(width, height), keep_ratio=False)(results)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size_divisor={self.size_divisor})'
