"""One-stage detectors give the boxes of mmdetection's `predict`, in PyTorch and in onnxruntime."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from mmfreq.errors import UserError
from mmfreq.export import export_onnx
from mmfreq.export.detectors.dense import dense_graph
from mmfreq.export.verify_boxes import verify_boxes

pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

SIZE = (96, 128)
PADDED = (70, 117)  # of an image inside


def images(seed=0, size=SIZE):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def with_test_cfg(detector, **changes):
    """The detector with other values in the head's test_cfg, its modules shared."""
    detector = copy.deepcopy(detector)
    detector.bbox_head.test_cfg = ConfigDict({**detector.bbox_head.test_cfg, **changes})
    return detector


def assert_equal_to_predict(detector, batch, size, at_least=1):
    """Of the graph in PyTorch; returns the number of boxes."""
    graph = dense_graph(detector)
    with torch.no_grad():
        *actual, count = graph(batch, torch.tensor(size))
    expected = graph.predict(batch, size)
    assert count == len(expected[0]) >= at_least
    for values, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(values[:count], want, rtol=1e-6, atol=1e-6)
        assert len(values) == graph.chosen.max_boxes
    return int(count)


@pytest.mark.parametrize('size', [SIZE, PADDED])
def test_boxes_equal_those_of_predict(detector, size):
    assert assert_equal_to_predict(detector, images(), size) > 5
    boxes = dense_graph(detector).predict(images(), size)[0]
    assert boxes.min() == 0 and boxes[:, 2].max() == size[1] and boxes[:, 3].max() == size[0]  # some are clipped


CHANGES = {
    'score_thr': lambda boxes, scores: dict(score_thr=float(scores.quantile(0.9))),
    'min_bbox_size': lambda boxes, scores: dict(min_bbox_size=float((boxes[:, 2:] - boxes[:, :2]).amin(1).median())),
    'nms_pre': lambda boxes, scores: dict(nms_pre=7),
    'max_per_img': lambda boxes, scores: dict(max_per_img=3),
    'class_agnostic': lambda boxes, scores: dict(nms=dict(type='nms', iou_threshold=0.2, class_agnostic=True)),
}


@pytest.mark.parametrize('field', CHANGES)
def test_fields_of_the_test_cfg_have_their_effect(detector, field):
    before = dense_graph(detector).predict(images(), SIZE)
    changed = with_test_cfg(detector, **CHANGES[field](*before[:2]))
    assert_equal_to_predict(changed, images(), SIZE)
    after = dense_graph(changed).predict(images(), SIZE)
    assert before[1].shape != after[1].shape or not torch.equal(before[1], after[1])


def test_nms_by_class_from_a_number_of_boxes(detector):
    """In SSDLite boxes have negative coordinates, so that boxes of two classes overlap if NMS is not by class."""
    assert_equal_to_predict(with_test_cfg(detector, nms=dict(type='nms', iou_threshold=0.5, split_thr=10)), images(), SIZE)


def test_number_of_boxes_and_threshold_replace_those_of_the_test_cfg(detector):
    graph = dense_graph(detector, max_boxes=5, score=0.4)
    with torch.no_grad():
        boxes, scores, _, count = graph(images(), torch.tensor(SIZE))
    expected, expected_scores, _ = graph.predict(images(), SIZE)
    assert boxes.shape == (5, 4) and torch.allclose(boxes[:count], expected) and torch.allclose(scores[:count], expected_scores)
    assert detector.bbox_head.test_cfg['max_per_img'] != 5


def test_no_object(detector):
    assert assert_equal_to_predict(with_test_cfg(detector, score_thr=1.0), images(), SIZE, at_least=0) == 0


