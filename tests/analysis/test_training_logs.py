"""Logs of several runs are joined, and keys are found by names, short names and globs."""

import json

import numpy as np
import pytest

from mmfreq.analysis.training_logs import Curve, best, choose_keys, read_log, short_names


def write_run(work_dir, time, *records, tail=''):
    file = work_dir / time / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, records)) + '\n' + tail)


def step(number, loss, **more):
    return {'loss': loss, 'lr': 0.1 / number, 'time': 0.5, 'iter': number, 'step': number, **more}


def score(number, miou):
    return {'mIoU': miou, 'time': 0.1, 'step': number}


def points(curve):
    return list(zip(curve.steps.tolist(), curve.values.tolist()))


def test_log_of_one_run(tmp_path):
    write_run(tmp_path, '20260101_000000', step(10, 2.0), step(20, 1.0), score(20, 40.0))
    log = read_log(tmp_path)
    assert log.runs == 1 and points(log.curves['loss']) == [(10, 2.0), (20, 1.0)]
    assert points(log.curves['mIoU']) == [(20, 40.0)] and log.curves['mIoU'].validated
    assert not log.curves['loss'].validated and set(log.curves) == {'loss', 'lr', 'time', 'mIoU'}
    assert points(log.curves['time']) == [(10, 0.5), (20, 0.5)]  # of training only
    assert read_log(tmp_path / '20260101_000000').curves.keys() == log.curves.keys()


def test_resumed_run_replaces_the_records_from_its_first_step(tmp_path):
    write_run(tmp_path, '20260102_000000', step(30, 7.0), step(40, 6.0), score(40, 50.0))
    write_run(tmp_path, '20260101_000000', step(10, 9.0), step(20, 8.0), score(20, 40.0), step(30, 7.5), step(35, 7.4))
    write_run(tmp_path, '20260103_000000')  # stopped before its first record
    log = read_log(tmp_path)
    assert log.runs == 2
    assert points(log.curves['loss']) == [(10, 9.0), (20, 8.0), (30, 7.0), (40, 6.0)]
    assert points(log.curves['mIoU']) == [(20, 40.0), (40, 50.0)]


def test_run_from_scratch_replaces_the_earlier_one(tmp_path):
    write_run(tmp_path, '1', step(10, 9.0), step(20, 8.0))
    write_run(tmp_path, '2', step(10, 5.0))
    assert points(read_log(tmp_path).curves['loss']) == [(10, 5.0)]


def test_validations_counted_in_epochs_get_their_iterations(tmp_path):
    records = [step(25, 2.0, epoch=1), {'coco/bbox_mAP': 0.1, 'step': 1}, step(50, 1.0, epoch=2), {'coco/bbox_mAP': 0.2, 'step': 2}]
    write_run(tmp_path, '1', *records)
    assert points(read_log(tmp_path).curves['coco/bbox_mAP']) == [(25, 0.1), (50, 0.2)]


def test_incomplete_last_line_is_skipped_and_error_names_another_broken_line(tmp_path):
    write_run(tmp_path, '1', step(10, 2.0), tail='{"loss": 1.')
    assert points(read_log(tmp_path).curves['loss']) == [(10, 2.0)]
    write_run(tmp_path / 'other', '1', step(10, 2.0), tail='{"loss": 1.\n' + json.dumps(step(10, 1.0)))
    with pytest.raises(ValueError, match=r'Line 2 of .*scalars\.json is not JSON'):
        read_log(tmp_path / 'other')


def test_error_lists_the_content_of_a_folder_without_logs(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone'):
        read_log(tmp_path / 'gone')
    with pytest.raises(FileNotFoundError, match='nothing'):
        read_log(tmp_path)
    write_run(tmp_path / 'run', '1', step(10, 2.0))
    with pytest.raises(FileNotFoundError, match=r'contains work directories.* run\b'):
        read_log(tmp_path)
    write_run(tmp_path / 'empty', '1')
    with pytest.raises(ValueError, match='are empty'):
        read_log(tmp_path / 'empty')


@pytest.fixture
def logs(tmp_path):
    write_run(tmp_path / 'seg', '1', step(10, 2.0, **{'decode.loss_ce': 1.0, 'decode.acc_seg': 50.0}), score(10, 40.0))
    write_run(tmp_path / 'det', '1', step(10, 2.0), {'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2, 'step': 10})
    return [read_log(tmp_path / name) for name in ('seg', 'det')]


def test_keys_are_chosen_by_name_short_name_and_glob(logs):
    assert choose_keys(logs) == ['loss', 'lr', 'mIoU', 'coco/bbox_mAP']
    assert choose_keys(logs, ['bbox_mAP', 'decode.*', 'loss']) == ['coco/bbox_mAP', 'decode.acc_seg', 'decode.loss_ce', 'loss']
    assert choose_keys(logs, ['mIoU', 'mI*']) == ['mIoU']
    with pytest.raises(ValueError, match=r"no key 'mIou' in the logs; nearest: mIoU.*; there are .*coco/bbox_mAP_50"):
        choose_keys(logs, ['mIou'])


def test_all_scores_are_chosen_if_none_is_a_default_one(tmp_path):
    write_run(tmp_path, '1', step(10, 2.0), {'boundary/F1': 0.5, 'time': 1.0, 'step': 10})
    assert choose_keys([read_log(tmp_path)]) == ['loss', 'lr', 'boundary/F1']


def test_best_value_of_losses_scores_and_accuracies():
    steps, values = np.array([1, 2, 3, 4]), np.array([3.0, 1.0, np.nan, 1.0])
    assert best(Curve(steps, values), 'decode.loss_ce') == (2, 1.0)
    assert best(Curve(steps, values, True), 'coco/bbox_mAP') == (1, 3.0)
    assert best(Curve(steps, values), 'decode.acc_seg') == (1, 3.0)
    assert best(Curve(steps, values), 'lr') is None and best(Curve(steps, values * np.nan), 'loss') is None


def test_short_names_are_as_long_as_necessary(tmp_path):
    assert short_names([tmp_path / 'a' / 'run', tmp_path / 'b' / 'run']) == ['a/run', 'b/run']
    assert short_names([tmp_path / 'a', tmp_path / 'b']) == ['a', 'b']
    assert short_names([tmp_path / 'a']) == ['a']
