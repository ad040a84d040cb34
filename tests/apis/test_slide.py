"""Segmentation by windows gives the ids of mmseg's slide_inference, in memory for one row of windows."""

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from torch.utils._python_dispatch import TorchDispatchMode

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.apis.inference import Predictor, load_predictor
from mmfreq.apis.slide import Windows, segment_by_windows, windows_of
from mmfreq.errors import UserError
from mmfreq.testing.toy_segmentation import toy_segmentation_config, write_toy_config

ARRAY = np.random.default_rng(0)


def _config(**model):
    cfg = Config(toy_segmentation_config('none'))
    cfg.merge_from_dict({'model': model})
    return cfg


def _predictor(cfg, **options):
    """With random weights whose classes differ, so that every class occurs."""
    torch.manual_seed(0)
    predictor = Predictor(cfg, None, **options)
    torch.nn.init.normal_(predictor.loaded.decode_head.conv_seg.weight)
    return predictor


def _image(height, width):
    return ARRAY.integers(0, 256, (height, width, 3), dtype=np.uint8)


SIZES = {  # (H, W), crop, stride
    'several rows and columns': ((150, 203), (64, 64), (42, 42)),
    'a multiple of the stride': ((128, 192), (64, 64), (32, 32)),
    'one pixel more than the crop': ((65, 65), (64, 64), (42, 42)),
    'smaller than the crop': ((40, 50), (64, 64), (42, 42)),
    'smaller in one direction': ((50, 150), (64, 64), (42, 42)),
    'no overlap': ((130, 100), (64, 32), (64, 32)),
    'much overlap, not square': ((90, 100), (64, 48), (10, 17)),
}


@pytest.mark.parametrize('case', SIZES)
def test_ids_equal_those_of_mmseg(case):
    size, crop, stride = SIZES[case]
    cfg = _config(test_cfg={'mode': 'slide', 'crop_size': crop, 'stride': stride})
    image, expected = _image(*size), _predictor(cfg)
    ids = _predictor(cfg, slide=())
    assert ids.windows == Windows(crop, stride)
    np.testing.assert_array_equal(ids(image), expected(image))
    assert len(np.unique(expected(image))) > 2


def test_a_single_channel_is_decided_by_the_threshold():
    cfg = _config(test_cfg={'mode': 'slide', 'crop_size': (64, 64), 'stride': (42, 42)})
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.4)
    cfg.model.decode_head.loss_decode.use_sigmoid = True
    image = _image(100, 90)
    ids = _predictor(cfg, slide=())(image)
    assert ids.dtype == np.uint8 and set(np.unique(ids)) == {0, 1}
    np.testing.assert_array_equal(ids, _predictor(cfg)(image))


def test_the_image_keeps_its_resolution():
    cfg = _config()
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline.insert(1, {'type': 'Resize', 'scale': (64, 64), 'keep_ratio': True})
    image = _image(130, 100)
    resized, windows = _predictor(cfg), _predictor(cfg, slide=(64, 42))
    unchanged = _predictor(_config(test_cfg={'mode': 'slide', 'crop_size': (64, 64), 'stride': (42, 42)}))
    np.testing.assert_array_equal(windows(image), unchanged(image))
    assert (resized(image) != unchanged(image)).any()
    np.testing.assert_array_equal(windows.predict_batch([image, image])[1], windows(image))


def test_a_preprocessor_that_pads_windows_gives_ids_of_every_pixel():
    cfg = _config(data_preprocessor={'test_cfg': {'size_divisor': 48}})
    assert _predictor(cfg, slide=(64,))(_image(100, 90)).shape == (100, 90)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of a result."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


class Heads:
    """A segmentor of `channels` classes without a network, which counts its windows."""

    def __init__(self, channels):
        self.out_channels, self.test_cfg, self.count = channels, {}, 0

    def parameters(self):
        return iter([torch.zeros(1)])

    def data_preprocessor(self, data, training):
        return {'inputs': torch.stack(data['inputs']).float()}

    def encode_decode(self, inputs, metas):
        self.count += 1
        return inputs[:, :1].repeat(1, self.out_channels, 1, 1) * torch.arange(self.out_channels)[:, None, None]


def test_memory_does_not_grow_with_classes_times_the_image():
    model, height, width, crop = Heads(50), 2000, 80, 64
    with LargestTensor() as memory:
        ids = segment_by_windows(model, torch.ones(1, height, width, dtype=torch.uint8), Windows((crop, crop), (42, 42)))
    assert (ids == 49).all() and model.count > 80
    assert memory.largest == 50 * crop * width  # the row of windows; all logits are 31 times as many


def test_default_windows_are_those_of_the_config_or_the_training_crop():
    model = _predictor(_config()).loaded
    assert windows_of(_config(), model) == Windows((64, 64), (42, 42))  # size of the data preprocessor
    assert windows_of(_config(), model, (96, 50)) == Windows((96, 96), (50, 50))
    model.data_preprocessor.size = None
    cfg = _config()
    cfg.train_pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'RandomCrop', 'crop_size': (96, 48)}]
    assert windows_of(cfg, model) == Windows((96, 48), (64, 32))
    cfg.crop_size = (512, 512)
    assert windows_of(cfg, model) == Windows((512, 512), (341, 341))
    model.test_cfg = ConfigDict(mode='slide', crop_size=(128, 64), stride=(64, 32))
    assert windows_of(cfg, model) == Windows((128, 64), (64, 32))


def _no_crop(model, cfg):
    model.data_preprocessor.size = None


def _no_segmentor(model, cfg):
    model.__class__ = torch.nn.Module


INVALID = {  # numbers after --slide -> (change, message)
    'three numbers': ((64, 32, 16), None, r'crop and a stride .* got 3 numbers: \[64, 32, 16\]\. Give at most two\.'),
    'tiny windows': ((16,), None, r'at least 32 pixels .* got the crop \(16, 16\)'),
    'gaps between windows': ((64, 65), None, r'stride from 1 to their size.*\(65, 65\)'),
    'a stride of zero': ((64, 0), None, r'stride from 1.*\(0, 0\)'),
    'a negative crop': ((-64,), None, r'got the crop \(-64, -64\)'),
    'no crop in the config': ((), _no_crop, r'neither test_cfg\.crop_size nor a training crop.*--slide 512'),
    'a detector': ((64,), _no_segmentor, r'segmentors of mmseg.*Module\. Run it without --slide'),
}


@pytest.mark.parametrize('case', INVALID)
def test_invalid_windows_are_refused(case):
    sizes, change, message = INVALID[case]
    cfg = _config()
    model = _predictor(cfg).loaded
    if change:
        change(model, cfg)
    with pytest.raises(UserError, match=message):
        windows_of(cfg, model, sizes)


def test_a_pipeline_that_changes_the_size_is_refused():
    cfg = _config()
    cfg.test_dataloader.dataset.pipeline.insert(1, {'type': 'RandomCrop', 'crop_size': (40, 40)})
    with pytest.raises(UserError, match=r'makes \(40, 40\) of \(90, 80\).*Remove the step'):
        _predictor(cfg, slide=())(_image(90, 80))


def test_windows_of_a_config_file(tmp_path):
    predictor = load_predictor(write_toy_config(tmp_path / 'toy.py', tmp_path), None, slide=(), plain=False)
    assert predictor.windows == Windows((64, 64), (42, 42)) and predictor(_image(70, 100)).shape == (70, 100)
