"""From a config file to a trained or tested model."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from mmfreq.engine.baseline import Comparison, evaluate_with_baseline
from mmfreq.engine.launch import GUARDS, STOP_HOOK, build_runner, evaluate, load_config, prepare_test, prepare_train, train
from mmfreq.errors import UserError


def test_default_work_dir(toy_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare_train(toy_config).work_dir == 'work_dirs/toy'
    assert prepare_train(toy_config, cfg_options={'work_dir': 'own'}).work_dir == 'own'
    assert prepare_train(toy_config, work_dir='given', cfg_options={'work_dir': 'own'}).work_dir == 'given'
    assert [path.name for path in tmp_path.iterdir()] == ['toy.py']  # preparing writes nothing


def test_hooks_are_added_once(toy_config, tmp_path):
    cfg = prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options={'custom_hooks': [{'type': GUARDS[0]}]})
    assert [hook['type'] for hook in cfg.custom_hooks] == [*GUARDS, STOP_HOOK]


def test_seed_and_options_reach_the_config(toy_config, tmp_path):
    cfg = prepare_train(toy_config, work_dir=tmp_path / 'w', seed=7, cfg_options={'randomness.deterministic': True})
    assert cfg.randomness.to_dict() == {'seed': 7, 'deterministic': True}


def test_missing_or_incomplete_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r'none\.py') as error:
        load_config('configs/none.py')
    assert str(tmp_path / 'configs/none.py') in str(error.value)
    (tmp_path / 'part.py').write_text('a = 1')
    with pytest.raises(UserError, match=r'part\.py.*`model`'):
        load_config('part.py')


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted_training(toy_config, trained, tmp_path):
    """Two and two iterations give the weights of four: optimizer, data order and counter are resumed."""
    at_once = train(toy_config, work_dir=tmp_path / 'four', cfg_options={'train_cfg.max_iters': 4})
    work_dir = shutil.copytree(trained, tmp_path / 'work')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    resumed = train(toy_config, work_dir=work_dir, resume='latest', cfg_options={'train_cfg.max_iters': 4})
    assert (at_once.iter, resumed.iter) == (4, 4)
    one, other = at_once.model.state_dict(), resumed.model.state_dict()
    start = torch.load(trained / 'iter_2.pth', weights_only=True)['state_dict']
    assert any(not torch.equal(one[name], start[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_sync_norms_are_replaced_on_cpu(toy_config, trained):
    cfg = prepare_train(toy_config, work_dir=trained)
    assert load_config(toy_config).model.decode_head.norm_cfg.type == 'SyncBN'
    assert cfg.model.decode_head.norm_cfg.type == 'BN'


@pytest.mark.slow
def test_written_label_maps_give_the_reported_ious(toy_config, toy_root, trained, tmp_path):
    """IoUs computed from the written label maps, in the dataset's own labels, equal the reported ones."""
    metrics, comparison = evaluate_with_baseline(
        toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w', out=tmp_path / 'out', show_dir=tmp_path / 'show'
    )
    truth = [cv2.imread(str(path), 0) for path in sorted((toy_root / 'annotations/validation').iterdir())]
    written = sorted((tmp_path / 'out').iterdir())
    found = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in written]
    assert [path.name for path in written] == ['val_00000.png', 'val_00001.png']
    truth, found = np.stack(truth), np.stack(found)
    truth, found = truth[truth > 0], found[truth > 0]
    both, either = ([op(truth == label, found == label).sum() for label in range(1, 7)] for op in (np.logical_and, np.logical_or))
    ious = 100 * np.divide(both, either, out=np.full(6, np.nan), where=np.array(either) > 0)
    np.testing.assert_allclose(comparison.iou, ious)
    assert abs(metrics['mIoU'] - np.nanmean(ious)) < 0.01
    shares = np.bincount(truth, minlength=7)[1:] / truth.size
    assert comparison.constant_miou == pytest.approx(100 * shares.max() / (shares > 0).sum())
    assert len(comparison.rows()) == 7 and comparison.summary().startswith(f'mIoU {np.nanmean(ious):.2f}, constant predictor ')
    drawn = [cv2.imread(str(path)).shape for path in (tmp_path / 'show').iterdir()]
    assert drawn == [(64, 2 * 64, 3)] * 2  # truth and prediction side by side


def test_format_of_the_summary_line():
    comparison = Comparison(('a', 'b', 'c'), np.array([80.0, 10.24, np.nan]), np.array([18.66, 0.0, np.nan]))
    assert comparison.summary() == 'mIoU 45.12, constant predictor 9.33, ratio 4.8'


def test_baseline_needs_a_segmentation_config(toy_config, trained):
    with pytest.raises(UserError, match=r"default_scope 'mmseg'.*'mmdet'"):
        evaluate_with_baseline(toy_config, trained / 'iter_2.pth', cfg_options={'default_scope': 'mmdet'})