def test_fewer_candidates_than_k_and_other_sizes_of_images(detector):
    assert_equal_to_predict(with_test_cfg(detector, nms_pre=10**6), images(1, (32, 40)), (32, 40))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A function that returns the graph and the file of a detector, each exported once."""
    files = {}

    def export(detector, max_boxes=None, score=None, **options):
        key = (id(detector), max_boxes, score, *options.items())
        if key not in files:
            graph = dense_graph(detector, max_boxes, score)
            files[key] = graph, export_onnx(graph, SIZE, tmp_path_factory.mktemp('boxes') / 'm.onnx', **options)
        return files[key]

    return export


def test_file_finds_the_boxes_of_predict(detector, exported):
    _, file = exported(detector)
    assert file.operators['NonMaxSuppression'] == 1
    inputs = {str(seed): images(seed) for seed in range(3)}
    differences = verify_boxes(file.path, file.model, inputs)
    assert len(differences) == 3 * 2 * 3
    assert all(difference.within and difference.largest < 1e-5 for difference in differences), [str(d) for d in differences]
    assert ' 0 boxes' not in str(differences[0])


def test_file_with_equal_scores(detector, exported):
    """Maps of one value: the scores of a level are equal, more than nms_pre of them; both take those of the first cells."""
    graph, file = exported(detector)
    differences = verify_boxes(file.path, file.model, {'constant': torch.ones(1, 3, *SIZE)})
    scores = graph.predict(torch.ones(1, 3, *SIZE), SIZE)[1]
    assert len(scores.unique()) < len(scores) - 3
    assert all(difference.within for difference in differences), [str(d) for d in differences]


def test_file_without_objects(retinanet, exported):
    _, file = exported(retinanet, score=1.0, max_boxes=7)
    session = onnxruntime.InferenceSession(file.path)
    outputs = session.run(None, {'images': images().numpy(), 'image_size': np.array(SIZE)})
    assert [value.name for value in session.get_outputs()] == ['boxes', 'scores', 'labels', 'count']
    assert [value.shape for value in outputs] == [(7, 4), (7,), (7,), ()]
    assert not outputs[0].any() and not outputs[1].any() and (outputs[2] == -1).all() and outputs[3] == 0


OPEN = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
OTHER_SIZES = ((40, 72), (96, 120), (200, 136))  # than the traced one: fewer candidates than k, larger


@pytest.mark.parametrize('detector', ['RetinaNet', 'SSDLite'], indirect=True)
def test_program_for_any_size(detector):
    graph, example = dense_graph(detector), images(size=(56, 88))
    program = torch.export.export(graph, (example, *graph.further_inputs(example)), dynamic_shapes=(OPEN, {})).module()
    for size in OTHER_SIZES:
        with torch.no_grad():
            *actual, count = program(images(2, size), torch.tensor(size))
        for values, want in zip(actual, graph.predict(images(2, size), size), strict=True):
            torch.testing.assert_close(values[:count], want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_file_for_any_size(detector, tmp_path):
    file = export_onnx(dense_graph(detector), SIZE, tmp_path / 'open.onnx', dynamic=True)
    assert onnxruntime.InferenceSession(file.path).get_inputs()[0].shape == [1, 3, 'height', 'width']
    inputs = {str(size): images(2, size) for size in OTHER_SIZES}
    differences = verify_boxes(file.path, file.model, inputs)
    assert all(difference.within and difference.largest < 1e-5 for difference in differences), [str(d) for d in differences]


@pytest.mark.slow
def test_ssdlite_with_a_pooled_level_for_any_size(tmp_path):
    """AFFNet's own detector; `test_detector_with_boxes` of the tool exports DFFormer's."""
    strides = dict(proj_channels=(16, 16, 16, 16), strides=(16, 32, 64, -1), norm_cfg=dict(type='BN'))
    model = dict(
        type='mmdet.SingleStageDetector',
        backbone=dict(type='mmfreq.AFFNet', arch='affnet-micro', out_indices=(2, 3)),
        neck=dict(type='mmfreq.AFFNetSSDLiteNeck', in_channels=(24, 32), **strides),
        bbox_head=dict(
            type='mmfreq.AFFNetSSDLiteHead',
            num_classes=4,
            in_channels=(24, 32, 16, 16),
            **strides,
            anchor_generator=dict(type='mmfreq.AFFNetSSDAnchorGenerator', ratios=((2, 3),) * 4),
        ),
    )
    torch.manual_seed(0)
    detector = MODELS.build(Config({'model': model}).model).eval()
    graph = dense_graph(detector, max_boxes=50, score=0.1)
    file = export_onnx(graph, SIZE, tmp_path / 'open.onnx', dynamic=True, optimized=True)
    differences = verify_boxes(file.path, file.model, {str(size): images(2, size) for size in OTHER_SIZES})
    assert all(difference.within for difference in differences), [str(d) for d in differences]
    assert ' 0 boxes' not in str(differences[0])


def test_fp16_file_decodes_in_float32(retinanet, exported):
    _, file = exported(retinanet, precision='fp16')
    differences = verify_boxes(file.path, file.model, {'random': images()}, 'fp16')
    assert all(difference.within for difference in differences), [str(d) for d in differences]


class TestRefusals:
    def test_another_kind_of_detector(self):
        from mmdet.models.detectors import BaseDetector

        class Other(BaseDetector):
            loss = predict = _forward = extract_feat = lambda self: None

        with pytest.raises(UserError, match=r"Expected a SingleStageDetector for the output 'boxes', found Other\. Export"):
            dense_graph(Other())

    def test_a_head_with_its_own_post_processing(self, retinanet):
        from mmdet.models.dense_heads import GFLHead

        detector = copy.deepcopy(retinanet)
        detector.bbox_head = GFLHead(4, 8, anchor_generator=dict(type='AnchorGenerator', ratios=[1.0], scales=[8], strides=[8]))
        with pytest.raises(UserError, match=r'found GFLHead, which has its own _predict_by_feat_single\. Export'):
            dense_graph(detector)

    def test_soft_nms(self, retinanet):
        with pytest.raises(UserError, match=r"nms of type 'nms' in the test_cfg of RetinaHead, found 'soft_nms'"):
            dense_graph(with_test_cfg(retinanet, nms=dict(type='soft_nms', iou_threshold=0.5)))

    def test_an_activation_of_the_loss(self, retinanet):
        detector = copy.deepcopy(retinanet)
        detector.bbox_head.loss_cls.custom_cls_channels = True
        with pytest.raises(UserError, match=r'found RetinaHead, which has its own custom_cls_channels'):
            dense_graph(detector)
