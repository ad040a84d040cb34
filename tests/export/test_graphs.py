"""What of a model goes into a graph, and that it is what the model says by itself."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfreq  # noqa: F401  (before mmdet and mmseg)
from mmfreq.apis.loading import LoadedModel, load_model
from mmfreq.errors import UserError
from mmfreq.export import at_fixed_size, export_onnx, verify
from mmfreq.export.graphs import graph_of
from mmfreq.testing.toy_segmentation import toy_segmentor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def segmentor():
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    torch.manual_seed(0)
    return MODELS.build(Config({'model': toy_segmentor('BN')}).model).eval()


def subject_of(model, task):
    return LoadedModel(model, 'toy', task, (64, 96))


@pytest.fixture(scope='module')
def detector():
    root = 'configs/det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py'
    return load_model(str(ROOT / root)).model


def test_logits_and_labels_of_a_segmentor(segmentor):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        want = segmentor.encode_decode(images, [{'img_shape': (64, 96)}])
        assert torch.equal(graph_of(subject_of(segmentor, 'segmentation'))(images), want)
        assert torch.equal(graph_of(subject_of(segmentor, 'segmentation'), 'labels')(images), want.argmax(1))
    assert want.shape == (2, 6, 64, 96)


@pytest.mark.slow
def test_a_segmentors_labels_in_onnxruntime(segmentor, tmp_path):
    graph = graph_of(subject_of(segmentor, 'segmentation'))
    exported = export_onnx(graph, (64, 96), tmp_path / 'm.onnx', dynamic_batch=True)
    assert not exported.spectral and exported.operators['Resize'] > 0
    inputs = {str(n): torch.randn(n, 3, 64, 96) for n in (1, 3)}
    assert all(d.largest < 1e-4 for d in verify(exported.path, exported.model, inputs))


def test_maps_of_a_detectors_neck_and_head(detector):
    images = torch.randn(1, 3, 64, 96)
    fixed = at_fixed_size(detector, images)
    with torch.no_grad():
        want = detector.extract_feat(images)
        maps = graph_of(subject_of(fixed, 'detection'))(images)
        raw = graph_of(subject_of(fixed, 'detection'), 'raw')(images)
        scores, boxes = detector.bbox_head(want)
    for got, expected in zip((*maps, *raw), (*want, *scores, *boxes), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_classifier_is_its_own_graph():
    subject = load_model('gfnet-h-micro')
    assert graph_of(subject) is subject.model and subject.size == (224, 224)
    bare = load_model('gfnet-h-micro', backbone_only=True)
    assert [tuple(t.shape[2:]) for t in graph_of(bare)(torch.zeros(1, 3, 64, 64))] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize(
    ('task', 'output', 'message'),
    [
        ('segmentation', 'raw', "toy \\(segmentation\\) is one of logits, labels, got 'raw'"),
        ('detection', 'labels', "one of features, raw, got 'labels'"),
        ('classification', 'features', "one of logits, got 'features'"),
    ],
)
def test_an_output_that_is_not_there(segmentor, task, output, message):
    with pytest.raises(UserError, match=message):
        graph_of(subject_of(segmentor, task), output)


def test_two_stages_have_no_dense_head(segmentor):
    with pytest.raises(UserError, match='EncoderDecoder has none; take features'):
        graph_of(subject_of(segmentor, 'detection'), 'raw')
