"""Norms that see a single value per channel: torch refuses to train them, in the first iteration or in the last of an epoch.

This happens where a batch norm reads a map of 1x1, as in pooling branches (UPerNet, PSPNet, DeepLabv3), and a batch has one image.
A group norm with one channel per group fails in the same way. An instance norm fails on such a map with any number of images.
"""

import logging
import math

from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once, process_count
from mmfreq.preflight.data import first_names
from mmfreq.preflight.resources import batch_size, saved_bytes, training_crop

BATCH_NORM = nn.BatchNorm2d.__base__  # which mmengine's replacement of synchronized norms extends, too
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
IMAGES = 2  # of the forward pass that is watched: with one image it would fail
UNKNOWN_SIZE = (512, 512)  # if no step of the pipeline states a size: a map of 1x1 is then the result of pooling
SYNCED = ('SyncBatchNorm', 'NaiveSyncBatchNorm')  # the classes of torch and mmcv, and that of detectron2
FINITE = ('DefaultSampler', 'SequentialSampler')  # samplers whose last batch of an epoch has the rest of the images
BATCH_SAMPLERS = ('AspectRatioBatchSampler',)  # those that end an epoch with the rest, too


class BatchNormError(UserError):
    """A norm would see a single value per channel."""


def check_batch_norms(cfg, report, model, processes=None):
    """Refuse a run in which a norm in training mode sees a single value per channel.

    The forward pass of `resources.TrainingForward` is watched. Norms in parts that need labels, as in the second stage of
    detectors, and those after the first layer that does not run on fake tensors are not seen.

    Args:
        report: not used.
        model: in training mode, on the meta device; its synchronized batch norms are replaced.
        processes: of the run; by default those of the launcher. With several, the images of all count for synchronized norms.

    Raises:
        BatchNormError: batches have one image, or the last one of an epoch has; or an instance norm gets a map of 1x1.
    """
    if processes is None:
        processes = 1 if cfg.get('launcher', 'none') == 'none' else process_count()
    _check_instance_norms(cfg, model)
    images = batch_size(cfg)
    if images > 1 and not _ends_with_the_rest(cfg):
        return
    if processes > 1 and cfg.get('sync_bn'):
        return
    inputs = single_value_inputs(model, _image_size(cfg), synced_too=processes == 1)
    if not inputs:
        return
    if images == 1:
        found, remedy = 'train_dataloader.batch_size=1', 'Use 2 or more images per process (--images of tools/few_gpus.py)'
    else:
        length = _dataset_length(cfg)
        if length is None or not _ends_with_one(cfg, math.ceil(length / processes), images):
            return
        found = f'the last batch of an epoch has one image ({length} in all, train_dataloader.batch_size={images}'
        found += f', {processes} processes)' if processes > 1 else ')'
        remedy = 'Set train_dataloader.drop_last=True, or another batch_size'
    verb = 'gets an input of' if len(inputs) == 1 else 'get inputs such as'
    shape = inputs[min(inputs)]
    raise BatchNormError(
        f'Expected more than one value per channel for every norm in training, but {found}, and {first_names(inputs)} {verb} '
        f'{shape}. torch would stop with "Expected more than 1 value per channel when training". {remedy}; or give this part of '
        f"the model norm_cfg=dict(type='GN', num_groups={_groups(shape[1])}), or SyncBN in several processes, where the images of "
        'all count.'
    )


def _check_instance_norms(cfg, model):
    """Raise for instance norms that get a single value per channel and image."""
    names = [name for name, module in model.named_modules() if _is_instance_norm(module)]
    inputs = _watched_inputs(model, names, _image_size(cfg), lambda module, shape: math.prod(shape[2:]) == 1) if names else {}
    if inputs:
        shape = inputs[min(inputs)]
        raise BatchNormError(
            f'Expected more than one value per channel and image for every instance norm in training, but {first_names(inputs)} '
            f'{"gets an input of" if len(inputs) == 1 else "get inputs such as"} {shape}. torch would stop with "Expected '
            'more than 1 spatial element when training", with any number of images. Give this part of the model '
            f"norm_cfg=dict(type='GN', num_groups={_groups(shape[1])}), or use larger images if it does not pool them."
        )


