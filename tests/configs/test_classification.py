"""Every classification config: its name, the published evaluation and recipe, and a run on generated images."""

import logging
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from PIL import Image

import mmfreq
from mmfreq.engine.launch import build_runner, prepare_test, prepare_train, train
from mmfreq.models._factory import FAMILIES, backbone_class
from mmfreq.registry import MODELS
from mmfreq.testing.golden import golden_state
from mmfreq.weights import files
from mmfreq.zoo.rows import load_rows
from tests.configs.reading import check_each, read_config

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
# arch -> drop path, clipping, RandAugment magnitude; those of large are our own choice
HORNET = {
    'hornet-tiny-7x7': (0.2, 100, 9),
    'hornet-tiny-gf': (0.2, 1, 9),
    'hornet-small-7x7': (0.4, 5, 9),
    'hornet-small-gf': (0.4, 1, 12),
    'hornet-base-7x7': (0.5, 5, 9),
    'hornet-base-gf': (0.5, 1, 15),
    'hornet-large-gf': (0.5, 1, 15),
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
ITERATIONS = 10  # per epoch, in the test of learning rates


def steps(cfg, loader, type_name):
    return [step for step in cfg[loader].dataset.pipeline if step.type == type_name]


def recipe_name(file):
    return 'finetune' if '-30e_' in file.stem else file.parent.name


def recipe_of(file):
    return RECIPES[recipe_name(file)]


def test_every_published_arch_has_one_config():
    archs = [NAME.fullmatch(f.stem)['arch'] for f in FILES]
    unpublished = {arch for arch in mmfreq.list_archs() if 'micro' in arch or 'cnn' in arch}
    assert sorted(archs) == sorted(set(mmfreq.list_archs()) - unpublished)
    assert {f.parent.name for f in FILES} == set(FAMILIES)


def check_name(file):
    name = NAME.fullmatch(file.stem)
    cfg = read_config(file)
    assert cfg.model.type == 'mmfreq.FrequencyImageClassifier' and cfg.model.arch == name['arch']
    assert name['arch'] in mmfreq.list_archs(file.parent.name)
    assert cfg.train_dataloader.batch_size == int(name['batch']) and cfg.train_cfg.max_epochs == int(name['epochs'])
    total = int(name['gpus']) * int(name['batch']) * cfg.optim_wrapper.get('accumulative_counts', 1)
    assert total == recipe_of(file)[0] == cfg.auto_scale_lr.base_batch_size
    size = int(name['size'] or 224)
    assert [step.scale for step in steps(cfg, 'train_dataloader', 'RandomResizedCrop')] == [size]
    assert file.read_text().startswith(f'# {name["arch"]}') and f'{name["arch"]}' in file.read_text().splitlines()[0]


def test_names_agree_with_the_configs():
    check_each(FILES, check_name)


def check_evaluation(file):
    cfg = read_config(file)
    arch = cfg.model.arch
    expected = backbone_class(arch).published_preprocessing(arch)
    if file.stem == 'hornet-large-7x7_32xb16-30e_in22k-pre_in1k-384':  # an arch of 224, published at 384
        expected = replace(expected, size=384, resize=None)
    for loader in ('val_dataloader', 'test_dataloader'):
        if expected.resize:
            (resize,) = steps(cfg, loader, 'ResizeEdge')
            (crop,) = steps(cfg, loader, 'CenterCrop')
            assert (resize.scale, resize.edge, crop.crop_size) == (expected.resize, 'short', expected.size)
        else:
            (resize,) = steps(cfg, loader, 'Resize')
            assert tuple(resize.scale) == (expected.size, expected.size) and not steps(cfg, loader, 'CenterCrop')
        assert (resize.interpolation, resize.backend) == (expected.interpolation, 'pillow')
        assert cfg[loader].dataset.split == 'val'
    assert cfg.data_preprocessor.to_rgb is True
    assert cfg.data_preprocessor.mean == pytest.approx([255 * value for value in expected.mean])
    assert cfg.data_preprocessor.std == pytest.approx([255 * value for value in expected.std])


def test_evaluation_is_as_published():
    check_each(FILES, check_evaluation)


def check_recipe(file):
    cfg = read_config(file)
    arch = cfg.model.arch
    _, lr, decay, *_, clip, momentum, mixed = recipe_of(file)
    assert (cfg.optim_wrapper.optimizer.type, cfg.optim_wrapper.optimizer.lr) == ('AdamW', lr)
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    if arch in HORNET:
        drop_path, clip, magnitude = HORNET[arch]
        assert cfg.model.drop_path_rate == drop_path
        assert [s.magnitude_level for s in steps(cfg, 'train_dataloader', 'RandAugment')] == [magnitude]
    if arch in GFNET_DROP_PATH:
        assert cfg.model.drop_path_rate == GFNET_DROP_PATH[arch] and not steps(cfg, 'train_dataloader', 'RandomErasing')
        assert cfg.optim_wrapper.clip_grad.max_norm == clip
    if file.parent.name == 'hornet':  # also in fine-tuning
        assert steps(cfg, 'train_dataloader', 'RandAugment') and steps(cfg, 'train_dataloader', 'RandomErasing')
    assert cfg.get('sync_bn') == ('torch' if file.parent.name == 'affnet' else None)
    if clip is not ...:
        assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == clip
    emas = [(hook.momentum, hook.get('interval', 1)) for hook in cfg.get('custom_hooks') or [] if hook.type == 'EMAHook']
    assert emas == ([(momentum, cfg.optim_wrapper.get('accumulative_counts', 1))] if momentum else [])
    augments = [a.type for a in cfg.model.train_cfg.augments] if cfg.model.get('train_cfg') else []
    assert augments == (['Mixup', 'CutMix'] if mixed else [])
    assert cfg.model.loss.label_smooth_val == 0.1


def test_recipe_is_as_published():
    check_each(FILES, check_recipe)


def rates(cfg):
    """The learning rate of every iteration, as mmengine schedules it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for fields in cfg.param_scheduler:
        fields = dict(fields)
        scheduler = PARAM_SCHEDULERS.get(fields.pop('type'))
        by_iterations = fields.pop('convert_to_iter_based', False)
        build = partial(scheduler.build_iter_from_epoch, epoch_length=ITERATIONS) if by_iterations else scheduler
        schedulers.append(build(optimizer=optimizer, **fields))
    for step in range(1, cfg.train_cfg.max_epochs * ITERATIONS + 1):
        yield optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % ITERATIONS == 0:
                scheduler.step()


def published_rate(recipe, epoch):
    """The published rule at an epoch and its fraction; GFNet and DFFormer change by whole epochs, AFFNet after its warm-up."""
    _, base, _, warm_up, end, low, *_ = RECIPES[recipe]
    by_timm = recipe in ('gfnet', 'dfformer')
    t = int(epoch) if by_timm or (recipe == 'affnet' and epoch >= warm_up) else epoch
    if t < warm_up:
        first = 0 if recipe == 'hornet' else 1e-6
        return first + (base - first) * t / warm_up
    begin = 0 if by_timm else warm_up  # timm's cosine starts together with the warm-up
    return low + (base - low) * (1 + math.cos(math.pi * min((t - begin) / (end - begin), 1))) / 2


def one_of_each_schedule():
    """The first config of every recipe, schedule, rate and duration; the others have the same rates."""
    found = {}
    for file in FILES:
        cfg = read_config(file)
        schedule = (cfg.param_scheduler, cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs)
        found.setdefault((recipe_name(file), repr(schedule)), file)
    return list(found.values())


def test_learning_rate_follows_the_published_formula():
    files = one_of_each_schedule()
    assert {recipe_name(file) for file in files} == set(RECIPES)
    check_each(files, check_learning_rate)


def check_learning_rate(file):
    recipe = recipe_name(file)
    cfg = read_config(file)
    base, warm_up = RECIPES[recipe][1], RECIPES[recipe][3]
    for step, rate in enumerate(rates(cfg)):
        epoch = step / ITERATIONS
        allowed = 0.01 if epoch < warm_up + 1 else 0.001  # mmengine's warm-up ends an iteration early
        assert abs(rate - published_rate(recipe, epoch)) <= allowed * base, epoch


def test_fine_tuning_decays_rates_towards_the_stem():
    check_each([file for file in FILES if '-30e_' in file.stem], check_layer_decay)


def check_layer_decay(file):
    cfg = read_config(file)
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    names = {p: n for n, p in model.named_parameters()}
    groups = build_optim_wrapper(model, dict(cfg.optim_wrapper)).optimizer.param_groups
    rate = {names[p].removeprefix('backbone.'): group['lr'] for group in groups for p in group['params']}
    wanted = {'downsample_layers.0.0.weight': 13, 'stages.2.0.norm1.weight': 10, 'stages.2.17.norm1.weight': 2}
    wanted |= {'downsample_layers.3.0.weight': 1, 'stages.3.1.gamma1': 1, 'norm.weight': 0, 'head.weight': 0}
    for name, exponent in wanted.items():
        assert rate[name] == pytest.approx(5e-5 * 0.7**exponent), name


def check_score_and_file(file):
    cfg = read_config(file)
    known = [w for w in files.list_weights(cfg.model.arch) if w.task.startswith('imagenet')]
    header = re.search(r'Published: ([\d.]+) top-1', file.read_text().splitlines()[0])
    published = {w.metrics['top1'] for w in known if 'top1' in w.metrics and 'mmpretrain' not in w.repository}
    assert ({float(header[1])} if header else set()) == published
    fine_tuned = '-30e_' in file.stem
    assert bool(cfg.model.get('init_cfg')) == fine_tuned
    if fine_tuned:
        start = files.find_weights(cfg.model.init_cfg.checkpoint.removeprefix('mmfreq://'))
        assert start.task == ('imagenet-22k' if '_in22k-pre_' in file.stem else 'imagenet-1k')
        assert cfg.model.init_cfg.get('fresh') == (('head.',) if start.task == 'imagenet-22k' else None)
        assert cfg.model.arch.startswith(start.arch)
    elif cfg.get('published_checkpoint'):
        assert cfg.published_checkpoint in {w.name for w in known}
    else:
        assert not [w for w in known if w.url != files.UNKNOWN]


def test_score_and_file_agree_with_the_list_of_files():
    check_each(FILES, check_score_and_file)


@pytest.mark.slow
def test_full_size_models_and_their_weight_decay():
    check_each(FILES, check_parameters_and_decay)


@cache
def rows():
    return load_rows()


def check_parameters_and_decay(file):
    cfg = read_config(file)
    with torch.device('meta'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        twin = mmfreq.build_classifier(cfg.model.arch, img_size=cfg.model.get('img_size'))
    count = sum(p.numel() for p in model.parameters())
    (row,) = (row for row in rows() if row.config == file)
    assert count == sum(p.numel() for p in twin.parameters()) == row.entry['Metadata']['Parameters']
    wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper'))
    decays = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    params = dict(model.named_parameters())
    assert set(decays) == {id(p) for p in params.values()}
    for name, param in params.items():
        undecayed = param.ndim == 1 or name.endswith('.bias') or name.endswith('pos_embed')
        assert decays[id(param)] == (0 if undecayed else cfg.optim_wrapper.optimizer.weight_decay), name


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Eight dark and eight bright images, as folders of classes."""
    root = tmp_path_factory.mktemp('images')
    noise = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label, level in (('bright', 200), ('dark', 40)):
            (root / split / label).mkdir(parents=True)
            for i in range(8):
                pixels = noise.normal(level, 20, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f'{i}.png')
    return root


TOY_DATA = "dict(_delete_=True, type='CustomDataset', data_root='{}', data_prefix='{}', pipeline={})"


def write_toy_leaf(path, leaf, arch, images, more=''):
    """A config that inherits a published one, with a small arch of the family and the toy images."""
    train, val = (TOY_DATA.format(images, split, f'_base_.{split}_dataloader.dataset.pipeline') for split in ('train', 'val'))
    path.write_text(
        f"_base_ = '{ROOT}/configs/cls/{leaf}.py'\n"
        f"model = dict(arch='{arch}', num_classes=2)\n"
        f'train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset={train})\n'
        f'val_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset={val})\n'
        'test_dataloader = val_dataloader\n'
        "val_evaluator = dict(type='Accuracy', topk=(1,))\n"
        'test_evaluator = val_evaluator\n'
        "log_level = 'ERROR'\n" + more
    )
    return path


PUBLISHED = [  # two of the recipes with averaged weights, two without
    ('hornet/hornet-base-gf_32xb64-300e_in1k', 'hornet-micro'),
    ('gfnet/gfnet-ti_8xb128-300e_in1k', 'gfnet-micro'),
    ('dfformer/cdfformer-s18_8xb128-310e_in1k', 'cdfformer-micro'),
    ('affnet/affnet-et_8xb128-300e_in1k-256', 'affnet-micro'),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('leaf', 'arch', 'entry'), [(*row, entry) for row, entry in zip(PUBLISHED, ('model', 'model', None, None))]
)
def test_published_file_is_evaluated_without_conversion(leaf, arch, entry, images, tmp_path):
    """The test runs the weights of the file, also with the hook for averaged weights that two recipes have."""
    twin = mmfreq.build_classifier(arch, num_classes=2).eval()
    state = golden_state({n: p.shape for n, p in twin.state_dict().items()})
    mmfreq.load_weights(twin, state)
    torch.save({entry: state} if entry else state, tmp_path / 'published.pth')
    config = write_toy_leaf(tmp_path / 'toy.py', leaf, arch, images)
    runner = build_runner(prepare_test(config, tmp_path / 'published.pth', work_dir=tmp_path / 'work'))
    seen = []
    runner.model.backbone.register_forward_hook(lambda _, x, logits: seen.append((x[0], logits)))
    runner.test()
    assert len(seen) == 2  # 16 images
    with torch.no_grad():
        for x, logits in seen:
            torch.testing.assert_close(logits, twin(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_averaged_weights_are_updated_once_per_optimizer_step(images, tmp_path, monkeypatch):
    more = 'train_cfg = dict(max_epochs=4, val_interval=9)\nmodel.update(train_cfg=None)\n'
    config = write_toy_leaf(tmp_path / 'toy.py', *PUBLISHED[0], images, more)
    updates, steps_made = [], []
    average, step = ExponentialMovingAverage.avg_func, torch.optim.AdamW.step
    monkeypatch.setattr(ExponentialMovingAverage, 'avg_func', lambda self, *a: (updates.append(int(a[2])), average(self, *a)))
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self, *a, **k: (steps_made.append(1), step(self, *a, **k))[1])
    train(config, work_dir=tmp_path / 'work', seed=0)
    assert len(steps_made) == 4 and sorted(set(updates)) == [2, 4, 6]  # of 8 iterations; the first copies


@pytest.fixture
def logged():
    """The messages of mmengine's logger."""
    logger = MMLogger.get_instance('messages of a test', log_level='INFO')  # becomes the current one
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    MMLogger._instance_dict.pop('messages of a test')


def test_fine_tuning_starts_from_the_published_file_or_from_scratch(images, tmp_path, monkeypatch, logged):
    tuning = 'hornet/hornet-base-gf-img384_32xb16-30e_in1k-384'
    config = write_toy_leaf(tmp_path / 'b.py', tuning, 'hornet-micro', images)
    monkeypatch.setenv('MMFREQ_WEIGHTS', str(tmp_path))
    name = 'hornet-base-gf_in1k.pth'
    torch.save(mmfreq.build_classifier('hornet-micro', num_classes=2).state_dict(), tmp_path / name)
    cfg = prepare_train(config, work_dir=tmp_path / 'b')
    assert cfg.model.init_cfg.checkpoint == 'mmfreq://hornet-base-gf/in1k'
    assert logged[-1] == f'The backbone starts from mmfreq://hornet-base-gf/in1k, the file {tmp_path / name}.'
    cfg = prepare_train(config, work_dir=tmp_path / 'c', from_scratch=True)
    assert 'init_cfg' not in cfg.model and logged[-1] == 'The backbone starts from random values.'


def write_learnable(path, leaf, arch, images):
    """Ten epochs of a recipe, with a learning rate that suffices to separate bright from dark."""
    more = (
        'model.update(train_cfg=None)\n'
        'train_cfg = dict(max_epochs=10, val_interval=10)\n'
        'default_hooks = dict(checkpoint=dict(interval=10))\n'
        'custom_hooks = []\n'  # averages over so few steps still equal the initial weights
        'param_scheduler = None\n'
        'optim_wrapper = dict(optimizer=dict(lr=1e-3))\n'
        "log_level = 'INFO'\n"
    )
    return write_toy_leaf(path, leaf, arch, images, more)


@pytest.mark.slow
def test_tools_train_and_test(images, tmp_path):
    config = write_learnable(tmp_path / 'toy.py', *PUBLISHED[1], images)
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


@pytest.mark.slow
def test_train_and_test_in_this_process(images, tmp_path):
    config = write_learnable(tmp_path / 'toy.py', 'hornet/hornet-tiny-gf_32xb128-300e_in1k', 'hornet-micro', images)
    train(config, work_dir=tmp_path / 'work', seed=0)
    runner = build_runner(prepare_test(config, tmp_path / 'work/epoch_10.pth', work_dir=tmp_path / 'tested'))
    assert runner.test()['accuracy/top1'] >= 87.5
