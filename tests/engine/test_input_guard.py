import re
import time

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfreq.datasets.toy import write_toy_ade20k
from mmfreq.engine.hooks import InputGuardHook
from mmfreq.engine.launch import evaluate, train
from mmfreq.errors import UserError
from mmfreq.preflight.samples import InputError, check_channels, check_labels, expected_channels


def test_valid_and_ignored_labels_pass():
    labels = torch.tensor([[[0, 5, 255, 3]]])
    check_labels(labels, 6, 255, 'a.png')
    check_labels(labels[..., :0], 6, 255, 'a.png')


@pytest.mark.parametrize(('value', 'ignore'), [(6, 255), (-1, 255), (255, 0), (7, 6)])
def test_error_names_file_label_and_fix(value, ignore):
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, :3] = value
    with pytest.raises(InputError) as error:
        check_labels(labels, 6, ignore, 'dir/a.png')
    message = str(error.value)
    assert re.search(rf'dir/a\.png .*{value}\b.*\b3 pixels', message)
    assert 'num_classes=6' in message and 'reduce_zero_label' in message


def test_channels():
    check_channels(torch.zeros(3, 8, 8), 3, 'a.jpg')
    check_channels(torch.zeros(5, 8, 8), None, 'a.jpg')
    with pytest.raises(InputError, match=r'a\.jpg.*\b4 channels.*in_channels=3'):
        check_channels(torch.zeros(4, 8, 8), 3, 'a.jpg')


@pytest.fixture
def own_data(tmp_path):
    root = tmp_path / 'data'
    write_toy_ade20k(root, train=2, val=2, size=(64, 64), seed=0)
    return root


def options(root):
    return {f'{name}_dataloader.dataset.data_root': str(root) for name in ('train', 'val', 'test')}


def test_training_stops_at_labels_out_of_range(own_data, toy_config, tmp_path, snapshot):
    for path in (own_data / 'annotations' / 'training').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:2] = 9  # 8 after reduce_zero_label
        cv2.imwrite(str(path), labels)
    before = snapshot(own_data)
    with pytest.raises(InputError, match=r'annotations/training/train_0000\d\.png.*\b8\b.*\b128 pixels'):
        train(toy_config, work_dir=tmp_path / 'w', cfg_options=options(own_data))
    assert snapshot(own_data) == before
    assert not list((tmp_path / 'w').glob('*.pth'))


def test_testing_stops_at_four_channels(own_data, toy_config, trained, tmp_path):
    folder = own_data / 'images' / 'validation'
    for path in folder.iterdir():
        cv2.imwrite(str(path.with_suffix('.png')), np.zeros((64, 64, 4), np.uint8))
    changes = options(own_data) | {
        'test_dataloader.dataset.img_suffix': '.png',
        'test_dataloader.dataset.pipeline.0.color_type': 'unchanged',
    }
    with pytest.raises(InputError, match=r'images/validation/val_0000\d\.png.*\b4 channels'):
        evaluate(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w', cfg_options=changes)


class Backbone(torch.nn.Module):
    def __init__(self, in_channels=3):
        super().__init__()
        self.in_channels = in_channels


@pytest.mark.parametrize('backbone', [dict(type='mmdet.MobileNetV2'), dict(type='mmdet.EfficientNet', arch='b0')])
def test_other_meanings_of_in_channels_are_ignored(backbone):
    """These backbones take no `in_channels`; the attribute is the number of channels before their last layer."""
    pytest.importorskip('mmdet.models')
    from mmdet.registry import MODELS

    model = torch.nn.Module()
    model.backbone = MODELS.build(backbone)
    assert model.backbone.in_channels == 320 and expected_channels(model) is None
    model.backbone = Backbone(5)
    assert expected_channels(model) == 5


def test_batches_of_test_time_augmentation_are_checked(trained):
    class Runner:
        model = torch.nn.Module()

    Runner.model.backbone = Backbone()
    hook = InputGuardHook()
    hook.before_run(Runner)
    good, bad = torch.zeros(3, 32, 32), torch.zeros(4, 32, 32)
    hook.before_test_iter(Runner, 0, {'inputs': [[good, good]]})
    for inputs in ([[good, bad]], [bad], torch.zeros(2, 4, 32, 32)):
        with pytest.raises(InputError):
            hook.before_test_iter(Runner, 0, {'inputs': inputs})


def test_boxes_must_be_finite_and_empty_ones_are_reported_once(monkeypatch):
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    messages = []
    monkeypatch.setattr('mmfreq.engine.hooks.print_log', lambda message, **options: messages.append(message))

    class Runner:
        model = torch.nn.Module()

    def check(mode='train', **boxes):
        sample = DetDataSample(metainfo={'img_path': 'a.jpg'})
        sample.gt_instances = InstanceData(**boxes)
        hook._before_iter(Runner, 0, {'inputs': [torch.zeros(3, 8, 8)], 'data_samples': [sample]}, mode)

    hook = InputGuardHook()
    hook.before_run(Runner)
    check(bboxes=torch.tensor([[0.0, 0, 1, 1]]))
    check(bboxes=torch.zeros(0, 4))
    check(bboxes=torch.zeros(1, 5))  # rotated boxes are not checked
    assert not messages
    for _ in range(2):
        check(bboxes=HorizontalBoxes(torch.tensor([[0.0, 0, 0, 0], [1, 1, 5, 5]])))
    assert len(messages) == 1 and 'a.jpg' in messages[0] and '1 box' in messages[0] and 'FilterAnnotations' in messages[0]
    check('val', bboxes=torch.tensor([[0.0, 0, float('nan'), 1]]))
    for value in ('nan', 'inf'):
        with pytest.raises(InputError, match=r'boxes.*a\.jpg.*NaN'):
            check(bboxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, float(value), 1]]))


def test_checking_two_crops_takes_milliseconds(trained):
    """Measured: 1.3 ms for two 512x512 label maps with ignored pixels, on one core."""
    cfg = Config.fromfile(trained / 'toy.py')
    assert 'mmfreq.InputGuardHook' in [hook['type'] for hook in cfg.custom_hooks]
    labels = torch.randint(0, 150, (2, 512, 512))
    labels[:, :4] = 255
    times = []
    for _ in range(5):
        start = time.process_time()
        check_labels(labels, 150, 255, 'a.png')
        times.append(time.process_time() - start)
    assert min(times) < 0.01, times


def test_training_without_the_package_that_decodes_images_ends_with_the_command_to_install_it(
    own_data, toy_config, tmp_path, monkeypatch
):
    monkeypatch.setattr('mmfreq.compat.decoders.find_spec', lambda name: None)
    decoded = {f'{name}_dataloader.dataset.pipeline.0.imdecode_backend': 'tifffile' for name in ('train', 'val', 'test')}
    with pytest.raises(UserError, match=r"imdecode_backend='tifffile'.*Run: pip install tifffile$"):
        train(toy_config, work_dir=tmp_path / 'w', cfg_options=options(own_data) | decoded)
    assert not list((tmp_path / 'w').glob('*.pth'))
