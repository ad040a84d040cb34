"""The constant predictor against a manual computation and against mmseg's own metric."""

import numpy as np
import pytest

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.analysis.constant_predictor import constant_predictor
from mmfreq.datasets.toy import write_toy_ade20k


def test_scores_of_a_small_example():
    # 8 labeled pixels: four 0, three 2, one 3; class 1 never occurs, so the mean is over three classes: (4/8 + 0 + 0) / 3
    result = constant_predictor([np.array([[0, 0, 0, 2, 255]]), np.array([[0, 2, 2], [3, 255, 255]])], num_classes=4)
    assert result.best_class == 0
    assert result.miou == pytest.approx(1 / 6)
    np.testing.assert_array_equal(result.per_class_iou, [0.5, np.nan, 0, 0])
    np.testing.assert_array_equal(result.frequencies, [0.5, 0, 0.375, 0.125])


def test_single_class_is_predicted_perfectly():
    assert constant_predictor([np.full((3, 3), 2)], num_classes=5).miou == 1.0


@pytest.mark.parametrize('seed', range(3))
def test_equals_the_best_constant_by_the_iou_metric_of_mmseg(seed):
    import torch
    from mmseg.evaluation import IoUMetric

    rng = np.random.default_rng(seed)
    maps = [rng.choice([0, 1, 2, 4, 255], p=rng.dirichlet(np.ones(5)), size=(9, 7)) for _ in range(4)]
    scores = []
    for constant in range(5):
        metric = IoUMetric(ignore_index=255)
        metric.dataset_meta = {'classes': list('abcde')}
        for labels in maps:
            prediction = {'data': torch.full((1, 9, 7), constant)}
            metric.process({}, [{'pred_sem_seg': prediction, 'gt_sem_seg': {'data': torch.from_numpy(labels)[None]}}])
        totals = [sum(parts) for parts in zip(*metric.results)]
        ious = metric.total_area_to_metrics(*totals)['IoU']
        scores.append((np.nanmean(ious), constant, ious))
    best = max(scores, key=lambda score: score[0])
    result = constant_predictor(maps, num_classes=5)
    assert result.best_class == best[1]
    assert result.miou == pytest.approx(best[0], rel=1e-6)
    np.testing.assert_allclose(result.per_class_iou, best[2], rtol=1e-6)


def test_reads_the_annotations_of_a_dataset_without_loading_images(tmp_path):
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS
    from PIL import Image

    root = tmp_path / 'set'
    write_toy_ade20k(root, train=1, val=4, size=(48, 64))
    init_default_scope('mmseg')
    cfg = {'type': 'mmfreq.ToyShapesDataset', 'data_root': str(root)}
    cfg['data_prefix'] = {'img_path': 'images/validation', 'seg_map_path': 'annotations/validation'}
    resize = {'type': 'Resize', 'scale': (32, 32)}
    cfg['pipeline'] = [{'type': 'LoadImageFromFile'}, resize, {'type': 'LoadAnnotations'}, {'type': 'PackSegInputs'}]
    dataset = DATASETS.build(cfg)
    for path in root.rglob('*.jpg'):
        path.write_bytes(b'')
    maps = [np.array(Image.open(path)).astype(int) - 1 for path in sorted((root / 'annotations/validation').iterdir())]
    from_dataset, from_maps = constant_predictor(dataset), constant_predictor(maps, num_classes=6, ignore_index=-1)
    assert from_dataset.best_class == from_maps.best_class == 0
    assert from_dataset.miou == from_maps.miou < 0.12
    np.testing.assert_array_equal(from_dataset.frequencies, from_maps.frequencies)

    dataset.pipeline.transforms = dataset.pipeline.transforms[:1]
    with pytest.raises(ValueError, match='no LoadAnnotations'):
        constant_predictor(dataset)


def test_error_names_the_invalid_argument():
    with pytest.raises(ValueError, match=r'ids 1\.\.6, expected 0\.\.5'):
        constant_predictor([np.array([1, 6])], num_classes=6)
    with pytest.raises(ValueError, match='no labeled pixel'):
        constant_predictor([np.array([255])], num_classes=6)
    with pytest.raises(ValueError, match='num_classes'):
        constant_predictor([np.array([1])])
