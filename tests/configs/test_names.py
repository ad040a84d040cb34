"""Every dense config agrees with its name and is written for OpenMMLab 2.x."""

import re

from mmfreq.config.reading import type_name
from mmfreq.models._factory import FAMILIES, backbone_class
from tests.configs.names import CONFIGS, LEAFS, read
from tests.configs.reading import check_each, read_config

HEADLINE = CONFIGS / 'upernet_hornet_ade20k.py'
# data -> (data set, classes)
DATA = {
    'ade20k': ('ADE20KDataset', 150),
    'camvid': ('CamVidDataset', 11),
    'voc12aug': ('PascalVOCDataset', 21),
    'coco': ('CocoDataset', 80),
}
# family in the name of an arch of no published size -> folder
FAMILY_OF = {'hornet': 'hornet', 'gfnet-h': 'gfnet', 'dfformer': 'dfformer', 'cdfformer': 'dfformer', 'affnet': 'affnet'}
TOY = {'seg': ('ToyShapesDataset', 6), 'det': ('ToyInstancesDataset', 5)}
# method -> part of the model and its type
METHODS = {
    'upernet': ('decode_head', 'UPerHead'),
    'horfpn-7x7-upernet': ('decode_head', 'mmfreq.GnUPerHead'),
    'horfpn-gf-upernet': ('decode_head', 'mmfreq.GnUPerHead'),
    'fpn': ('decode_head', 'FPNHead'),
    'deeplabv3': ('decode_head', 'mmfreq.AFFNetASPPHead'),
    'cascade-mask-rcnn': (None, 'CascadeRCNN'),
    'mask-rcnn': (None, 'MaskRCNN'),
    'mask-rcnn-horfpn-7x7': ('neck', 'mmfreq.GnFPN'),
    'mask-rcnn-horfpn-gf': ('neck', 'mmfreq.GnFPN'),
    'retinanet': (None, 'RetinaNet'),
    'ssdlite': ('bbox_head', 'mmfreq.AFFNetSSDLiteHead'),
}
# of mmseg 0.x, mmdet 2.x and mmcv 1.x: keys of the outermost dict, keys anywhere, types
OLD_OUTER_KEYS = {'data', 'optimizer_config', 'lr_config', 'runner', 'evaluation', 'log_config', 'checkpoint_config', 'workflow'}
OLD_OUTER_KEYS |= {'dist_params', 'fp16', 'total_epochs', 'optimizer', 'cudnn_benchmark'}
OLD_KEYS = {
    'samples_per_gpu',
    'workers_per_gpu',
    'img_norm_cfg',
    'img_scale',
    'img_dir',
    'ann_dir',
    'img_prefix',
    'multiscale_mode',
}
OLD_KEYS |= {'pretrained'}
OLD_TYPES = {'Collect', 'DefaultFormatBundle', 'ImageToTensor', 'Normalize', 'MultiScaleFlipAug', 'AutoAugment', 'EpochBasedRunner'}
OLD_TYPES |= {'IterBasedRunner', 'TextLoggerHook', 'Fp16OptimizerHook', 'DistOptimizerHook', 'EvalHook'}
ALL = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


def classes_of(node):
    """All `num_classes` in a nested config."""
    if isinstance(node, dict):
        return [value for key, child in node.items() for value in ([child] if key == 'num_classes' else classes_of(child))]
    return [value for child in node for value in classes_of(child)] if isinstance(node, (list, tuple)) else []


def innermost(dataset):
    """The data set within its wrappers."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset


def test_names_are_unique_and_folders_are_families():
    assert len({path.stem for path in LEAFS}) == len(LEAFS) > 60
    assert {path.parent.name for path in LEAFS} == set(FAMILIES)


def check_model_and_data(path):
    name, cfg = read(path), read_config(path)
    backbone = cfg.model.backbone
    if '-dim' not in name.arch:
        assert backbone.arch == name.arch and backbone.type == f'mmfreq.{backbone_class(name.arch).__name__}'
        assert backbone_class(name.arch).family == path.parent.name
    else:  # of no published size: the name has the width of the first stage
        family, width = re.match(r'([a-z-]+)-dim(\d+)', name.arch).groups()
        assert FAMILY_OF[family] == path.parent.name
        (found,) = (backbone.arch[key] for key in ('base_dim', 'dims', 'channels') if key in backbone.arch)
        assert (found if isinstance(found, int) else found[0]) == int(width)
    part, expected = METHODS[name.method]
    assert (cfg.model[part] if part else cfg.model).type == expected
    dataset, classes = TOY[path.parts[-3]] if name.data == 'toy' else DATA.get(name.data, ('CocoDataset', 3))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert type_name(innermost(loader.dataset).type) == dataset
    assert set(classes_of(cfg.model)) == {classes}


def test_model_and_data():
    check_each(LEAFS, check_model_and_data)


def check_batch_schedule_and_size(path):
    name, cfg = read(path), read_config(path)
    assert cfg.train_dataloader.batch_size == name.images
    loop = cfg.train_cfg
    assert (loop.get('max_iters'), loop.get('max_epochs')) == (name.iterations, name.epochs)
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size', name.gpus * name.images)
    assert base == name.gpus * name.images
    if name.size and path.parts[-3] == 'seg':
        steps = [step for step in innermost(cfg.train_dataloader.dataset).pipeline if step.type == 'RandomCrop']
        assert [tuple(step.crop_size) for step in steps] in ([name.size], [])
        assert tuple(cfg.model.data_preprocessor.size) == name.size
    elif name.size:
        scales = [step.scale for step in cfg.test_dataloader.dataset.pipeline if 'scale' in step]
        assert [tuple(scale) for scale in scales] in ([name.size[::-1]], [])


def test_batch_schedule_and_size():
    check_each(LEAFS, check_batch_schedule_and_size)


def check_variant(path):
    name, cfg = read(path), read_config(path)
    affnet = path.parent.name == 'affnet'  # its recipes always have both
    mixed = cfg.optim_wrapper.type == 'AmpOptimWrapper'
    averaged = any(hook.type == 'EMAHook' for hook in cfg.get('custom_hooks') or [])
    cropped = any(step.type == 'RandomChoice' for step in innermost(cfg.train_dataloader.dataset).pipeline)
    assert mixed == (name.variant == 'amp') or (affnet and mixed)
    assert averaged == (name.variant == 'ema') or (affnet and averaged)
    assert cropped == (name.variant == 'ms-crop')


def test_variant():
    check_each(LEAFS, check_variant)


def all_keys_and_types(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from all_keys_and_types(value)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from all_keys_and_types(child)


def check_for_old_libraries(path):
    cfg = read_config(path).to_dict()
    found = list(all_keys_and_types(cfg))
    assert not {key for key, value in cfg.items() if value is not None} & OLD_OUTER_KEYS
    assert not {key for key, value in found if value is not None} & OLD_KEYS
    assert not {type_name(value) for key, value in found if key == 'type'} & OLD_TYPES


def test_nothing_of_openmmlab_1():
    check_each(ALL, check_for_old_libraries)


def check_header_and_length(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    own = any(word in path.stem for word in ('camvid', 'toy', 'fruits'))
    assert lines[0].startswith('# ') and len(lines) <= (45 if own else 30)


def test_configs_have_a_header_and_are_short():
    check_each(ALL, check_header_and_length)


def test_headline_is_the_tiny_gf_row():
    row = CONFIGS / 'seg/hornet/hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
    assert read_config(HEADLINE).to_dict() == read_config(row).to_dict()
