"""A sample of images and labels, read as the config's pipeline reads them."""

import copy

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from mmfreq.engine.errors import InputError
from mmfreq.engine.input_guard import check_labels
from mmfreq.engine.machine import type_name
from mmfreq.engine.sample_guard import GuardedPipeline

LOOKED_AT = 32  # pairs, evenly spaced


def check_sample(cfg, key, leaf, samples, report):
    """Read some of the pairs with the `Load*` steps of a data set's pipeline, and compare their labels with the head.

    What is looked at in each is told in `sample_checks`, and in `check_labels`.

    Raises:
        InputError: with what is wrong with the first, and the number of those that are wrong.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('Load')]
    if not steps:
        return
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps))
    num_classes, ignore_index = _range_of(cfg)
    picked = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, LOOKED_AT).round().astype(int))]
    faults, labelled = [], []
    for sample in picked:
        try:
            loaded = pipeline(copy.deepcopy(sample))
            labels = None if loaded is None else loaded.get('gt_seg_map')
            if labels is not None:
                if num_classes:
                    check_labels(torch.from_numpy(labels.astype(np.int64)), num_classes, ignore_index, sample['seg_map_path'])
                labelled.append(bool((labels != ignore_index).any()))
        except InputError as error:
            faults.append(error)
    if faults:
        more = f'\nSo {len(faults)} of the {len(picked)} pairs that were looked at.' if len(faults) > 1 else ''
        raise InputError(f'{key}: {faults[0]}{more}') from faults[0]
    if labelled and not any(labelled):
        report.warnings.append(
            f'{key}: all pixels of the {len(labelled)} labels that were looked at are ignored ({ignore_index}), so that nothing '
            'would '
            'be learnt. Are these the labels, and is reduce_zero_label right?'
        )


def _range_of(cfg):
    """(num_classes, ignore_index) of the last head; num_classes None where it states none."""
    model = cfg.model.get('module') or cfg.model
    head = model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    count = head.get('num_classes')
    if count == 1 and head.get('out_channels') == 1:
        count = 2  # one sigmoid map: background and the class
    return count, head.get('ignore_index', 255)
