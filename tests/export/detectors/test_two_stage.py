"""Boxes, scores, labels and masks of two-stage detectors are those of mmdetection's `predict`, in PyTorch and in onnxruntime."""

from functools import cache

import pytest
import torch

import mmfreq  # noqa: F401  (before mmdet)
from mmfreq.errors import UserError
from mmfreq.export import export_onnx
from mmfreq.export.detectors.two_stage import TwoStageGraph
from tests.export.detectors.two_stage_models import BOXES, PROPOSALS, Strided, assert_one_to_one, config, detector, predicted

KINDS = {
    'Faster R-CNN': {'masks': False},
    'Mask R-CNN': {},
    'Cascade R-CNN': {'masks': False, 'cascade': True},
    'Cascade Mask R-CNN': {'cascade': True},
}
# (H, W) of the images with and without padding
SIZES = [((64, 96), (64, 96)), ((64, 96), (51, 90)), ((96, 64), (90, 64)), ((64, 64), (7, 11))]
BACKGROUND = 4.0  # a bias: few boxes exceed the threshold, and none of a blank image


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
def session_of_any_size():
    """A Cascade Mask R-CNN on a plain backbone, and its file with open sizes in onnxruntime."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    model = detector(config(cascade=True), Strided())
    with torch.no_grad():
        for head in model.roi_head.bbox_head:
            head.fc_cls.bias[-1] = BACKGROUND
    graph, images = TwoStageGraph(model), torch.zeros(1, 3, 128, 160)
    program = torch.onnx.export(
        graph,
        (images, *graph.further_inputs(images)),
        dynamo=True,
        opset_version=18,
        input_names=graph.input_names,
        output_names=graph.output_names,
        dynamic_shapes=({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}, None),
        verbose=False,
    )
    return model, onnxruntime.InferenceSession(program.model_proto.SerializeToString())


def in_onnxruntime(session, images, size):
    return session.run(None, {'images': images.numpy(), 'image_size': torch.tensor(size).numpy()})


def test_onnxruntime_detects_the_same_at_any_size(session_of_any_size):
    """Also at sizes larger than the traced one, with fewer boxes than rows, fewer anchors than `nms_pre`, and fewer than rows."""
    model, session = session_of_any_size
    assert session.get_inputs()[0].shape[2:] != [128, 160] and [o.name for o in session.get_outputs()][-1] == 'masks'
    counts = []
    for seed, (padded, size) in enumerate([*SIZES, ((128, 160), (128, 160)), ((256, 320), (250, 313)), ((32, 32), (32, 32))]):
        images = 3 * random_images(padded, seed)
        expected = predicted(model, images, size)
        assert_one_to_one(in_onnxruntime(session, images, size), expected)
        counts.append(len(expected[0]))
    assert max(counts) > min(counts) > 0
    assert max(counts) < BOXES


@pytest.mark.parametrize(('scale', 'size'), [(0.0, (64, 96)), (3.0, (0, 0))], ids=['blank image', 'no proposals'])
def test_no_object(session_of_any_size, scale, size):
    """All rows are empty, also those of proposals that are only padding."""
    model, session = session_of_any_size
    images = scale * random_images((64, 96), 0)
    expected = predicted(model, images, size)
    assert len(expected[0]) == 0
    for outputs in (run(TwoStageGraph(model), images, size), in_onnxruntime(session, images, size)):
        assert_one_to_one(outputs, expected[:3] + (() if len(expected) > 3 else (torch.zeros(0, 28, 28),)))


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
