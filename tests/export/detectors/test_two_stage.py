"""Boxes, scores, labels and masks of two-stage detectors are those of mmdetection's `predict`, in PyTorch and in onnxruntime."""

from functools import cache, partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfreq  # (before mmdet)
from mmfreq.apis.loading import LoadedModel
from mmfreq.errors import UserError
from mmfreq.export import export_onnx
from mmfreq.export.detectors.two_stage import TwoStageGraph
from mmfreq.export.graphs import build_graph
from mmfreq.export.verify_boxes import Boxes, compare, found
from tests.export.detectors.two_stage_models import BOXES, PROPOSALS, Strided, assert_one_to_one, config, detector, predicted

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs/det'
KINDS = {
    'Faster R-CNN': {'masks': False},
    'Mask R-CNN': {},
    'Cascade R-CNN': {'masks': False, 'cascade': True},
    'Cascade Mask R-CNN': {'cascade': True},
}
# (H, W) of the images with and without padding
SIZES = [((64, 96), (64, 96)), ((64, 96), (51, 90)), ((96, 64), (90, 64)), ((64, 64), (7, 11))]
BACKGROUND = 3.0  # a bias: few boxes exceed the threshold, and none of a blank image


@cache
def micro(kind):
    return detector(config(**KINDS[kind]))


def random_images(size, seed):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(graph, images, size):
    return graph(images, torch.tensor(size))


@pytest.mark.parametrize('kind', KINDS)
def test_detections_are_those_of_predict(kind):
    model, counts, labels = micro(kind), [], []
    graph = TwoStageGraph(model)
    assert graph.output_names == ('boxes', 'scores', 'labels', 'count', 'masks')[: 5 if 'Mask' in kind else 4]
    for seed, (padded, size) in enumerate(SIZES):
        images = random_images(padded, seed)
        outputs, expected = run(graph, images, size), predicted(model, images, size)
        assert_one_to_one(outputs, expected, 1e-5)
        counts.append(len(expected[0]))
        labels += expected[2].tolist()
    assert max(counts) == BOXES and len(set(labels)) > 1


def test_proposals_are_those_of_the_rpn():
    from mmdet.structures import DetDataSample

    model, counts = micro('Faster R-CNN'), []
    graph = TwoStageGraph(model)
    for seed, (padded, size) in enumerate(SIZES):
        images = random_images(padded, seed)
        with torch.no_grad():
            maps = model.extract_feat(images)
            expected = model.rpn_head.predict(maps, [DetDataSample(metainfo={'img_shape': size})], rescale=False)[0].bboxes
            proposals, count = graph.proposals(maps, images, torch.tensor(size))
        counts.append(int(count))
        torch.testing.assert_close(proposals[:count], expected)
        assert not proposals[count:].any()
    assert max(counts) == PROPOSALS > min(counts)


