"""All checks together: errors, log, ranks and run time."""

import json
import logging
import os
import re
import time

import cv2
import numpy as np
import pytest
import torch

from mmfreq.engine.launch import prepare_train
from mmfreq.preflight import PreflightError, Report, check_run
from mmfreq.preflight import run as checks
from mmfreq.testing.toy_segmentation import write_toy_config


def test_several_errors_are_raised_together(cfg, tmp_path):
    torch.save({'state_dict': {'layer1.0.conv1.weight': torch.ones(1)}}, tmp_path / 'resnet.pth')
    cfg.load_from = str(tmp_path / 'resnet.pth')
    cfg.train_dataloader.dataset.data_prefix.seg_map_path = 'images/training'
    with pytest.raises(PreflightError) as error:
        check_run(cfg)
    message = str(error.value)
    assert message.startswith('2 ') and '1. ' in message and 'resnet.pth' in message
    assert '2. ' in message and 'train_dataloader.dataset' in message and '8 of the 8 images' in message


def test_a_single_error_keeps_its_type(cfg):
    cfg.train_dataloader.dataset.data_prefix.seg_map_path = 'images/training'
    with pytest.raises(Exception, match='8 of the 8 images') as error:
        check_run(cfg)
    assert type(error.value).__name__ == 'DataError'


def test_checks_are_logged_with_their_times(cfg, monkeypatch):
    messages = []
    monkeypatch.setattr(checks, 'log_once', lambda message, level=logging.INFO: messages.append((level, message)))
    report = Report()
    check_run(cfg, report)
    level, last = messages[-1]
    count = int(re.search(r'\b(\d+) checks.*\d+\.\d s\b', last)[1])
    assert level == logging.INFO and count >= 8 and 'warning' not in last
    times = [message for level, message in messages if level == logging.DEBUG and ' took ' in message]
    assert len(times) == count and any('check_pairs took' in message for message in times)
    assert {'versions', 'checkpoints', 'memory'} <= set(report.facts) and len(report.data) == 2


@pytest.mark.parametrize('variable', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_other_ranks_check_only_the_paths(cfg, monkeypatch, variable):
    monkeypatch.setenv(variable, '1')
    cfg.train_dataloader.dataset.data_prefix.seg_map_path = 'images/training'
    report = Report()
    check_run(cfg, report)
    assert report == Report()
    cfg.train_dataloader.dataset.data_root = '/gone'
    with pytest.raises(Exception, match=r"data_root='/gone'"):
        check_run(cfg, report)


def test_a_model_that_cannot_be_built_is_left_to_the_runner(cfg):
    cfg.model.backbone.arch = 'hornet-mikro'
    report = Report()
    check_run(cfg, report)
    assert 'memory' not in report.facts and len(report.data) == 2


@pytest.mark.slow
def test_a_dataset_of_the_size_of_ade20k_takes_seconds(cfg, tmp_path):
    """20210 + 2000 pairs of tiny images; only the checks are timed."""
    image, labels = (
        cv2.imencode(suffix, np.ones(size, np.uint8))[1].tobytes() for suffix, size in (('.jpg', (4, 4, 3)), ('.png', (4, 4)))
    )
    for split, count in (('training', 20210), ('validation', 2000)):
        for name, suffix, content in (('images', '.jpg', image), ('annotations', '.png', labels)):
            folder = tmp_path / 'data' / name / split
            folder.mkdir(parents=True)
            (tmp_path / f'one{suffix}').write_bytes(content)
            for index in range(count):
                os.link(tmp_path / f'one{suffix}', folder / f'ADE_{index:08d}{suffix}')
    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'data')
    check_run(cfg, Report())  # imports what the checks need
    start = time.process_time()
    report = Report()
    prepare_train(config, work_dir=tmp_path / 'w', report=report)
    took = time.process_time() - start
    print(f'all checks of 22210 pairs: {took:.2f} s')
    assert report.data['train_dataloader.dataset'].total == 20210 and took < 10


@pytest.mark.slow
def test_a_coco_file_of_100000_annotations_takes_seconds(tmp_path, detection, write_coco):
    from mmfreq.preflight.coco import check_coco

    def grow(table):
        table['images'] = [{**table['images'][0], 'id': index} for index in range(20000)]
        table['annotations'] = [{**table['annotations'][0], 'id': index, 'image_id': index // 5} for index in range(100000)]

    cfg = detection(write_coco(grow))
    size = (tmp_path / 'train.json').stat().st_size
    start = time.process_time()
    check_coco(cfg, Report(), ('train_dataloader', 'val_dataloader'))
    took = time.process_time() - start
    start = time.process_time()
    json.loads((tmp_path / 'train.json').read_text())
    print(f'{size / 1e6:.0f} MB: {took:.2f} s, of which reading takes {time.process_time() - start:.2f} s')
    assert took < 10
