"""Datasets of OpenMMLab that mix images, wrap others or change during a run: each is validated, trains and resumes exactly."""

import copy
import logging

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmfreq.engine.dry_run import dry_run
from mmfreq.engine.launch import train
from mmfreq.engine.resume import loops
from mmfreq.errors import DataError, InputError
from mmfreq.preflight.samples import GuardedPipeline
from mmfreq.testing.toy_segmentation import toy_segmentation_config
from tests.integrations.toy_detection import LOAD, LOAD_MASKS, LONG, PACK, SHORT, detection_config, source

SIZE = (LONG, SHORT)
MOSAIC = {'type': 'Mosaic', 'img_scale': SIZE}
YOLOX = [
    MOSAIC,
    {'type': 'RandomAffine', 'scaling_ratio_range': (0.5, 1.5), 'border': (-LONG // 2, -SHORT // 2)},
    {'type': 'MixUp', 'img_scale': SIZE},
]
COPY_PASTE, ONE_SIZE = {'type': 'CopyPaste', 'max_num_pasted': 3}, {'type': 'mmdet.Resize', 'scale': SIZE}
KEEP_BOXES = {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (1, 1), 'keep_empty': False}


def mixed(root, *steps, load=LOAD):
    return {'type': 'MultiImageMixDataset', 'dataset': source(root, pipeline=load), 'pipeline': [*steps, PACK]}


def concatenated(*datasets):
    return {'type': 'ConcatDataset', 'datasets': [copy.deepcopy(each) for each in datasets]}


DETECTION = {
    'Mosaic': lambda root: mixed(root, MOSAIC),
    'Mosaic, RandomAffine, MixUp': lambda root: mixed(root, *YOLOX, KEEP_BOXES),
    'CopyPaste': lambda root: mixed(root, COPY_PASTE, load=[*LOAD_MASKS, ONE_SIZE]),
    'ClassBalancedDataset': lambda root: {'type': 'ClassBalancedDataset', 'oversample_thr': 0.5, 'dataset': source(root)},
    'ConcatDataset': lambda root: concatenated(source(root), source(root, 'labeled')),
    'RepeatDataset of Mosaic of ConcatDataset': lambda root: {
        'type': 'RepeatDataset',
        'times': 2,
        'dataset': mixed(root, MOSAIC) | {'dataset': concatenated(source(root, pipeline=LOAD), source(root, pipeline=LOAD))},
    },
}
CACHED = [
    {'type': name, 'img_scale': SIZE, 'max_cached_images': 5, 'random_pop': False} for name in ('CachedMosaic', 'CachedMixUp')
]


def dumped(cfg, tmp_path):
    path = tmp_path / 'toy.py'
    cfg.dump(path)
    return path


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def assert_resumes_exactly(config, tmp_path, names=('iter_2.pth', 'iter_4.pth'), **options):
    """Train in one piece and in two; the weights must be equal. Returns the first Runner."""
    whole = train(config, work_dir=tmp_path / 'whole', seed=0)
    train(config, work_dir=tmp_path / 'rest', seed=0, resume=str(tmp_path / 'whole' / names[0]), cfg_options=options or None)
    ends = [weights(tmp_path / folder / names[1]) for folder in ('whole', 'rest')]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    return whole


@pytest.mark.parametrize('case', DETECTION)
def test_detection_trains_and_resumes_exactly(case, coco, tmp_path, capsys):
    config = dumped(detection_config(coco, DETECTION[case](coco), masks=case == 'CopyPaste'), tmp_path)
    dry_run(config, work_dir=tmp_path / 'dry')
    assert 'nothing was trained' in capsys.readouterr().out and not (tmp_path / 'dry').exists()
    runner = assert_resumes_exactly(config, tmp_path)
    assert runner.train_dataloader.dataset.metainfo['classes'] and runner.train_loop.iter == 4


def test_mosaic_does_not_depend_on_the_number_of_workers(coco, tmp_path):
    config = dumped(detection_config(coco, mixed(coco, *YOLOX, KEEP_BOXES)), tmp_path)
    assert_resumes_exactly(config, tmp_path, **{'train_dataloader.num_workers': 2})


@pytest.mark.parametrize('wrapped', [False, True])
def test_cached_images_are_reported(coco, tmp_path, monkeypatch, wrapped):
    """They depend on the samples that a worker has read before, so that no other result can be expected."""
    messages = []
    monkeypatch.setattr(loops, 'log_once', lambda message, level=logging.INFO: messages.append((level, message)))
    dataset = source(coco, pipeline=[*LOAD, *CACHED, PACK])
    dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': dataset} if wrapped else dataset
    runner = train(dumped(detection_config(coco, dataset, iterations=2), tmp_path), work_dir=tmp_path / 'w', seed=0)
    assert runner.train_loop.iter == 2
    ((level, message),) = [entry for entry in messages if 'Cached' in entry[1]]
    assert level == logging.WARNING and message.startswith('CachedMosaic and CachedMixUp keep images')


SWITCHES = {
    'YOLOXModeSwitchHook': (
        lambda root: mixed(root, *YOLOX, KEEP_BOXES),
        {'type': 'YOLOXModeSwitchHook', 'num_last_epochs': 1, 'skip_type_keys': ('Mosaic', 'RandomAffine', 'MixUp')},
    ),
    'PipelineSwitchHook': (
        lambda root: source(root, pipeline=[*LOAD, {'type': 'RandomCrop', 'crop_size': (0.9, 0.9), 'crop_type': 'relative'}, PACK]),
        {'type': 'PipelineSwitchHook', 'switch_epoch': 1, 'switch_pipeline': [*LOAD, PACK]},
    ),
}


@pytest.mark.parametrize('case', SWITCHES)
def test_a_pipeline_that_changes_in_the_run_stays_guarded(case, coco, tmp_path, monkeypatch):
    from mmdet.models import TwoStageDetector

    monkeypatch.setattr(TwoStageDetector, 'bbox_head', torch.nn.Module(), raising=False)  # the hook is for one-stage detectors
    dataset, hook = SWITCHES[case]
    cfg = detection_config(coco, dataset(coco), custom_hooks=[hook])
    cfg.train_cfg = {'type': 'EpochBasedTrainLoop', 'max_epochs': 2, 'val_interval': 2}
    cfg.default_hooks.checkpoint = {'type': 'CheckpointHook', 'interval': 1}
    runner = assert_resumes_exactly(dumped(cfg, tmp_path), tmp_path, ('epoch_1.pth', 'epoch_2.pth'))
    dataset = runner.train_dataloader.dataset.dataset
    if case == 'YOLOXModeSwitchHook':
        assert dataset._skip_type_keys == ('Mosaic', 'RandomAffine', 'MixUp')
        dataset = dataset.dataset
    else:
        assert len(dataset.pipeline.transforms) == 3
    assert isinstance(dataset.pipeline, GuardedPipeline)


def test_a_sampler_by_classes_resumes_exactly(coco, tmp_path):
    cfg = detection_config(coco)
    cfg.train_dataloader.sampler = {'type': 'ClassAwareSampler'}
    assert_resumes_exactly(dumped(cfg, tmp_path), tmp_path)


def mosaic_of_labels(leaf):
    steps = [{'type': 'RandomMosaic', 'prob': 1.0, 'img_scale': (64, 64)}, {'type': 'RandomCrop', 'crop_size': (64, 64)}]
    inner = {**leaf, 'pipeline': leaf['pipeline'][:2]}
    return {'type': 'MultiImageMixDataset', 'dataset': inner, 'pipeline': [*steps, {'type': 'PackSegInputs'}]}


SEGMENTATION = {
    'RandomMosaic': mosaic_of_labels,
    'ConcatDataset': lambda leaf: concatenated(leaf, leaf),
    'RepeatDataset': lambda leaf: {'type': 'RepeatDataset', 'times': 3, 'dataset': leaf},
}


def segmentation_config(toy_root, case):
    cfg = Config(toy_segmentation_config(toy_root, max_iters=4, val_dataloader=None, val_cfg=None, val_evaluator=None))
    cfg.default_hooks.checkpoint.interval = 2
    cfg.train_dataloader.dataset = SEGMENTATION[case](cfg.train_dataloader.dataset.to_dict())
    return cfg


@pytest.mark.parametrize('case', SEGMENTATION)
def test_segmentation_trains_and_resumes_exactly(case, toy_root, tmp_path):
    config = dumped(segmentation_config(toy_root, case), tmp_path)
    dry_run(config, work_dir=tmp_path / 'dry')
    assert_resumes_exactly(config, tmp_path)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Eight images in folders of two classes."""
    root = tmp_path_factory.mktemp('classes')
    for number in range(8):
        path = root / ('bright', 'dark')[number % 2] / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((40, 48, 3), 200 - 20 * number, np.uint8))
    return root


def classification_config(root, **fields):
    steps = [{'type': 'LoadImageFromFile'}, {'type': 'RandomResizedCrop', 'scale': 32}, {'type': 'PackInputs'}]
    leaf = {'type': 'CustomDataset', 'data_root': str(root), 'pipeline': steps}
    dataset = {'type': 'KFoldDataset', 'num_splits': 4, 'fold': 1, 'seed': 0, 'dataset': leaf}
    loader = {'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': True}, 'dataset': dataset}
    return Config({
        'default_scope': 'mmpretrain',
        'model': {'type': 'mmfreq.FrequencyImageClassifier', 'arch': 'gfnet-micro', 'num_classes': 2, 'img_size': 32,
                  'loss': {'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1, 'num_classes': 2},
                  'train_cfg': {'augments': [{'type': 'Mixup', 'alpha': 0.8}]}},
        'train_dataloader': loader,
        'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                           'dataset': {**dataset, 'test_mode': True}},
        'train_cfg': {'by_epoch': True, 'max_epochs': 2, 'val_interval': 1},
        'val_cfg': {},
        'val_evaluator': {'type': 'Accuracy'},
        'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 1e-3}},
        'log_level': 'ERROR',
    } | fields)  # fmt: skip


def test_classification_trains_on_folds_and_changes_its_recipe(folders, tmp_path, capsys):
    """mmpretrain's KFoldDataset, and its hook that replaces pipeline, augmentation and loss, also in a resumed run."""
    steps = [{'type': 'LoadImageFromFile'}, {'type': 'Resize', 'scale': 32}, {'type': 'PackInputs'}]
    recipe = {
        'action_epoch': 2,
        'train_pipeline': steps,
        'batch_augments': None,
        'loss': {'type': 'CrossEntropyLoss', 'use_soft': True},
    }
    cfg = classification_config(folders, custom_hooks=[{'type': 'SwitchRecipeHook', 'schedule': [recipe]}])
    config = dumped(cfg, tmp_path)
    dry_run(config, work_dir=tmp_path / 'dry')
    assert 'KFoldDataset' in capsys.readouterr().out
    runner = assert_resumes_exactly(config, tmp_path, ('epoch_1.pth', 'epoch_2.pth'))
    assert len(runner.train_dataloader.dataset) == 6 and len(runner.val_dataloader.dataset) == 2
    pipeline = runner.train_dataloader.dataset.dataset.dataset.pipeline
    assert isinstance(pipeline, GuardedPipeline) and type(pipeline.transforms[1]).__name__ == 'Resize'
    assert type(runner.model.loss_module).__name__ == 'CrossEntropyLoss' and runner.model.data_preprocessor.batch_augments is None


KEYS = {'RandomMosaic': 'dataset.', 'ConcatDataset': r'datasets\.0\.', 'RepeatDataset': 'dataset.'}


@pytest.mark.parametrize('case', SEGMENTATION)
def test_errors_name_the_dataset_inside(case, toy_root, tmp_path):
    cfg = segmentation_config(toy_root, case)
    inner = cfg.train_dataloader.dataset
    inner = inner.datasets[0] if case == 'ConcatDataset' else inner.dataset
    inner.data_prefix.img_path = 'images/nowhere'
    with pytest.raises(DataError, match=rf"train_dataloader\.dataset\.{KEYS[case]}data_prefix\.img_path='images/nowhere'"):
        train(dumped(cfg, tmp_path), work_dir=tmp_path / 'w')


def test_errors_while_images_are_mixed_name_all_of_them(coco, tmp_path):
    """CopyPaste needs images of one size, and does not check it."""
    config = dumped(detection_config(coco, mixed(coco, COPY_PASTE, load=LOAD_MASKS), masks=True), tmp_path)
    with pytest.raises(InputError, match=r'CopyPaste failed on image \S+/\d+\.jpg, mixed image 1 \S+/\d+\.jpg: \w+Error: '):
        train(config, work_dir=tmp_path / 'w', seed=0)