@pytest.fixture(scope='module')
def of_any_size(tmp_path_factory):
    """A Cascade Mask R-CNN with few levels on a plain backbone, and its file with open sizes in onnxruntime."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    model = detector(config(cascade=True, levels=2), partial(Strided, 2))
    with torch.no_grad():
        for head in model.roi_head.bbox_head:
            head.fc_cls.bias[-1] = BACKGROUND
    exported = export_onnx(TwoStageGraph(model), (64, 96), tmp_path_factory.mktemp('any') / 'm.onnx', dynamic=True)
    return model, onnxruntime.InferenceSession(exported.path)


def in_onnxruntime(session, images, size):
    return session.run(None, {'images': images.numpy(), 'image_size': torch.tensor(size).numpy()})


def test_onnxruntime_detects_the_same_at_any_size(of_any_size):
    """Also at sizes larger than the traced one, with fewer anchors than `nms_pre`, proposals than rows and boxes than rows."""
    model, session = of_any_size
    assert [entry.shape for entry in session.get_inputs()] == [[1, 3, 'height', 'width'], [2]]
    assert [entry.shape for entry in session.get_outputs()] == [[BOXES, 4], [BOXES], [BOXES], [], [BOXES, 28, 28]]
    counts = []
    for seed, (padded, size) in enumerate([*SIZES, ((512, 640), (500, 632)), ((16, 16), (16, 16))]):
        images = 3 * random_images(padded, seed)
        expected = predicted(model, images, size)
        assert_one_to_one(in_onnxruntime(session, images, size), expected)
        counts.append(len(expected[0]))
    assert max(counts) == BOXES > min(counts) > 0, counts


@pytest.mark.parametrize(('scale', 'size'), [(0.0, (64, 96)), (3.0, (0, 0))], ids=['blank image', 'no proposals'])
def test_no_object(of_any_size, scale, size):
    """All rows are empty, also those of proposals that are only padding."""
    model, session = of_any_size
    images = scale * random_images((64, 96), 0)
    assert len(predicted(model, images, size)[0]) == 0
    for outputs in (run(TwoStageGraph(model), images, size), in_onnxruntime(session, images, size)):
        assert_one_to_one(outputs, TwoStageGraph(model).predict(images, size))


def test_equal_scores(of_any_size):
    """A pattern repeats itself at the stride of the last level: which boxes of equal scores fill the rows may differ."""
    model, session = of_any_size
    images, size = 3 * random_images((16, 16), 1).tile(6, 8), (96, 128)
    expected = Boxes(*(values.numpy() for values in predicted(model, images, size)))
    assert len(np.unique(expected.scores.round(5))) < len(expected.scores) == BOXES
    differences = compare('x', found(session, images.numpy(), size), expected, 128, BOXES)
    assert all(difference.within for difference in differences if difference.output != 'boxes'), [str(d) for d in differences]


def test_number_of_rows_and_threshold_are_options():
    model, images, size = micro('Mask R-CNN'), random_images((64, 96), 0), (64, 96)
    boxes, scores, labels, count, masks = run(TwoStageGraph(model), images, size)
    threshold = float(scores[4:6].mean())
    fewer = run(TwoStageGraph(model, max_boxes=10, score=threshold), images, size)
    assert [len(output) for output in (fewer[0], fewer[1], fewer[2], fewer[4])] == [10] * 4
    assert int(fewer[3]) == 5 < 10 < int(count)
    assert_one_to_one(fewer, (boxes[:5], scores[:5], labels[:5], masks[:5]), 1e-5)
    assert_one_to_one(fewer, TwoStageGraph(model, max_boxes=10, score=threshold).predict(images, size), 1e-5)
    assert model.roi_head.test_cfg.max_per_img == BOXES


def test_class_agnostic_masks():
    model = config()
    model.roi_head.mask_head.class_agnostic = True
    model = detector(model)
    images = random_images((64, 96), 0)
    assert_one_to_one(run(TwoStageGraph(model), images, (60, 96)), predicted(model, images, (60, 96)), 1e-5)


def test_regions_of_masks_may_be_those_of_boxes():
    model = config(cascade=True)
    model.roi_head.mask_roi_extractor = None
    model = detector(model)
    images = random_images((64, 96), 0)
    outputs = run(TwoStageGraph(model), images, (60, 96))
    assert outputs[4].shape == (BOXES, 14, 14)
    assert_one_to_one(outputs, predicted(model, images, (60, 96)), 1e-5)


def test_rpn_with_softmax():
    model = config(masks=False)
    model.rpn_head.loss_cls = {'type': 'CrossEntropyLoss'}
    model = detector(model)
    assert model.rpn_head.cls_out_channels == 2
    images = random_images((64, 96), 0)
    assert_one_to_one(run(TwoStageGraph(model), images, (60, 96)), predicted(model, images, (60, 96)), 1e-5)


def test_parts_that_differ_only_in_training_are_accepted():
    from mmdet.models.roi_heads import DynamicRoIHead

    model = detector(config(masks=False))
    model.roi_head.__class__ = DynamicRoIHead
    TwoStageGraph(model)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'dynamic': True}], ids=['one size', 'any size'])
def test_optimized_file_of_a_backbone_of_mmfreq(options, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    model = micro('Mask R-CNN')
    exported = export_onnx(TwoStageGraph(model), (64, 96), tmp_path / 'm.onnx', optimized=True, **options)
    assert not exported.spectral and exported.operators['RoiAlign'] == 8 and exported.operators['NonMaxSuppression'] == 2
    session = onnxruntime.InferenceSession(exported.path)
    for seed, (padded, size) in enumerate([*SIZES, ((256, 320), (250, 313))] if options else SIZES[:2]):
        images = random_images(padded, seed)
        assert_one_to_one(in_onnxruntime(session, images, size), predicted(model, images, size))


@pytest.mark.slow
def test_half_precision_finds_the_best_boxes(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    model = detector(config(levels=2), partial(Strided, 2))
    exported = export_onnx(TwoStageGraph(model), (64, 96), tmp_path / 'm.onnx', precision='fp16')
    session = onnxruntime.InferenceSession(exported.path)
    images = random_images((64, 96), 0)
    boxes, scores, labels, _, masks = in_onnxruntime(session, images, (64, 96))
    expected = predicted(model, images, (64, 96))
    assert boxes.dtype == scores.dtype == masks.dtype == 'float32'
    assert labels[0] == expected[2][0]
    torch.testing.assert_close(torch.tensor(boxes[0]), expected[0][0], rtol=0, atol=0.5)
    torch.testing.assert_close(torch.tensor(masks[0]), expected[3][0], rtol=0, atol=0.05)


def with_part(change):
    """The error of a detector of which a part was changed."""
    model = detector(config(cascade=True))
    change(model)
    with pytest.raises(UserError) as caught:
        TwoStageGraph(model)
    return str(caught.value)


def as_class(path, module, name):
    """A change of the class of the part at `path`."""

    def change(model):
        part = model.get_submodule(path) if path else model
        part.__class__ = getattr(import_module(f'mmdet.models.{module}'), name)

    return change


def setting(path, **values):
    """A change of attributes of the part at `path`."""

    def change(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def with_soft_nms(model):
    model.roi_head.test_cfg.nms = {'type': 'soft_nms', 'iou_threshold': 0.5}


REFUSED = {
    'TridentFasterRCNN': as_class('', 'detectors', 'TridentFasterRCNN'),
    'HybridTaskCascadeRoIHead': as_class('roi_head', 'roi_heads', 'HybridTaskCascadeRoIHead'),
    'PointRendRoIHead': as_class('roi_head', 'roi_heads', 'PointRendRoIHead'),
    'DoubleHeadRoIHead': as_class('roi_head', 'roi_heads', 'DoubleHeadRoIHead'),
    'SABLHead': as_class('roi_head.bbox_head.1', 'roi_heads', 'SABLHead'),
    'GenericRoIExtractor': as_class('roi_head.bbox_roi_extractor.0', 'roi_heads', 'GenericRoIExtractor'),
    'GridHead': as_class('roi_head.mask_head.0', 'roi_heads.mask_heads', 'GridHead'),
    'StageCascadeRPNHead': as_class('rpn_head', 'dense_heads.cascade_rpn_head', 'StageCascadeRPNHead'),
    'CARAFE': setting('roi_head.mask_head.2', upsample_method='carafe'),
    'a shared head': setting('roi_head', shared_head=torch.nn.Identity()),
    'SeesawLoss': lambda model: setattr(model.roi_head.bbox_head[0], 'loss_cls', seesaw()),
    'TBLRBBoxCoder': lambda model: setattr(model.roi_head.bbox_head[2], 'bbox_coder', tblr()),
    'soft_nms': with_soft_nms,
    'precomputed proposals': setting('', rpn_head=None),
}


def seesaw():
    from mmdet.models.losses import SeesawLoss

    return SeesawLoss(num_classes=3)


def tblr():
    from mmdet.models.task_modules.coders import TBLRBBoxCoder

    return TBLRBBoxCoder()


@pytest.mark.parametrize('name', REFUSED)
def test_other_parts_are_rejected_by_name(name):
    message = with_part(REFUSED[name])
    assert name in message and message.startswith('Expected ') and message.count('. ') <= 2, message


def test_build_graph_selects_two_stage_detectors():
    loaded = LoadedModel(micro('Mask R-CNN'), 'toy', 'detection', (64, 96))
    graph = build_graph(loaded, 'boxes', max_boxes=7)
    assert isinstance(graph, TwoStageGraph) and graph.regions.filter.max_boxes == 7


@pytest.mark.parametrize(
    'config_file',
    [
        'affnet/affnet_mask-rcnn_8xb2-1x_coco.py',
        'hornet/hornet-small-7x7_mask-rcnn-horfpn-gf_8xb2-ms-crop-1x_coco.py',
        'hornet/hornet-tiny-gf_cascade-mask-rcnn_8xb2-ms-crop-3x_coco.py',
    ],
)
def test_configs_of_this_repository_are_supported(config_file):
    model = Config.fromfile(CONFIGS / config_file).model
    model.update(backbone=config().backbone, train_cfg=None, data_preprocessor=None)  # the backbone does not matter here
    heads = model.roi_head.bbox_head if isinstance(model.roi_head.bbox_head, list) else [model.roi_head.bbox_head]
    for head in heads:
        head.update(fc_out_channels=8)
    init_default_scope('mmdet')
    graph = TwoStageGraph(MODELS.build(model))
    assert len(graph.regions.stages) == len(heads) and graph.output_names[-1] == 'masks'
