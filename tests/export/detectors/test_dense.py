"""One-stage detectors give the boxes of mmdetection's `predict`, in PyTorch and in onnxruntime."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmfreq.errors import UserError
from mmfreq.export import export_onnx
from mmfreq.export.detectors.dense import dense_graph
from mmfreq.export.verify_boxes import verify_boxes

SIZE = (96, 128)
PADDED = (70, 117)  # of an image inside


def images(seed=0, size=SIZE):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def with_test_cfg(detector, **changes):
    """The detector with other values in the head's test_cfg, its modules shared."""
    detector = copy.deepcopy(detector)
    detector.bbox_head.test_cfg = ConfigDict({**detector.bbox_head.test_cfg, **changes})
    return detector


def assert_equal_to_predict(detector, pictures, size, at_least=1):
    """Of the graph in PyTorch; returns the number of boxes."""
    graph = dense_graph(detector)
    with torch.no_grad():
        *actual, count = graph(pictures, torch.tensor(size))
    expected = graph.predict(pictures, size)
    assert count == len(expected[0]) >= at_least
    for values, want in zip(actual, expected, strict=True):
        torch.testing.assert_close(values[:count], want, rtol=0, atol=0)
        assert len(values) == graph.chosen.max_boxes
    return int(count)


@pytest.mark.parametrize('size', [SIZE, PADDED])
def test_boxes_equal_those_of_predict(detector, size):
    count = assert_equal_to_predict(detector, images(), size)
    chosen = dense_graph(detector).chosen
    boxes = dense_graph(detector).predict(images(), size)[0]
    assert count > 5 and boxes[:, 2].max() == size[1] and boxes[:, 3].max() == size[0], chosen


@pytest.mark.parametrize(
    'changes',
    [
        dict(score_thr=0.7),
        dict(nms_pre=7),
        dict(max_per_img=3),
        dict(min_bbox_size=20),
        dict(nms=dict(type='nms', iou_threshold=0.2, class_agnostic=True)),
        dict(nms=dict(type='nms', iou_threshold=0.5, split_thr=10)),
    ],
    ids=lambda changes: '-'.join(changes),
)
def test_fields_of_the_test_cfg_have_their_effect(detector, changes):
    changed = with_test_cfg(detector, **changes)
    assert_equal_to_predict(changed, images(), SIZE)
    before, after = (dense_graph(model).predict(images(), SIZE)[1] for model in (detector, changed))
    assert 'split_thr' in str(changes) or before.shape != after.shape or not torch.equal(before, after)


def test_number_of_boxes_and_threshold_replace_those_of_the_test_cfg(detector):
    graph = dense_graph(detector, max_boxes=5, score=0.4)
    with torch.no_grad():
        boxes, scores, _, count = graph(images(), torch.tensor(SIZE))
    expected, expected_scores, _ = graph.predict(images(), SIZE)
    assert boxes.shape == (5, 4) and torch.equal(boxes[:count], expected) and torch.equal(scores[:count], expected_scores)
    assert detector.bbox_head.test_cfg['max_per_img'] != 5


def test_no_object(detector):
    assert assert_equal_to_predict(with_test_cfg(detector, score_thr=1.0), images(), SIZE, at_least=0) == 0


def test_fewer_candidates_than_k_and_other_sizes_of_images(detector):
    assert_equal_to_predict(with_test_cfg(detector, nms_pre=10**6), images(1, (32, 40)), (32, 40))


@pytest.fixture(scope='module')
def exported(request, tmp_path_factory):
    """{name: (graph, file)}, each exported once."""
    files = {}

    def export(detector, **options):
        key = (id(detector), *options.items())
        if key not in files:
            graph = dense_graph(detector)
            files[key] = graph, export_onnx(graph, SIZE, tmp_path_factory.mktemp('boxes') / 'm.onnx', **options)
        return files[key]

    return export


def test_file_finds_the_boxes_of_predict(detector, exported):
    graph, file = exported(detector)
    assert file.operators['NonMaxSuppression'] == 1
    inputs = {str(seed): images(seed) for seed in range(3)}
    differences = verify_boxes(file.path, file.model, inputs)
    assert len(differences) == 3 * 2 * 3
    assert all(difference.within and difference.largest < 1e-5 for difference in differences), [str(d) for d in differences]
    assert ' 0 boxes' not in str(differences[0])


def test_file_without_objects_and_with_equal_scores(detector, exported):
    """Equal maps give equal scores; a head that sees only zeros may also find nothing."""
    import onnxruntime

    graph, file = exported(detector)
    session = onnxruntime.InferenceSession(file.path)
    flat = torch.zeros(1, 3, *SIZE)
    outputs = session.run(None, {'images': flat.numpy(), 'image_size': np.array(SIZE)})
    with torch.no_grad():
        expected = graph(flat, torch.tensor(SIZE))
    assert outputs[3] == expected[3]
    np.testing.assert_allclose(outputs[1], expected[1], atol=1e-5)
    assert [v.name for v in session.get_outputs()] == ['boxes', 'scores', 'labels', 'count']
    assert [v.shape for v in session.get_outputs()] == [[graph.chosen.max_boxes, 4], [graph.chosen.max_boxes]] + [
        [graph.chosen.max_boxes],
        [],
    ]


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
