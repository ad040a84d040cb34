"""Every classification config: its name, the published evaluation and recipe, and a run on pictures made here."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from PIL import Image

import mmfreq
from mmfreq.checkpoint import zoo
from mmfreq.models.factory import FAMILIES, backbone_class
from mmfreq.registry import MODELS

pytest.importorskip('mmpretrain')
ROOT = Path(mmfreq.__file__).parents[1]
FILES = sorted((ROOT / 'configs/cls').glob('*/*.py'))
NAME = re.compile(r'(?P<arch>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<batch>\d+)-(?P<epochs>\d+)e(_in22k-pre)?_in1k(-(?P<size>\d+))?')
# the published recipes: total batch, lr, weight decay, warm-up epochs, end of cosine, its lowest lr, clipping, EMA momentum, mixup
RECIPES = {
    'hornet': (4096, 4e-3, 0.05, 20, 300, 1e-6, ..., 1e-4, True),
    'gfnet': (1024, 1e-3, 0.05, 5, 300, 1e-5, 1.0, None, True),
    'dfformer': (1024, 1e-3, 0.05, 20, 300, 1e-5, None, None, True),
    'affnet': (1024, 9e-3, 0.008, 16, 300, 9e-4, None, 5e-4, False),
    'finetune': (512, 5e-5, 1e-8, 0, 30, 1e-6, 1.0, 1e-4, False),
}
# of single archs: drop path, clipping, RandAugment magnitude
HORNET = {
    'hornet-tiny-7x7': (0.2, 100, 9),
    'hornet-tiny-gf': (0.2, 1, 9),
    'hornet-small-7x7': (0.4, 5, 9),
    'hornet-small-gf': (0.4, 1, 12),
    'hornet-base-7x7': (0.5, 5, 9),
    'hornet-base-gf': (0.5, 1, 15),
}
GFNET_DROP_PATH = {
    'gfnet-ti': 0,
    'gfnet-xs': 0,
    'gfnet-s': 0.15,
    'gfnet-b': 0.25,
    'gfnet-h-ti': 0.1,
    'gfnet-h-s': 0.2,
    'gfnet-h-b': 0.4,
}
each_config = pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)


def steps(cfg, loader, kind):
    return [step for step in cfg[loader].dataset.pipeline if step.type == kind]


def recipe_of(file):
    return RECIPES['finetune' if '-30e_' in file.stem else file.parent.name]


def test_every_published_arch_has_one_config():
    archs = [NAME.fullmatch(f.stem)['arch'] for f in FILES]
    ours = {arch for arch in mmfreq.list_archs() if 'micro' in arch or 'cnn' in arch}
    assert sorted(archs) == sorted(set(mmfreq.list_archs()) - ours)
    assert {f.parent.name for f in FILES} == set(FAMILIES)


@each_config
def test_name_tells_the_truth(file):
    said = NAME.fullmatch(file.stem)
    cfg = Config.fromfile(file)
    assert cfg.model.type == 'mmfreq.FrequencyImageClassifier' and cfg.model.arch == said['arch']
    assert said['arch'] in mmfreq.list_archs(file.parent.name)
    assert cfg.train_dataloader.batch_size == int(said['batch']) and cfg.train_cfg.max_epochs == int(said['epochs'])
    total = int(said['gpus']) * int(said['batch']) * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert total == recipe_of(file)[0] == cfg.auto_scale_lr.base_batch_size
    size = int(said['size'] or 224)
    assert [step.scale for step in steps(cfg, 'train_dataloader', 'RandomResizedCrop')] == [size]
    assert file.read_text().startswith(f'# {said["arch"]}') and f'{said["arch"]}' in file.read_text().splitlines()[0]


@each_config
def test_evaluation_is_the_published(file):
    cfg = Config.fromfile(file)
    arch = cfg.model.arch
    seen = backbone_class(arch).published_preprocessing(arch)
    if file.stem.endswith('-384'):
        seen = replace(seen, size=384, resize=None)
    for loader in ('val_dataloader', 'test_dataloader'):
        if seen.resize:
            (resize,) = steps(cfg, loader, 'ResizeEdge')
            (crop,) = steps(cfg, loader, 'CenterCrop')
            assert (resize.scale, resize.edge, crop.crop_size) == (seen.resize, 'short', seen.size)
        else:
            (resize,) = steps(cfg, loader, 'Resize')
            assert tuple(resize.scale) == (seen.size, seen.size) and not steps(cfg, loader, 'CenterCrop')
        assert (resize.interpolation, resize.backend) == (seen.interpolation, 'pillow')
        assert cfg[loader].dataset.split == 'val'
    assert cfg.data_preprocessor.to_rgb is True
    assert cfg.data_preprocessor.mean == pytest.approx([255 * value for value in seen.mean])
    assert cfg.data_preprocessor.std == pytest.approx([255 * value for value in seen.std])


@each_config
def test_recipe_is_the_published(file):
    cfg = Config.fromfile(file)
    arch = cfg.model.arch
    _, lr, decay, warm_up, end, lowest, clip, momentum, mixed = recipe_of(file)
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ('AdamW', lr)
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    *warming, cosine = cfg.param_scheduler
    assert (cosine.type, cosine.get('begin', 0), cosine.end, cosine.eta_min) == ('CosineAnnealingLR', warm_up, end, lowest)
    assert [(s.type, s.end) for s in warming] == ([('LinearLR', warm_up)] if warm_up else [])
    if arch in HORNET:
        drop_path, clip, magnitude = HORNET[arch]
        assert cfg.model.drop_path_rate == drop_path
        assert [s.magnitude_level for s in steps(cfg, 'train_dataloader', 'RandAugment')] == [magnitude]
    if arch in GFNET_DROP_PATH:
        assert cfg.model.drop_path_rate == GFNET_DROP_PATH[arch] and not steps(cfg, 'train_dataloader', 'RandomErasing')
    if clip is not ...:
        assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == clip
    emas = [hook.momentum for hook in cfg.get('custom_hooks') or [] if hook.type == 'EMAHook']
    assert emas == ([momentum] if momentum else [])
    augments = [a.type for a in cfg.model.train_cfg.augments] if cfg.model.get('train_cfg') else []
    assert augments == (['Mixup', 'CutMix'] if mixed else [])
    assert cfg.model.loss.label_smooth_val == 0.1


@each_config
def test_score_and_file_are_those_of_the_zoo(file):
    cfg = Config.fromfile(file)
    known = [w for w in zoo.find(cfg.model.arch) if w.task.startswith('imagenet')]
    said = re.search(r'published: ([\d.]+) top-1', file.read_text().splitlines()[0])
    published = {w.metrics['top1'] for w in known if 'top1' in w.metrics and 'mmpretrain' not in w.repository}
    assert ({float(said[1])} if said else set()) == published
    if cfg.get('imagenet_checkpoint'):
        assert cfg.imagenet_checkpoint in {w.url for w in known}
    else:
        assert not [w for w in known if w.url != zoo.UNKNOWN]


@each_config
def test_built_at_full_size_with_the_filters_decayed_and_vectors_not(file):
    cfg = Config.fromfile(file)
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        twin = mmfreq.build_classifier(cfg.model.arch, img_size=cfg.model.get('img_size'))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in twin.parameters())
    wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    decays = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    params = dict(model.named_parameters())
    assert set(decays) == {id(p) for p in params.values()}
    for name, param in params.items():
        undecayed = param.ndim == 1 or name.endswith('.bias') or name.endswith('pos_embed')
        assert decays[id(param)] == (0 if undecayed else cfg.optim_wrapper.optimizer.weight_decay), name


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Eight dark and eight bright pictures, as folders of classes."""
    root = tmp_path_factory.mktemp('pictures')
    noise = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label, level in (('bright', 200), ('dark', 40)):
            (root / split / label).mkdir(parents=True)
            for i in range(8):
                pixels = noise.normal(level, 20, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f'{i}.png')
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    'leaf,arch', [('gfnet/gfnet-ti_8xb128-300e_in1k', 'gfnet-micro'), ('hornet/hornet-tiny-gf_32xb128-300e_in1k', 'hornet-micro')]
)
def test_trained_and_tested_by_the_tools(leaf, arch, pictures, tmp_path):
    config = tmp_path / 'toy.py'
    dataset = "dict(_delete_=True, type='CustomDataset', data_root='{}', data_prefix='{}', pipeline={})"
    train, val = (dataset.format(pictures, split, f'_base_.{split}_dataloader.dataset.pipeline') for split in ('train', 'val'))
    config.write_text(
        f"_base_ = '{ROOT}/configs/cls/{leaf}.py'\n"
        f"model = dict(arch='{arch}', num_classes=2, train_cfg=None)\n"
        'data_preprocessor = dict(num_classes=2)\n'
        f'train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset={train})\n'
        f'val_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset={val})\n'
        'test_dataloader = val_dataloader\n'
        "val_evaluator = dict(type='Accuracy', topk=(1,))\n"
        "test_evaluator = val_evaluator\n"
        'train_cfg = dict(max_epochs=10, val_interval=10)\n'
        'default_hooks = dict(checkpoint=dict(interval=10))\n'
        'custom_hooks = []\n'  # averages of so few steps are still the initial weights
        'param_scheduler = None\n'
        'optim_wrapper = dict(optimizer=dict(lr=1e-3))\n'
    )  # fmt: skip
    run = dict(cwd=tmp_path, capture_output=True, text=True, timeout=600)
    trained = subprocess.run(
        [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', 'work', '--seed', '0'], **run
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    checkpoint = tmp_path / 'work/epoch_10.pth'
    tested = subprocess.run([sys.executable, str(ROOT / 'tools/test.py'), str(config), str(checkpoint)], **run)
    assert tested.returncode == 0, tested.stderr[-3000:]
    scores = re.findall(r'accuracy/top1: (\d+\.\d+)', tested.stdout + tested.stderr)
    assert scores and float(scores[-1]) >= 87.5, scores