def test_tta_is_equivariant_to_a_flip(toy_config, trained, tmp_path):
    """The prediction for a flipped image is the flipped prediction."""
    runner = build_runner(prepare_test(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w', tta=True))
    runner.load_or_resume()
    runner.model.eval()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)

    def predict(image):
        from mmseg.structures import SegDataSample

        shape = {'ori_shape': (64, 64), 'img_shape': (64, 64), 'flip_direction': 'horizontal', 'img_path': 'x'}
        samples = [[SegDataSample(metainfo={**shape, 'flip': flip})] for flip in (False, True)]
        with torch.no_grad():
            return runner.model.test_step({'inputs': [[image], [image.flip(-1)]], 'data_samples': samples})[0]

    one, other = (predict(view).pred_sem_seg.data for view in (image, image.flip(-1)))
    assert (one.flip(-1) == other).float().mean() > 0.999


@pytest.mark.slow
def test_tta_changes_the_metrics(toy_config, trained, tmp_path):
    plain = evaluate(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'a')
    tta = evaluate(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'b', tta=True)
    assert set(plain) == set(tta) == {'aAcc', 'mIoU', 'mAcc'}
    assert plain['aAcc'] != tta['aAcc']


class Watch(Hook):
    """Records the class of the model that is tested."""

    def after_test_iter(self, runner, *_, **__):
        self.tested = type(runner.model).__name__


@pytest.mark.parametrize(
    ('options', 'tested'),
    [
        ({}, 'OptimizedEncoderDecoder'),
        ({'tta': True}, 'OptimizedSegTTAModel'),
        ({'plain': True}, 'EncoderDecoder'),
        ({'cfg_options': {'compile_blocks.backend': 'eager'}}, 'EncoderDecoder'),
        ({'cfg_options': {'custom_hooks': [{'type': 'EMAHook'}]}}, 'OptimizedEncoderDecoder'),
    ],
)
def test_the_optimized_copy_is_tested_unless_plain(toy_config, trained, tmp_path, options, tested):
    runner, watch = build_runner(prepare_test(toy_config, trained / 'iter_2.pth', work_dir=tmp_path, **options)), Watch()
    runner.register_hook(watch)
    model, metrics = runner.model, runner.test()
    assert (watch.tested, runner.model) == (tested, model)
    if 'tta' not in options:
        assert metrics == pytest.approx(evaluate(toy_config, trained / 'iter_2.pth', work_dir=tmp_path, plain=True), abs=0.02)


@pytest.mark.parametrize('options', [True, {'backend': 'eager'}])
def test_compile_blocks_from_the_config(toy_config, trained, tmp_path, options, monkeypatch):
    found = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: found.append((type(self).__name__, options)))
    cfg = prepare_train(toy_config, work_dir=tmp_path / 'w', cfg_options={'compile_blocks': options})
    build_runner(cfg)
    assert found == 5 * [('HorNetBlock', {'dynamic': False} | ({} if options is True else options))]


@pytest.mark.parametrize('name', ['tta_model', 'tta_pipeline'])
def test_tta_needs_its_config_fields(toy_config, trained, tmp_path, name):
    with pytest.raises(UserError, match=name):
        prepare_test(toy_config, trained / 'iter_2.pth', tta=True, cfg_options={name: None})


def test_detection_and_classification_options(toy_config, trained, tmp_path):
    options = {'default_scope': 'mmdet', 'test_evaluator': {'_delete_': True, 'type': 'CocoMetric'}}
    paths = {'out': tmp_path / 'out', 'show_dir': tmp_path / 'show'}
    cfg = prepare_test(toy_config, trained / 'iter_2.pth', cfg_options=options, **paths)
    assert [metric['type'] for metric in cfg.test_evaluator] == ['CocoMetric', 'DumpDetResults']
    assert cfg.test_evaluator[0]['outfile_prefix'] == str(tmp_path / 'out' / 'results')
    assert cfg.default_hooks.visualization.test_out_dir == str(tmp_path / 'show')
    options = {'default_scope': 'mmpretrain', 'test_evaluator': [{'type': 'Accuracy'}]}
    cfg = prepare_test(toy_config, trained / 'iter_2.pth', cfg_options=options, **paths)
    assert [metric['type'] for metric in cfg.test_evaluator] == ['Accuracy', 'DumpResults']
    assert cfg.default_hooks.visualization.out_dir == str(tmp_path / 'show')


def test_out_needs_a_metric_and_show_dir_needs_a_hook(toy_config, trained, tmp_path):
    other = {'test_evaluator': {'_delete_': True, 'type': 'DepthMetric'}}
    with pytest.raises(UserError, match='DepthMetric'):
        prepare_test(toy_config, trained / 'iter_2.pth', out=tmp_path, cfg_options=other)
    with pytest.raises(UserError, match=r'default_hooks\.visualization'):
        prepare_test(toy_config, trained / 'iter_2.pth', show_dir=tmp_path, cfg_options={'default_hooks.visualization': None})
