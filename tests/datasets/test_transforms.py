"""`ResizeDownToMultiple`: sides rounded down, and only the image is resized."""

import cv2
import numpy as np
import pytest

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.datasets.transforms import ResizeDownToMultiple

SIZES = {(375, 500): (352, 480), (96, 64): (96, 64), (95, 127): (64, 96), (20, 70): (32, 64), (31, 33): (32, 32)}


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('size', SIZES)
def test_sides_are_rounded_down_to_multiples(size):
    wanted = SIZES[size]
    got = ResizeDownToMultiple(32)({'img': photo(*size), 'ori_shape': size})
    assert got['img'].shape == (*wanted, 3) and got['img'].dtype == np.uint8
    assert got['img_shape'] == wanted and got['ori_shape'] == size
    np.testing.assert_allclose(got['scale_factor'], (wanted[1] / size[1], wanted[0] / size[0]))  # width first, as mmcv has it
    assert got['keep_ratio'] is False


@pytest.mark.parametrize('divisor', [1, 7, 16, 32])
def test_sides_shrink_by_less_than_one_divisor(divisor):
    for size in np.random.default_rng(divisor).integers(divisor, 200, (20, 2)).tolist():
        got = ResizeDownToMultiple(divisor)({'img': photo(*size)})['img'].shape[:2]
        assert all(side % divisor == 0 and 0 <= whole - side < divisor for side, whole in zip(got, size))


def test_interpolation_is_bilinear_and_a_multiple_is_not_resized():
    image = photo(70, 100)
    got = ResizeDownToMultiple(32)({'img': image.copy()})['img']
    np.testing.assert_array_equal(got, cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR))
    np.testing.assert_array_equal(ResizeDownToMultiple(10)({'img': image.copy()})['img'], image)


def test_annotations_loaded_after_it_keep_the_original_size(tmp_path):
    from mmengine.registry import init_default_scope
    from mmseg.registry import TRANSFORMS

    init_default_scope('mmseg')
    image, labels = photo(50, 70), np.random.default_rng(1).integers(0, 5, (50, 70), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    cv2.imwrite(str(tmp_path / 'labels.png'), labels)
    sample = {'img_path': str(tmp_path / 'a.png'), 'seg_map_path': str(tmp_path / 'labels.png')}
    sample |= {'seg_fields': [], 'label_map': None, 'reduce_zero_label': False}
    for step in ('LoadImageFromFile', 'mmfreq.ResizeDownToMultiple', 'LoadAnnotations'):
        transform = TRANSFORMS.build({'type': step})
        sample = transform(sample)
    assert sample['img'].shape == (32, 64, 3) and sample['ori_shape'] == (50, 70)
    np.testing.assert_array_equal(sample['gt_seg_map'], labels)


@pytest.mark.parametrize('key', ['gt_seg_map', 'gt_bboxes', 'gt_masks'])
def test_loaded_annotations_are_refused(key):
    with pytest.raises(ValueError, match=f'{key} .*LoadAnnotations'):
        ResizeDownToMultiple(16)({'img': photo(40, 40), key: np.zeros((1, 4))})


@pytest.mark.parametrize('divisor', [0, -32, 16.0, '16', None], ids=repr)
def test_an_invalid_divisor_is_refused(divisor):
    with pytest.raises(ValueError, match='integer of at least 1') as refused:
        ResizeDownToMultiple(divisor)
    assert repr(divisor) in str(refused.value)


def test_repr():
    assert repr(ResizeDownToMultiple()) == 'ResizeDownToMultiple(size_divisor=32)'
