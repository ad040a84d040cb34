"""Norms that get one value per channel: the check refuses exactly what torch refuses."""

import copy
import re
from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmfreq.config.meta_model import build_model, build_model_on_meta
from mmfreq.engine.launch import prepare_train
from mmfreq.engine.processes import fit_norms
from mmfreq.preflight.batch_norms import BatchNormError, check_batch_norms, single_value_inputs
from mmfreq.testing.toy_segmentation import write_toy_config
from tests.configs.names import LEAFS
from tests.configs.reading import CONFIGS, check_each, read_config

BN = {'type': 'BN'}


def head(**fields):
    """A change of the config: another decode head over the last stage."""

    def change(cfg):
        common = {'in_channels': 128, 'in_index': 3, 'channels': 16, 'num_classes': 6, 'norm_cfg': BN}
        cfg.model.decode_head = {**common, 'loss_decode': {'type': 'CrossEntropyLoss'}, **fields}

    return change


def small_images(cfg):
    """32x32, so that the last stage has 1x1, without a pooling branch."""
    cfg.model.data_preprocessor.size = (32, 32)
    head(type='FCNHead', num_convs=1, concat_input=False)(cfg)


def classifier(norm):
    def change(cfg):
        cfg.pop('model')
        cfg.default_scope = 'mmpretrain'
        cfg.model = {
            'type': 'ImageClassifier',
            'backbone': {'type': 'mmfreq.HorNet', 'arch': 'hornet-micro', 'out_indices': (3,)},
            'neck': {'type': 'GlobalAveragePooling'},
            'head': {'type': 'StackedLinearClsHead', 'num_classes': 6, 'in_channels': 128, 'mid_channels': [32], 'norm_cfg': norm},
            'data_preprocessor': {'type': 'ClsDataPreprocessor'},
        }

    return change


def norm(**fields):
    def change(cfg):
        cfg.model.decode_head.norm_cfg = fields

    return change


# change of the toy config -> (names of the norms, groups of the proposed group norm)
ONE_VALUE = {
    'UPerNet pooling': (lambda cfg: None, r'decode_head\.psp_modules\.0\.1\.bn gets .*\(1, 16, 1, 1\)', 8),
    'PSPNet pooling': (head(type='PSPHead', pool_scales=(1, 2)), r'decode_head\.psp_modules\.0\.1\.bn gets', 8),
    'DeepLabv3 pooling': (head(type='ASPPHead', dilations=(1, 2)), r'decode_head\.image_pool\.1\.bn gets', 8),
    'small images': (small_images, r'decode_head\.convs\.0\.bn gets', 8),
    'classifier': (classifier({'type': 'BN1d'}), r'head\.layers\.0\.norm gets .*\(1, 32\)', 16),
    'a group of each channel': (norm(type='GN', num_groups=16), r'decode_head\.psp_modules\.0\.1\.gn gets', 8),
    'no running statistics': (norm(type='BN', track_running_stats=False), r'decode_head\.psp_modules\.0\.1\.bn gets', 8),
}
SEVERAL_VALUES = {
    'group norm': norm(type='GN', num_groups=8),
    'no norm': lambda cfg: cfg.model.decode_head.update(norm_cfg=None),
    'no pooling to 1x1': lambda cfg: cfg.model.decode_head.update(pool_scales=(2, 3)),
    'FCN head': head(type='FCNHead', num_convs=1, concat_input=False),
    'layer norm': classifier({'type': 'LN'}),
}


def of_one_image(cfg):
    fit_norms(cfg, distributed=False)
    cfg.train_dataloader.batch_size = 1
    return cfg


