"""Modules to export: from normalized images to logits, a label map, feature maps, or the raw outputs of a dense head."""

from torch import Tensor, nn

from mmfreq.apis.loading import LoadedModel
from mmfreq.errors import UserError

OUTPUTS = {  # of each task; the first is the default
    'classification': ('logits',),
    'features': ('features',),
    'segmentation': ('logits', 'labels'),
    'detection': ('features', 'raw'),
}


def build_graph(loaded: LoadedModel, output: str | None = None) -> nn.Module:
    """The module to export for an output of a model.

    Args:
        output: 'logits'; 'labels', the class of each pixel; 'features', the maps of the backbone and, for a detector, the neck;
            'raw', the outputs of a detector's dense head at each position of those maps. By default the first that the task has.

    Raises:
        UserError: the task has no such output.
    """
    known = OUTPUTS[loaded.task]
    output = output or known[0]
    if output not in known:
        raise UserError(f"The output of {loaded.name} ({loaded.task}) is one of {', '.join(known)}, got '{output}'.")
    if output == 'features':
        return FeatureGraph(loaded.backbone, getattr(loaded.model, 'neck', None))
    if output == 'raw':
        if not hasattr(loaded.model, 'bbox_head'):
            raise UserError(f'The output raw needs a dense head, and {type(loaded.model).__name__} has none. Export features.')
        return DenseHeadGraph(loaded.model)
    if loaded.task == 'segmentation':
        return SegmentorGraph(loaded.model, output == 'labels')
    return loaded.model


class SegmentorGraph(nn.Module):
    """A segmentor of mmsegmentation, including the resizing of the logits to the image's size.

    Args:
        segmentor: an `EncoderDecoder`.
        labels: return the class of each pixel instead of the logits.

    Shape:
        `(N, C_in, H, W)` to logits `(N, K, H, W)` or labels `(N, H, W)` int64.
    """

    def __init__(self, segmentor: nn.Module, labels: bool = False):
        super().__init__()
        self.segmentor, self.labels = segmentor, labels

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        logits = self.segmentor.encode_decode(images, [{'img_shape': size, 'pad_shape': size, 'ori_shape': size}])
        return logits.argmax(1) if self.labels else logits


class FeatureGraph(nn.Module):
    """A backbone, followed by a neck if there is one.

    Shape:
        `(N, C_in, H, W)` to a tuple of `(N, C, h, w)`.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None = None):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(self.backbone(images))
        return maps if self.neck is None else tuple(self.neck(maps))


class DenseHeadGraph(nn.Module):
    """A one-stage detector of mmdetection up to the outputs of its head, before boxes are decoded and filtered.

    Shape:
        `(N, C_in, H, W)` to a tuple of scores `(N, A K, h, w)` of all levels, then of box offsets `(N, 4 A, h, w)` (RetinaNet).
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.detector.bbox_head(self.detector.extract_feat(images))
        return tuple(level for levels in outputs for level in levels)
