"""What goes into the graph of an exported model: from normalised images to logits, a label map, or feature maps."""

from torch import Tensor, nn

from mmfreq.apis.loading import LoadedModel
from mmfreq.errors import UserError

OUTPUTS = {
    'classification': ('logits',),
    'features': ('features',),
    'segmentation': ('logits', 'labels'),
    'detection': ('features', 'raw'),
}


def graph_of(subject: LoadedModel, output: str | None = None) -> nn.Module:
    """What is exported of a subject.

    Args:
        output: 'logits'; 'labels', the classes of a segmentor's pixels; 'features', the maps of the backbone and, of a detector,
            the neck; 'raw', what a dense head says of each place of those maps. By default the first that the task has.

    Raises:
        UserError: the task has no such output.
    """
    known = OUTPUTS[subject.task]
    output = output or known[0]
    if output not in known:
        raise UserError(f"the output of {subject.name} ({subject.task}) is one of {', '.join(known)}, got '{output}'")
    if output == 'features':
        return FeatureGraph(subject.backbone, getattr(subject.model, 'neck', None))
    if output == 'raw':
        if not hasattr(subject.model, 'bbox_head'):
            raise UserError(f'raw outputs are those of a dense head, and {type(subject.model).__name__} has none; take features')
        return DenseHeadGraph(subject.model)
    if subject.task == 'segmentation':
        return SegmentorGraph(subject.model, output == 'labels')
    return subject.model


class SegmentorGraph(nn.Module):
    """A segmentor of mmsegmentation with the resize to the image's size in it.

    Args:
        segmentor: an `EncoderDecoder`.
        labels: the class of every pixel, not the logits.

    Shape:
        `(N, 3, H, W)` to logits `(N, K, H, W)` or labels `(N, H, W)` int64.
    """

    def __init__(self, segmentor: nn.Module, labels: bool = False):
        super().__init__()
        self.segmentor, self.labels = segmentor, labels

    def forward(self, images: Tensor) -> Tensor:
        size = (int(images.shape[2]), int(images.shape[3]))
        logits = self.segmentor.encode_decode(images, [{'img_shape': size, 'pad_shape': size, 'ori_shape': size}])
        return logits.argmax(1) if self.labels else logits


class FeatureGraph(nn.Module):
    """A backbone, and the neck behind it if there is one.

    Shape:
        `(N, 3, H, W)` to a tuple of `(N, C, h, w)`.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None = None):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(self.backbone(images))
        return maps if self.neck is None else tuple(self.neck(maps))


class DenseHeadGraph(nn.Module):
    """A one-stage detector of mmdetection up to what its head says of each place, before boxes are decoded and sorted out.

    Shape:
        `(N, 3, H, W)` to a tuple of `(N, A K, h, w)` and then of `(N, 4 A, h, w)`, one of each for every level (RetinaNet).
    """

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.detector.bbox_head(self.detector.extract_feat(images))
        return tuple(level for kind in found for level in kind)


class InHalf(nn.Module):
    """A model that works in float16 between float32 inputs and outputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.half()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.model(images.half())
        if isinstance(found, Tensor):
            return found.float() if found.is_floating_point() else found
        return tuple(part.float() for part in found)
