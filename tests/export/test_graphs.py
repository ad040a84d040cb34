"""The exported module of each task and output computes what the model computes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfreq  # noqa: F401  (before mmdet and mmseg)
from mmfreq.apis.loading import LoadedModel, load_model
from mmfreq.errors import UserError
from mmfreq.export import at_fixed_size, export_onnx, verify
from mmfreq.export.graphs import build_graph
from mmfreq.testing.toy_segmentation import toy_segmentor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def segmentor():
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(Config({'model': toy_segmentor('BN')}).model).eval()


def loaded_model(model, task):
    return LoadedModel(model, 'toy', task, (64, 96))


@pytest.fixture(scope='module')
def detector():
    return load_model(str(ROOT / 'configs/det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py')).model


def test_logits_and_labels_of_a_segmentor(segmentor):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = segmentor.encode_decode(images, [{'img_shape': (64, 96)}])
        assert torch.equal(build_graph(loaded_model(segmentor, 'segmentation'))(images), expected)
        assert torch.equal(build_graph(loaded_model(segmentor, 'segmentation'), 'labels')(images), expected.argmax(1))
    assert expected.shape == (2, 6, 64, 96)


def test_labels_of_a_segmentor_with_one_channel():
    import mmseg.models  # noqa: F401
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    cfg = toy_segmentor('GN')
    cfg['decode_head'] |= dict(num_classes=2, out_channels=1, threshold=0.5)
    torch.manual_seed(0)
    model = MODELS.build(Config({'model': cfg}).model).eval()
    model.decode_head.conv_seg.weight.data.mul_(100)  # otherwise one class everywhere
    images, size = torch.randn(1, 3, 64, 96), {'img_shape': (64, 96), 'ori_shape': (64, 96)}
    with torch.no_grad():
        labels = build_graph(loaded_model(model, 'segmentation'), 'labels')(images)
        expected = model.predict(images, [SegDataSample(metainfo=size)])[0].pred_sem_seg.data
    assert torch.equal(labels, expected) and 0 < labels.float().mean() < 1


@pytest.mark.slow
def test_segmentor_in_onnxruntime_equals_pytorch(segmentor, tmp_path):
    graph = build_graph(loaded_model(segmentor, 'segmentation'))
    exported = export_onnx(graph, (64, 96), tmp_path / 'm.onnx', dynamic_batch=True)
    assert not exported.spectral and exported.operators['Resize'] > 0
    inputs = {str(n): torch.randn(n, 3, 64, 96) for n in (1, 3)}
    assert all(d.largest < 1e-4 for d in verify(exported.path, exported.model, inputs))


def test_maps_and_raw_outputs_of_a_detector(detector):
    images = torch.randn(1, 3, 64, 96)
    fixed = at_fixed_size(detector, images)
    with torch.no_grad():
        expected_maps = detector.extract_feat(images)
        maps = build_graph(loaded_model(fixed, 'detection'), 'features')(images)
        raw = build_graph(loaded_model(fixed, 'detection'), 'raw')(images)
        scores, boxes = detector.bbox_head(expected_maps)
    for actual, expected in zip((*maps, *raw), (*expected_maps, *scores, *boxes), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_boxes_of_a_detector_are_the_default(detector):
    graph = build_graph(loaded_model(detector, 'detection'), max_boxes=7, score=0.005)
    with torch.no_grad():
        boxes, scores, labels, count = graph(torch.randn(1, 3, 64, 96), torch.tensor([64, 96]))
    assert boxes.shape == (7, 4) and count == 7 and scores.min() > 0.005 and labels.max() < 3
    assert graph.output_names == ('boxes', 'scores', 'labels', 'count')


def test_number_of_boxes_is_for_boxes(detector):
    with pytest.raises(UserError, match=r"score threshold are for the output 'boxes', got 'features'\. Remove"):
        build_graph(loaded_model(detector, 'detection'), 'features', max_boxes=7)


def test_classifier_and_backbone_of_an_arch():
    loaded = load_model('gfnet-h-micro')
    assert build_graph(loaded) is loaded.model and loaded.size == (224, 224)
    backbone = load_model('gfnet-h-micro', backbone_only=True)
    assert [tuple(t.shape[2:]) for t in build_graph(backbone)(torch.zeros(1, 3, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ('task', 'output', 'message'),
    [
        ('segmentation', 'raw', "toy \\(segmentation\\) is one of logits, labels, got 'raw'"),
        ('detection', 'labels', "one of boxes, features, raw, got 'labels'"),
        ('classification', 'features', "one of logits, got 'features'"),
    ],
)
def test_error_lists_the_outputs_of_the_task(segmentor, task, output, message):
    with pytest.raises(UserError, match=message):
        build_graph(loaded_model(segmentor, task), output)


def test_raw_outputs_need_a_dense_head(segmentor):
    with pytest.raises(UserError, match=r'EncoderDecoder has none\. Export features'):
        build_graph(loaded_model(segmentor, 'detection'), 'raw')
