"""docs/onnx_inference.py does with numpy and Pillow what the test pipelines and the post-processing of OpenMMLab do."""

from importlib import import_module
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.apis.loading import innermost_dataset
from mmfreq.apis.preprocessing import RULES, described_preprocessing
from tests.broken_images import pixels

pytest.importorskip('onnx', reason='extra [export] is not installed')
pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

from tests.docs.onnx_script import script, write_onnx

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NOISE = np.random.default_rng(0).integers(0, 256, (97, 150, 3), dtype=np.uint8)
RULES_OF_CONFIGS = {  # every rule, crops, padding, and every data preprocessor
    'cls/affnet/affnet-et_8xb128-300e_in1k-256': ['cover'],
    'cls/gfnet/gfnet-ti_8xb128-300e_in1k': ['cover'],
    'cls/hornet/hornet-base-gf-img384_32xb16-30e_in1k-384': ['stretch'],
    'det/affnet/affnet-et_ssdlite_8xb16-200e_coco-320x320': ['stretch'],
    'det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320': ['within'],
    'det/gfnet/gfnet-s_mask-rcnn_8xb2-1x_coco': ['within'],
    'det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192': [],
    'seg/affnet/affnet-et_deeplabv3_8xb4-80k_ade20k-512x512': ['multiple'],
    'seg/gfnet/gfnet-h-ti_fpn_8xb4-40k_ade20k-512x512': ['within', 'multiple'],
    'seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128': [],
}
SIZES = [(97, 150), (150, 97), (240, 320), (64, 64)]  # of images


@pytest.fixture(scope='module')
def runner():
    return script()


def difference(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    return np.abs(a.astype(np.float64) - b).max()


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(40, 61), (150, 97), (300, 411), (48, 75), (97, 20), (1, 1)])
def test_resize_equals_that_of_opencv(runner, size, interpolation):
    color = NOISE
    for image in (color, color[..., :1], color.astype(np.uint16) * 250):
        expected = mmcv.imresize(image, size[::-1], interpolation=interpolation, backend='cv2').reshape(*size, -1)
        actual = runner.resize(image, size, interpolation)
        assert difference(actual, expected) <= 1
        if interpolation == 'bilinear' and image.dtype == np.uint8:  # in integers; without them one pixel of ten differs
            assert (actual != expected).mean() < 0.03


def test_resize_with_antialias_is_that_of_pillow(runner):
    image = NOISE
    for size, interpolation in (((40, 61), 'bicubic'), ((300, 411), 'bilinear')):
        expected = mmcv.imresize(image, size[::-1], interpolation=interpolation, backend='pillow')
        assert (runner.resize(image, size, interpolation, antialias=True) == expected).all()
    assert difference(runner.resize(image, (40, 61), 'bicubic'), runner.resize(image, (40, 61), 'bicubic', True)) > 50
    assert runner.resize(image[..., :1], (40, 61), 'bicubic', antialias=True).shape == (40, 61, 1)
    with pytest.raises(ValueError, match='expected 8 bits per channel, got uint16'):
        runner.resize(image.astype(np.uint16), (40, 61), 'bicubic', antialias=True)