def trains_with_one_image(cfg):
    """Whether the model's forward pass takes one image in training mode."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(copy.deepcopy(cfg.model)).train()
    size = (cfg.model.get('data_preprocessor') or {}).get('size', (64, 64))
    images = torch.rand(1, 3, *size)
    try:
        model.decode_head(model.extract_feat(images)) if 'decode_head' in cfg.model else model(images, mode='tensor')
    except ValueError as error:
        assert 'Expected more than 1 value per channel' in str(error)
        return False
    return True


@pytest.mark.parametrize('case', ONE_VALUE)
def test_one_image_is_refused_where_torch_refuses_it(cfg, case):
    change, names, groups = ONE_VALUE[case]
    change(cfg)
    cfg = of_one_image(cfg)
    with pytest.raises(BatchNormError) as error:
        check_batch_norms(cfg, None, build_model_on_meta(cfg))
    message = str(error.value)
    assert re.search(names, message) and 'train_dataloader.batch_size=1' in message and f'num_groups={groups})' in message
    assert not trains_with_one_image(cfg)
    cfg.model = replaced(cfg.model, {'type': 'GN', 'num_groups': groups})
    assert trains_with_one_image(cfg), 'the proposed norm fails, too'
    check_batch_norms(cfg, None, build_model_on_meta(cfg))


@pytest.mark.parametrize('images', [1, 4])
def test_instance_norms_of_one_value_are_refused_with_any_number_of_images(cfg, images):
    norm(type='IN')(cfg)
    cfg.train_dataloader.batch_size = images
    with pytest.raises(
        BatchNormError, match=r'decode_head\.psp_modules\.0\.1\.in gets an input of \(1, 16, 1, 1\).*num_groups=8\)'
    ):
        check_batch_norms(cfg, None, build_model_on_meta(cfg))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(copy.deepcopy(cfg.model)).train()
    with pytest.raises(ValueError, match='Expected more than 1 spatial element when training'):
        model.decode_head(model.extract_feat(torch.rand(images, 3, 64, 64)))
    cfg.model.decode_head.pool_scales = (2, 3)
    check_batch_norms(cfg, None, build_model_on_meta(cfg))


def replaced(node, norm_cfg):
    """A copy of a config with this norm for every `norm_cfg`."""
    if isinstance(node, dict):
        return {key: norm_cfg if key == 'norm_cfg' else replaced(value, norm_cfg) for key, value in node.items()}
    return node


@pytest.mark.parametrize('case', SEVERAL_VALUES)
def test_one_image_is_accepted_where_torch_takes_it(cfg, case):
    SEVERAL_VALUES[case](cfg)
    cfg = of_one_image(cfg)
    check_batch_norms(cfg, None, build_model_on_meta(cfg))
    assert trains_with_one_image(cfg)


def test_two_images_are_accepted(cfg):
    check_batch_norms(cfg, None, build_model_on_meta(cfg))


def test_norms_that_do_not_train_are_accepted():
    resnet = {'type': 'ResNet', 'depth': 18, 'num_stages': 4, 'out_indices': (3,), 'norm_eval': True}
    preprocessor = {'type': 'ClsDataPreprocessor'}
    model = {'type': 'ImageClassifier', 'backbone': resnet, 'data_preprocessor': preprocessor}
    cfg = Config({'default_scope': 'mmpretrain', 'model': model})
    assert single_value_inputs(build_model(cfg), (32, 32)) == {}
    for change in ({'norm_eval': False}, {'norm_cfg': {**BN, 'track_running_stats': False}}):  # computes them in eval mode, too
        cfg.model.backbone = {**resnet, **change}
        assert 'backbone.layer4.0.bn1' in single_value_inputs(build_model(cfg), (32, 32))


@pytest.mark.parametrize(
    ('processes', 'change', 'refused'),
    [
        (1, lambda cfg: None, True),  # SyncBN in a single process
        (2, lambda cfg: None, False),
        (2, norm(**BN), True),
        (2, lambda cfg: (norm(**BN)(cfg), cfg.update(sync_bn='torch')), False),
    ],
)
def test_images_of_all_processes_count_for_synchronized_norms(cfg, processes, change, refused):
    change(cfg)
    cfg.train_dataloader.batch_size = 1
    with pytest.raises(BatchNormError) if refused else nullcontext():
        check_batch_norms(cfg, None, build_model_on_meta(cfg), processes)


def test_processes_of_the_launcher(cfg, monkeypatch):
    cfg.train_dataloader.batch_size = 1
    monkeypatch.setenv('SLURM_NTASKS', '2')  # of an interactive job, in which a single process runs
    with pytest.raises(BatchNormError):
        check_batch_norms(cfg, None, build_model_on_meta(cfg))
    cfg.launcher = 'slurm'
    check_batch_norms(cfg, None, build_model_on_meta(cfg))


def epochs(cfg, images=7, **loader):
    """Change to epochs of 8 images, the last batch of which has one."""
    cfg.train_dataloader.sampler = {'type': 'DefaultSampler', 'shuffle': True}
    cfg.train_dataloader.update(batch_size=images, **loader)
    cfg.train_cfg = {'type': 'EpochBasedTrainLoop', 'max_epochs': 2}


ASPECT = {'type': 'AspectRatioBatchSampler'}
LAST_BATCH_OF_ONE = {
    'epochs': (lambda cfg: epochs(cfg), 1),
    'aspect ratios': (lambda cfg: epochs(cfg, batch_sampler=ASPECT), 1),
    'iterations': (lambda cfg: (epochs(cfg), cfg.update(train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 2})), 1),
    'repeated': (lambda cfg: repeat(cfg, 2), 1),
    'several processes': (lambda cfg: (epochs(cfg, 3), norm(**BN)(cfg)), 2),
}
LAST_BATCH_OF_SEVERAL = {
    'a divisor': (lambda cfg: epochs(cfg, 4), 1),
    'two left': (lambda cfg: epochs(cfg, 3), 1),
    'dropped': (lambda cfg: epochs(cfg, drop_last=True), 1),
    'dropped by the batch sampler': (lambda cfg: epochs(cfg, batch_sampler={**ASPECT, 'drop_last': True}), 1),
    'endless': (lambda cfg: (epochs(cfg), cfg.train_dataloader.update(sampler={'type': 'InfiniteSampler'})), 1),
    'never reached': (lambda cfg: (epochs(cfg), cfg.update(train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 1})), 1),
    'group norm': (lambda cfg: (epochs(cfg), norm(type='GN', num_groups=4)(cfg)), 1),
    'synchronized': (lambda cfg: epochs(cfg, 3), 2),
    'no dataset': (lambda cfg: (epochs(cfg), cfg.train_dataloader.dataset.update(data_root='/gone')), 1),
}


def repeat(cfg, times):
    """16 images in batches of 5."""
    epochs(cfg, 5)
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': times, 'dataset': cfg.train_dataloader.dataset}


@pytest.mark.parametrize('case', LAST_BATCH_OF_ONE)
def test_a_last_batch_of_one_image_is_refused(cfg, case):
    change, processes = LAST_BATCH_OF_ONE[case]
    change(cfg)
    with pytest.raises(BatchNormError, match=r'last batch of an epoch has one image \((8|16) in all.*drop_last=True'):
        check_batch_norms(cfg, None, build_model_on_meta(cfg), processes)


@pytest.mark.parametrize('case', LAST_BATCH_OF_SEVERAL)
def test_other_last_batches_are_accepted(cfg, case):
    change, processes = LAST_BATCH_OF_SEVERAL[case]
    change(cfg)
    check_batch_norms(cfg, None, build_model_on_meta(cfg), processes)


def test_nothing_is_trained(toy_root, tmp_path):
    config = write_toy_config(tmp_path / 'toy.py', toy_root)
    with pytest.raises(BatchNormError):
        prepare_train(config, work_dir=tmp_path / 'w', cfg_options={'train_dataloader.batch_size': 1})
    assert not (tmp_path / 'w').exists()


@pytest.mark.slow
def test_the_configs_are_accepted():
    """With their own batches, and in a single process."""
    check_each([*LEAFS, *sorted(CONFIGS.glob('cls/*/*.py')), CONFIGS / 'upernet_hornet_ade20k.py'], check_config)


def check_config(path):
    cfg = read_config(path)
    fit_norms(cfg, distributed=False)
    check_batch_norms(cfg, None, build_model(cfg))