def _is_instance_norm(module):
    return isinstance(module, INSTANCE_NORMS) and (module.training or not module.track_running_stats)


def single_value_inputs(model, size, synced_too=True):
    """{name of a norm in training mode: its input's shape} of those that get one value per channel of each image, for one image.

    Args:
        model: in training mode, on the meta device; its synchronized batch norms are replaced.
        size: (H, W) of the images.
        synced_too: whether to include synchronized batch norms.
    """
    skipped = {name for name, module in model.named_modules() if not synced_too and type(module).__name__ in SYNCED}
    model = revert_sync_batchnorm(model)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm) or _computes_statistics(module)]

    def is_single(module, shape):
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else shape[1]
        return math.prod(shape) // groups <= IMAGES

    return _watched_inputs(model, [name for name in norms if name not in skipped], size, is_single)


def _watched_inputs(model, names, size, is_found):
    """{name: input's shape, for one image} of the named modules for which `is_found(module, shape)` in a forward pass."""
    found, handles = {}, []

    def watch(name):
        def before(module, arguments):
            shape = tuple(arguments[0].shape)
            if is_found(module, shape):
                found[name] = (1, *shape[1:])

        return before

    modules = dict(model.named_modules())
    for name in names:
        handles.append(modules[name].register_forward_pre_hook(watch(name)))
    saved_bytes(model, IMAGES, size)
    for handle in handles:
        handle.remove()
    return found


def _computes_statistics(module):
    return isinstance(module, BATCH_NORM) and (module.training or module.running_mean is None)


def _image_size(cfg):
    """(H, W) of the images, padded as the data preprocessor does."""
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    divisor = preprocessor.get('pad_size_divisor') or preprocessor.get('size_divisor') or 1
    return tuple(math.ceil(side / divisor) * divisor for side in training_crop(cfg) or UNKNOWN_SIZE)


def _groups(channels):
    """The number of groups of a group norm with several channels per group: 32 if possible."""
    return math.gcd(32, max(channels // 2, 1))


def _ends_with_the_rest(cfg):
    """Whether the last batch of an epoch may have fewer images than the others."""
    loader = cfg.get('train_dataloader') or {}
    sampler, batches = loader.get('sampler') or {}, loader.get('batch_sampler')
    if loader.get('num_batch_per_epoch') or type_name(sampler.get('type', '')) not in FINITE:
        return False
    if batches:
        return type_name(batches.get('type', '')) in BATCH_SAMPLERS and not batches.get('drop_last')
    return not loader.get('drop_last')


def _ends_with_one(cfg, length, images):
    """Whether a process reaches a last batch of one image, with `length` images in an epoch."""
    iterations = (cfg.get('train_cfg') or {}).get('max_iters')
    return length % images == 1 and (iterations is None or iterations > length // images)


def _dataset_length(cfg):
    """Number of images in an epoch of the training dataset; None if it cannot be built."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), logging_disabled(logging.WARNING):
        try:
            dataset = DATASETS.build(_without_pipelines(cfg.train_dataloader.dataset))
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
            return len(dataset)
        except Exception as error:  # the Runner builds the dataset again and then shows where it fails
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    log_once(f'The last batch of an epoch is not checked, as the dataset cannot be built: {reason}', level=logging.DEBUG)
    return None


def _without_pipelines(node):
    """A copy of a dataset's config with empty pipelines, which nothing is read with."""
    if isinstance(node, dict):
        return {key: [] if key == 'pipeline' else _without_pipelines(value) for key, value in node.items()}
    return [_without_pipelines(value) for value in node] if isinstance(node, list) else node