@pytest.mark.parametrize('name', RULES_OF_CONFIGS)
def test_inputs_are_those_of_the_test_pipeline(runner, tmp_path, name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    import_module(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    defaults = {'type': 'mmpretrain.ClsDataPreprocessor'}
    preprocessor = MODELS.build(defaults | dict(cfg.model.get('data_preprocessor') or cfg.data_preprocessor))
    steps = [step for step in innermost_dataset(cfg.test_dataloader.dataset).pipeline if step.type != 'LoadAnnotations']
    described = described_preprocessing(steps, preprocessor, 3)
    assert [step['rule'] for step in described['resize']] == RULES_OF_CONFIGS[name]
    mean, std = (values.flatten().tolist() for values in (preprocessor.mean, preprocessor.std))
    model = runner.Model(write_onnx(tmp_path / 'model.onnx', mean=mean, std=std, preprocessing=described))
    pipeline = Compose(steps[1:])
    for size in SIZES:
        image = pixels(size)
        loaded = {'img': np.ascontiguousarray(image[..., ::-1]), 'img_shape': size, 'ori_shape': size}
        packed = pipeline({**loaded, 'img_path': '', 'img_id': 0})
        expected = preprocessor({'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]})['inputs'].numpy()
        outputs, inside = model.run(image)
        assert outputs['output'].shape == expected.shape and inside == tuple(packed['data_samples'].img_shape[:2])
        gray_values = np.abs(outputs['output'] - expected) * preprocessor.std.numpy()
        assert gray_values.max() <= len(described['resize']) + 1e-3 and gray_values.mean() < 0.03


def test_every_rule_is_compared():
    assert {rule for rules in RULES_OF_CONFIGS.values() for rule in rules} == {*RULES} - {'fit'}


def test_image_fits_into_a_file_of_one_size(runner, tmp_path):
    steps = {'resize': [{'rule': 'fit', 'size': [64, 96], 'interpolation': 'bilinear', 'antialias': False}], 'crop': None}
    steps |= {'pad': {'size': [64, 96], 'value': [7.0]}, 'undescribed': []}
    model = runner.Model(write_onnx(tmp_path / 'model.onnx', shape=(1, 3, 64, 96), preprocessing=steps))
    for image, inside in (((128, 100), (64, 50)), ((30, 300), (10, 96)), ((64, 96), (64, 96)), ((1, 900), (1, 96))):
        outputs, size = model.run(np.full((*image, 3), 200, np.uint8))
        assert size == inside and outputs['output'].shape == (1, 3, 64, 96)
        assert (outputs['output'][..., : size[0], : size[1]] == 200).all()
        assert (outputs['output'] == 7).sum() == 3 * (64 * 96 - size[0] * size[1])


@pytest.mark.parametrize('size', [(50, 80), (13, 21), (200, 33)])
def test_label_maps_are_those_of_interpolated_logits(runner, size):
    logits = torch.randn(1, 5, 20, 31, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(logits, size, mode='bilinear', align_corners=False)
    assert (runner.best_classes(logits[0].numpy(), size, 0.5) == expected[0].argmax(0).numpy()).mean() > 0.999
    one = runner.best_classes(logits[0, :1].numpy(), size, 0.3)
    assert (one == (expected[0, 0].sigmoid() > 0.3).numpy()).mean() > 0.999 and 0 < one.mean() < 1
    labels = expected[0].argmax(0)
    assert (runner.nearest(labels.numpy(), size) == labels.numpy()).all()
    larger = torch.nn.functional.interpolate(labels[None, None].float(), (77, 90), mode='nearest-exact')[0, 0].long()
    assert (runner.nearest(labels.numpy(), (77, 90)) == larger.numpy()).all()


@pytest.mark.parametrize('threshold', [0.5, 0.3])
def test_masks_are_pasted_as_in_mmdet(runner, threshold):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    size, generator = (60, 90), np.random.default_rng(0)
    boxes = np.float32([[3.2, 5.7, 40.1, 33.3], [-4, -3, 20, 12.5], [70, 30.4, 95, 64], [10, 10, 10.4, 12], [0, 0, 90, 60]])
    masks = generator.random((len(boxes), 28, 28), np.float32)
    for mask, box in zip(masks, boxes):
        expected = np.zeros(size, bool)
        part, where = _do_paste_mask(torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None], *size, skip_empty=True)
        expected[where] = part[0].numpy() >= threshold
        top, left, part = runner.paste(mask, box, size, threshold)
        actual = np.zeros(size, bool)
        actual[top : top + part.shape[0], left : left + part.shape[1]] = part
        assert (actual != expected).sum() <= 1, box
        assert expected.any() == (box[2] - box[0] > 1)
    assert not runner.paste(mask, np.float32([5, 5, 5, 5]), size, threshold)[2].any()  # mmdet marks four pixels
