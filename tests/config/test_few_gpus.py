"""Configs for fewer GPUs: gradients, learning rates and runs are those of the published configs."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseAveragedModel
from mmengine.optim import OptimWrapper

from mmfreq.config import few_gpus as module
from mmfreq.config.few_gpus import Split, accumulated, batch_norm_notes, count_batch_norms, few_gpus, published_batch
from mmfreq.config.reading import read_config
from mmfreq.engine.launch import train
from mmfreq.errors import UserError
from tests.config.test_iteration_counts import rates
from tests.configs.reading import CONFIGS, configs_parsed_once
from tests.configs.reading import read_config as read

SEG = CONFIGS / 'seg/hornet/hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
DET = CONFIGS / 'det/hornet/hornet-tiny-gf_mask-rcnn_8xb2-1x_coco.py'
SSD = CONFIGS / 'det/affnet/affnet_ssdlite_8xb16-200e_coco-320x320.py'
CLS = CONFIGS / 'cls/hornet/hornet-base-gf_32xb64-300e_in1k.py'
BY_SCHEDULE = {(f.parent, re.sub(r'^.*?(?=\d+xb\d)', '', f.stem)): f for f in sorted(CONFIGS.glob('[a-z]*/*/*.py'))}
EPOCH = 50  # steps of the optimizer, where there are no data to count


@pytest.fixture(autouse=True)
def parsed_once():
    with configs_parsed_once():
        yield


@pytest.fixture
def no_model(monkeypatch):
    """Saves time: only the notes on batch norms build the model."""
    monkeypatch.setattr(module, 'batch_norm_notes', lambda *_: [])


def rates_of(cfg, steps, epoch=EPOCH):
    every = accumulated(cfg)
    found = rates(cfg.param_scheduler, every, steps * every, epoch * every, cfg.optim_wrapper.optimizer.lr)
    return torch.tensor(list(found), dtype=torch.float64)


@pytest.mark.parametrize(('gpus', 'images'), [(4, 2), (2, 2), (1, 4)])
def test_segmentation_keeps_the_learning_rate_of_every_step(gpus, images, no_model):
    made = few_gpus(SEG, gpus, images).config
    every = 16 // (gpus * images)
    assert (made.train_dataloader.batch_size, made.optim_wrapper.accumulative_counts) == (images, every)
    assert (made.train_cfg.max_iters, made.train_cfg.val_interval) == (160000 * every, 16000 * every)
    assert made.default_hooks.checkpoint.interval == 16000 * every
    ends = [(scheduler.begin, scheduler.end) for scheduler in made.param_scheduler]
    assert ends == [(every - 1, 1501 * every), (every - 1, 160001 * every)]
    torch.testing.assert_close(rates_of(made, 1600), rates_of(read(SEG), 1600), rtol=1e-9, atol=0)


def test_detection_keeps_the_learning_rate_of_every_step(no_model):
    made = few_gpus(DET, 2).config
    assert made.train_cfg == read(DET).train_cfg  # in epochs
    was, now = (rates_of(cfg, 12 * EPOCH) for cfg in (read(DET), made))
    torch.testing.assert_close(now, was, rtol=1e-9, atol=0)
    assert now[0] == pytest.approx(1e-7) and now[500] == pytest.approx(1e-5)  # after 500 steps 10 epochs of 50 are over: x 0.1


@pytest.mark.slow
@pytest.mark.parametrize(('file', 'gpus', 'epochs'), [(SSD, 2, 200), (CLS, 8, 250)], ids=['ssdlite', 'classifier'])
def test_schedules_converted_from_epochs_are_at_most_a_step_off(file, gpus, epochs, no_model):
    """With epochs of ten steps."""
    was, now = (rates_of(each, 10 * epochs, epoch=10) for each in (read(file), few_gpus(file, gpus).config))
    change = (was[1:] - was[:-1]).abs()
    near = torch.maximum(torch.cat([change[:1], change]), torch.cat([change, change[-1:]]))
    assert (now - was).abs().gt(near * 1.001 + 1e-12).sum() == 0


@pytest.mark.parametrize('clip', [None, dict(max_norm=0.1)])
def test_accumulated_gradients_are_those_of_the_whole_batch(clip):
    """Clipping, too, sees the whole gradient, once per step."""
    x, y = torch.randn(16, 5), torch.randn(16, 1)
    weights, grads = [], []
    for count in (1, 4):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 1)).double()
        wrapper = OptimWrapper(
            torch.optim.AdamW(model.parameters(), lr=0.1), accumulative_counts=count, clip_grad=clip and dict(clip)
        )
        wrapper.initialize_count_status(model, 0, 3 * count)
        wrapper.zero_grad = lambda: None  # keeps the gradient for the comparison
        for part, target in zip(x.double().chunk(count), y.double().chunk(count)):
            wrapper.update_params(torch.nn.functional.mse_loss(model(part), target))
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        weights.append(torch.cat([p.data.flatten() for p in model.parameters()]))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_a_run_has_the_same_steps_learning_rates_and_averages(toy_config, tmp_path, monkeypatch):
    base = tmp_path / 'base_1xb4.py'
    base.write_text(
        f"_base_ = '{toy_config}'\n"
        'train_dataloader = dict(batch_size=4)\n'
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=6, val_interval=3)\n"
        "param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False),\n"
        "    dict(type='PolyLR', begin=3, end=7, by_epoch=False)]\n"
        "custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
    )
    (tmp_path / 'leaf_1xb2.py').write_text(few_gpus(base, 1, 2, out=tmp_path / 'leaf_1xb2.py').text)
    seen, averages = [], []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, 'step', lambda self, *a, **k: (seen.append(self.param_groups[0]['lr']), step(self, *a, **k))[1]
    )
    monkeypatch.setattr(
        BaseAveragedModel, 'update_parameters', lambda self, model: averages.append(int(self.steps)) or self.steps.add_(1)
    )
    runs = []
    for config in (base, tmp_path / 'leaf_1xb2.py'):
        seen.clear(), averages.clear()
        runner = train(config, work_dir=tmp_path / config.stem)
        runs.append((list(seen), len([s for s in averages if s % runner.cfg.custom_hooks[0].get('interval', 1) == 0]), runner.iter))
    assert runs[0][2] == 6 and runs[1][2] == 12
    assert len(runs[0][0]) == 6 and runs[0][0] == pytest.approx(runs[1][0], rel=1e-9)
    assert runs[0][1] == runs[1][1] == 6


@pytest.mark.slow
@pytest.mark.parametrize('file', BY_SCHEDULE.values(), ids=lambda f: f.stem)
def test_every_config_sees_as_many_images_in_as_many_steps(file, tmp_path, no_model):
    cfg = read(file)
    images, steps = cfg.train_dataloader.batch_size // 2, accumulated(cfg)
    gpus = int(re.search(r'_(\d+)xb', file.stem)[1])
    batch = 2 * images * gpus * steps
    written = few_gpus(file, gpus, images, batch=batch)
    (tmp_path / 'leaf.py').write_text(written.text)
    made = Config.fromfile(tmp_path / 'leaf.py')
    assert made.to_dict() == written.config.to_dict()
    assert made.train_dataloader.batch_size * gpus * made.optim_wrapper.accumulative_counts == batch
    for key in ('max_iters', 'val_interval') if 'max_iters' in cfg.train_cfg else ():
        assert made.train_cfg[key] == 2 * cfg.train_cfg[key]
    assert made.train_cfg.get('max_epochs') == cfg.train_cfg.get('max_epochs')
    assert made.auto_scale_lr.base_batch_size == batch
    assert {**made.model} == {**cfg.model} and made.optim_wrapper.optimizer == cfg.optim_wrapper.optimizer
    for was, now in zip(cfg.get('custom_hooks') or [], made.get('custom_hooks') or []):
        assert now.get('interval') == (2 * was.get('interval', 1) if was.type == 'EMAHook' else was.get('interval'))


def test_the_configs_cover_all_schedules():
    assert len(BY_SCHEDULE) > 20 and {f.parents[1].name for f in BY_SCHEDULE.values()} == {'cls', 'det', 'seg'}


def test_a_written_config_can_be_the_base_of_another(tmp_path, no_model):
    """From 8 GPUs to 4 to 1 gives the same config as from 8 to 1; the name of the file does not matter."""
    (tmp_path / 'any name.py').write_text(few_gpus(SEG, 4, out=tmp_path / 'any name.py').text)
    twice, once = few_gpus(tmp_path / 'any name.py', 1), few_gpus(SEG, 1)
    assert twice.config.to_dict() == once.config.to_dict()
    assert '4 GPUs x 2 images x 2 accumulated before, 1 GPU x 2 images x 8 accumulated now' in twice.summary[0]


def test_accumulation_of_the_base_is_counted(no_model):
    made = few_gpus(CLS, 8)
    assert accumulated(read(CLS)) == 2 and made.config.optim_wrapper.accumulative_counts == 8
    assert '4096 images: 32 GPUs x 64 images x 2 accumulated before, 8 GPUs x 64 images x 8 accumulated now' in made.summary[0]
    (ema,) = made.config.custom_hooks
    assert (ema.interval, ema.begin_iter) == (8, 4)


def test_the_first_lines_are_the_summary(no_model):
    made = few_gpus(SEG, 2)
    lines = made.text.splitlines()
    assert lines[0] == f'# {SEG.stem} on 2 GPUs; written by tools/few_gpus.py.'
    assert lines[1] == '# Keeps the total batch of 16 images: 8 GPUs x 2 images before, 2 GPUs x 2 images x 4 accumulated now.'
    assert all(len(line) <= 132 for line in lines)
    assert 'train_cfg.max_iters: 160000 -> 640000' in made.difference


@pytest.mark.parametrize(('rule', 'lr'), [('linear', 1e-4 * 6 / 16), ('sqrt', 1e-4 * math.sqrt(6 / 16))])
def test_scaled_learning_rate(rule, lr, no_model):
    made = few_gpus(SEG, 3, rule=rule)
    cfg = made.config
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr, rel=1e-10) and 'accumulative_counts' not in cfg.optim_wrapper
    assert cfg.train_cfg.max_iters * 6 == pytest.approx(160000 * 16, abs=6) and cfg.param_scheduler[0].end == 4001
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=6)
    assert f'by the {rule} rule: the batch was 16 images (8 GPUs x 2 images), and is 6 (3 GPUs x 2 images)' in made.summary[0]
    assert 'Counts of iterations times 8/3 are rounded.' in made.notes


def test_scaling_includes_eta_min(no_model):
    made = few_gpus(SSD, 2, rule='linear').config
    assert made.optim_wrapper.optimizer.lr == pytest.approx(9e-4 / 4) and made.auto_scale_lr.base_batch_size == 32
    assert [s.get('eta_min') for s in made.param_scheduler] == [None, pytest.approx(1e-6 / 4)]
    ratio = rates_of(made, 100 * EPOCH)[-1] / rates_of(read(SSD), 100 * EPOCH)[-1]
    assert ratio == pytest.approx(0.25, rel=1e-3)


def test_published_batch(tmp_path):
    assert published_batch(SEG) == published_batch(CONFIGS / 'upernet_hornet_ade20k.py') == published_batch(DET) == 16
    assert published_batch(CLS) == 4096
    assert published_batch('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py') == 16
    assert published_batch('mmseg::beit/beit-large_upernet_8xb1-amp-160k_ade20k-640x640.py') == 16  # accumulates 2
    (tmp_path / 'mine.py').write_text("_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'\n")
    assert published_batch(tmp_path / 'mine.py') == 16


def test_batch_norm_notes(no_model):
    cfg = read(DET)
    assert count_batch_norms(cfg) == (0, 0) and cfg.to_dict() == read(DET).to_dict()  # a detector's constructor modifies its config
    assert count_batch_norms(read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')) == (0, 0)  # frozen
    norms, synced = count_batch_norms(read(SEG))
    assert norms == 0 and synced > 5
    cfg = read(SEG)
    (statistics, running) = batch_norm_notes(cfg, Split(8, 2, 1, 16), Split(2, 2, 4, 16))
    assert statistics == f'{synced} SyncBN layers: statistics of 4 images at a time, 16 before.' and 'Running averages' in running
    (statistics,) = batch_norm_notes(cfg, Split(8, 2, 1, 16), Split(1, 1, 1, 1))
    assert 'statistics of 1 image at a time' in statistics
    affnet = Config.fromfile(next((CONFIGS / 'cls/affnet').glob('affnet-et*.py')))
    assert affnet.sync_bn == 'torch' and count_batch_norms(affnet)[0] == 0
    affnet.sync_bn = None
    (statistics, running) = batch_norm_notes(affnet, Split(8, 128, 1, 1024), Split(8, 64, 2, 1024))
    assert 'BatchNorm layers: statistics of 64 images at a time, 128 before.' in statistics


def test_a_model_that_cannot_be_built_gives_a_note():
    cfg = Config(dict(model=dict(type='NoSuchModel')))
    (note,) = batch_norm_notes(cfg, Split(8, 2, 1, 16), Split(2, 2, 4, 16))
    assert note.startswith('The model could not be built here (KeyError: ')


def test_mixup_of_single_images_gives_a_note(no_model):
    assert few_gpus(CLS, 32, 1).notes == ['Mixup and CutMix mix the images of one GPU: with 1 image they have no effect.']
    assert few_gpus(CLS, 32, 2).notes == []


def leaf(path, *lines):
    path.write_text('\n'.join([f"_base_ = '{SEG}'", *lines]) + '\n')
    return path


def test_auto_scale_lr_is_turned_off(tmp_path, no_model):
    file = leaf(tmp_path / 'scaled.py', 'auto_scale_lr = dict(enable=True, base_batch_size=16)')
    made = few_gpus(file, 2)
    assert made.config.auto_scale_lr == dict(enable=False, base_batch_size=16) and 'auto_scale_lr is off' in made.notes[0]


@pytest.mark.parametrize(
    ('arguments', 'facts'),
    [
        (
            dict(gpus=3),
            ('16 images', '3 GPUs x 2 images = 6', '1, 2, 4, 8, 16'),
        ),
        (dict(gpus=4, images=3), ('4 GPUs x 3 images = 12', '--images', '1, 2, 4', '--scale-lr linear')),
        (dict(gpus=8, images=4), ('8 GPUs x 4 images = 32', '--images', '1, 2;')),
        (dict(gpus=8), ('8 GPUs x 2 images',)),
        (dict(gpus=4, images=4, rule='linear'), ('4 GPUs x 4 images', '16 images', '--scale-lr')),
        (dict(gpus=0), ('GPUS', '0')),
        (dict(gpus=2, images=-1), ('--images', '-1')),
        (dict(gpus=2, out=Path('new_8xb2.py')), ('new_8xb2.py', '2xb2')),
    ],
)
def test_invalid_arguments_are_refused(arguments, facts, no_model):
    with pytest.raises(UserError) as error:
        few_gpus(SEG, **arguments)
    assert all(fact in str(error.value) for fact in facts), error.value


@pytest.mark.parametrize(
    ('name', 'lines', 'facts'),
    [
        ('my_4xb4.py', [], ('train_dataloader.batch_size=2', '4xb4', '--batch')),
        (
            'my_4xb2.py',
            ['auto_scale_lr = dict(base_batch_size=16)'],
            ('base_batch_size=16', '4 GPUs x 2 images = 8'),
        ),
        ('my.py', ['train_dataloader = dict(_delete_=True)'], ('train_dataloader',)),
        ('my.py', ['optim_wrapper = dict(_delete_=True, a=dict(), b=dict())'], ('one optimizer',)),
        (
            'my.py',
            ["optim_wrapper = dict(type='DeepSpeedOptimWrapper')"],
            ("'DeepSpeedOptimWrapper'", 'AmpOptimWrapper'),
        ),
    ],
)
def test_unsupported_configs_are_refused(name, lines, facts, tmp_path, no_model):
    with pytest.raises(UserError) as error:
        few_gpus(leaf(tmp_path / name, *lines), 1)
    assert all(fact in str(error.value) for fact in facts), error.value


def test_an_unknown_batch_can_be_an_argument(tmp_path, no_model):
    read(SEG).dump(tmp_path / 'flat.py')
    with pytest.raises(UserError, match=r'images .*<gpus>xb<images>.* --batch'):
        few_gpus(tmp_path / 'flat.py', 1)
    made = few_gpus(tmp_path / 'flat.py', 1, batch=16)
    assert made.config.optim_wrapper.accumulative_counts == 8 and made.config.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize('name', ['none.py', 'mmdet::none.py', 'mmdet::none/none.py', 'nothing::a/b.py'])
def test_configs_that_do_not_exist(name):
    with pytest.raises(UserError, match=re.escape(name.rpartition('/')[2])):
        few_gpus(name, 2)
