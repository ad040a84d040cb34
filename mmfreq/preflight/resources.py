"""Disk space for the checkpoints of a run, and memory for one iteration.

Both are estimated from the model on the meta device. The memory is a lower bound: it counts parameters, gradients, optimizer
states, the copy of EMA, and what autograd saves for one batch at the training crop (half of it in mixed precision). It does not
count the losses of detectors and their second stage, scratch space, gradients of activations, the CUDA context or fragmentation.
"""

import logging
import math
import os
import shutil
from pathlib import Path

import torch
from mmengine.model.utils import revert_sync_batchnorm
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.preflight.data import leaf_datasets
from mmfreq.preflight.report import size_text

# optimizer -> tensors of a parameter's shape that it keeps; for others none is counted
STATES = {
    **dict.fromkeys(('Adam', 'AdamW', 'NAdam', 'RAdam', 'Adamax', 'LAMB', 'Lamb', 'AdaBelief', 'Adan', 'AdamW8bit'), 2),
    **dict.fromkeys(('Adagrad', 'RMSprop', 'Lion', 'ASGD'), 1),
}
MEMORY_EFFICIENT = 0.4  # the smallest share of its saved memory that a model was measured to keep: docs/performance.md
TRIED = (2, 4)  # images of the forward pass that is measured, at least and at most: batch norms need more than one


class DiskError(UserError):
    """The file system of the work directory has no room for checkpoints."""


class DeviceMemoryError(UserError):
    """One iteration needs more memory than the device has."""


def check_disk(cfg, report, model):
    """Compare the checkpoints that a run keeps with the free space of their folder.

    Checkpoints that are already in the work directory count as free space, as a resumed run replaces them.

    Raises:
        DiskError: less than two checkpoints fit.
    """
    hook = _hook(cfg, 'CheckpointHook')
    if hook is None or is_remote(str(hook.get('out_dir') or '')):
        return
    size, kept = checkpoint_bytes(cfg, model), checkpoints_kept(cfg, hook)
    save_best = hook.get('save_best')
    best = len(save_best) if isinstance(save_best, (list, tuple)) else int(bool(save_best))
    folder = absolute(hook.get('out_dir') or cfg.work_dir)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    fact = f'{size_text(size)} each; {size_text(free)} free at {folder}'
    report.facts['checkpoints'] = fact if kept is None else f'{kept + best} checkpoints, {size_text((kept + best) * size)}: {fact}'
    room = free + sum(path.stat().st_size for path in Path(folder).glob('*.pth'))
    remedy = (
        'Free some space, choose another --work-dir, or keep fewer checkpoints: --cfg-options '
        'default_hooks.checkpoint.max_keep_ckpts=2 (the latest two), or a larger default_hooks.checkpoint.interval.'
    )
    if room < 2 * size:
        raise DiskError(
            f'Expected room for two checkpoints of {size_text(size)}, as a new one is written before an old one is deleted, but '
            f'{folder} has {size_text(free)} free. {remedy}'
        )
    if kept is not None and room < (kept + best) * size:
        report.warnings.append(
            f'The disk will be full before the end of training: interval={hook.get("interval", -1)}, '
            f'max_keep_ckpts={hook.get("max_keep_ckpts", -1)} makes {kept} checkpoints'
            f'{f" and {best} best" if best else ""} of {size_text(size)}, together {size_text((kept + best) * size)}, but '
            f'{folder} has {size_text(free)} free. {remedy}'
        )


def checkpoint_bytes(cfg, model):
    """Bytes of one checkpoint: parameters and buffers, twice with EMA, and the states of the optimizer."""
    state = sum(tensor.nbytes for tensor in model.state_dict().values())
    copies = 2 if _hook(cfg, 'EMAHook') is not None else 1
    saves_optimizer = (_hook(cfg, 'CheckpointHook') or {}).get('save_optimizer', True)
    return copies * state + (optimizer_bytes(cfg, model) if saves_optimizer else 0)


def optimizer_bytes(cfg, model):
    """Bytes of the optimizer's states; 0 for an optimizer that is not in `STATES`."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    name = type_name(optimizer.get('type', ''))
    states = int(bool(optimizer.get('momentum'))) if name == 'SGD' else STATES.get(name, 0) + bool(optimizer.get('amsgrad'))
    return states * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def checkpoints_kept(cfg, hook):
    """Number of checkpoints at the end of the run, without the best ones; None if the schedule does not state its length."""
    interval, limit = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    length = (cfg.get('train_cfg') or {}).get('max_epochs' if hook.get('by_epoch', True) else 'max_iters')
    if limit > 0:
        return limit
    if interval <= 0:
        return 1
    return None if length is None else math.ceil(max(length - hook.get('save_begin', 0), interval) / interval)


def _hook(cfg, name):
    """The config of a default or custom hook by its bare name; None if there is none."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return next((hook for hook in hooks if isinstance(hook, dict) and type_name(hook.get('type', '')) == name), None)


def check_memory(cfg, report, model):
    """Compare a lower bound of the memory of one iteration with the memory of the device.

    Raises:
        DeviceMemoryError: the device has less in total. If only its free memory is too small, the report has a warning.
    """
    needed = least_bytes(cfg, model)
    if needed is None:
        reason = 'the model does not run on fake tensors' if training_crop(cfg) else 'no step of the pipeline states a size'
        report.facts['memory'] = f'not estimated, as {reason}'
        return
    total, free, device = device_memory()
    processes = 1 if device.startswith('cuda') else int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    crop = training_crop(cfg)
    batch = f'a batch of {batch_size(cfg)} at {crop[0]}x{crop[1]}'
    each = f' in each of {processes} processes' if processes > 1 else ''
    report.facts['memory'] = f'at least {size_text(needed)} for {batch}{each}; {device} has {size_text(total)}'
    remedy = (
        'Use fewer images per GPU (train_dataloader.batch_size; tools/few_gpus.py keeps the total batch by accumulation), a '
        'smaller crop, --amp on a GPU, or model.backbone.memory_efficient=True or with_cp=True, which save less and compute more.'
    )
    if processes * needed > total:
        raise DeviceMemoryError(
            f'{batch[0].upper()}{batch[1:]} needs at least {size_text(needed)}{each} (a lower bound), but {device} has '
            f'{size_text(total)}. {remedy}'
        )
    if free is not None and processes * needed > free:
        report.warnings.append(
            f'{batch[0].upper()}{batch[1:]} needs at least {size_text(needed)} (a lower bound), but of the {size_text(total)} of '
            f'{device} only {size_text(free)} are free. End the process that holds the rest, or choose another device '
            f'(CUDA_VISIBLE_DEVICES). {remedy}'
        )


def least_bytes(cfg, model):
    """The lower bound in bytes; None if the crop is not known or the model does not run on fake tensors."""
    crop = training_crop(cfg)
    saved = None if crop is None else saved_bytes(model, batch_size(cfg), crop)
    if saved is None:
        return None
    if type_name((cfg.get('optim_wrapper') or {}).get('type', 'OptimWrapper')) == 'AmpOptimWrapper':
        saved //= 2
    if any(getattr(module, 'memory_efficient', False) for module in model.modules()):
        saved = int(saved * MEMORY_EFFICIENT)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    copies = 2 if _hook(cfg, 'EMAHook') is not None else 1
    return copies * weights + gradients + optimizer_bytes(cfg, model) + saved


def batch_size(cfg):
    """Images per iteration of one process."""
    return (cfg.get('train_dataloader') or {}).get('batch_size') or 1


def device_memory():
    """(total bytes, free bytes or None, name) of the device of this process; without a GPU the memory of the computer."""
    if torch.cuda.is_available():
        index = int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()
        free, total = torch.cuda.mem_get_info(index)
        return total, free, f'cuda:{index} ({torch.cuda.get_device_name(index)})'
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'), None, 'this computer'


def training_crop(cfg):
    """(H, W) of the smallest image that the training pipeline gives to the model; None if no step states a size.

    `size` of the data preprocessor, to which batches are padded, has priority. Otherwise it is the size of the last step that
    states one; of several scales the smallest counts. With `keep_ratio` an image counts as a square of the short side.
    """
    model = cfg.model.get('module') or cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    outer = (dataset or {}).get('pipeline') or []
    leaves = list(leaf_datasets(dataset, ''))
    inner = leaves[0][1].get('pipeline') or [] if leaves else []
    sizes = [size for step in (*inner, *outer) for size in _sizes(step)]
    return sizes[-1] if sizes else None


def _sizes(step):
    """Yield the (H, W) of one step's output, if it states it."""
    if step.get('transforms'):  # a choice of lists of steps: the smallest final size
        ends = []
        for branch in step['transforms']:
            found = [size for each in (branch if isinstance(branch, (list, tuple)) else [branch]) for size in _sizes(each)]
            ends += found[-1:]
        if ends:
            yield min(ends, key=lambda size: size[0] * size[1])
        return
    crop = step.get('crop_size')
    if crop:
        yield (crop, crop) if isinstance(crop, int) else tuple(crop)[:2]
        return
    scales = step.get('scales') or step.get('scale') or step.get('img_scale')
    if not scales:
        return
    scales = [scales] if not isinstance(scales, (list, tuple)) or isinstance(scales[0], (int, float)) else scales
    pairs = [(scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales]
    pairs = [pair for pair in pairs if len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)]
    if not pairs:
        return
    width, height = min(pairs, key=min)
    keeps_ratio = step.get('keep_ratio', 'Choice' in str(step.get('type')) or step.get('type') == 'RandomResize')
    yield (min(width, height),) * 2 if keeps_ratio else (height, width)


class TrainingForward(nn.Module):
    """The parts of a model that run without labels; a module, so that `functional_call` can replace its parameters.

    Segmentors: backbone, neck, all heads, and the cross entropy of each at the size of the image, which saves more memory than
    the head. Detectors: backbone, neck, and the heads that read whole feature maps. Others: `mode='tensor'`.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        model = self.model
        if hasattr(model, 'decode_head'):
            maps = model.extract_feat(images)
            heads = [model.decode_head, getattr(model, 'auxiliary_head', None)]
            heads = [each for head in heads if head is not None for each in (head if isinstance(head, nn.ModuleList) else [head])]
            return [_with_loss(head, head(maps), images) for head in heads]
        if hasattr(model, 'rpn_head') or hasattr(model, 'bbox_head'):
            maps = model.extract_feat(images)
            heads = [getattr(model, name) for name in ('rpn_head', 'bbox_head') if getattr(model, name, None) is not None]
            return [maps, *(head(maps) for head in heads)]
        return model(images, mode='tensor')


def _with_loss(head, logits, images):
    loss = getattr(head, 'loss_decode', None)
    softmax = type(loss).__name__ == 'CrossEntropyLoss' and not (loss.use_sigmoid or getattr(loss, 'use_mask', False))
    if not (softmax and torch.is_tensor(logits)):
        return logits
    logits = nn.functional.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    labels = torch.empty(len(images), *images.shape[-2:], dtype=torch.long)
    return nn.functional.cross_entropy(logits, labels, reduction='none')


def saved_bytes(model, batch, size):
    """Bytes of the distinct storages that autograd saves in a forward pass of `batch` images of `size` (H, W).

    The forward pass runs on fake tensors. Parameters, buffers and the images do not count; a view counts as its storage. What a
    custom Function holds outside of `save_for_backward` is not seen. For a batch of more than 4, the result of 4 images is
    scaled, including the little that does not depend on the batch, such as resized filters.

    Args:
        model: in training mode, on the meta device.

    Returns:
        None if the model does not run on fake tensors.
    """
    tried = min(max(batch, TRIED[0]), TRIED[1])
    storages = {}  # held until the end, so that no address is used twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    in_channels = getattr(getattr(model, 'backbone', None), 'in_channels', None)
    try:
        with logging_disabled(), FakeTensorMode(allow_non_fake_inputs=True):
            forward = TrainingForward(revert_sync_batchnorm(model))
            tensors = {f'model.{name}': _fake(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
            images = torch.empty(tried, in_channels if isinstance(in_channels, int) else 3, *size)
            with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
                outputs = torch.func.functional_call(forward, tensors, (images,))
            own = {tensor.untyped_storage()._cdata for tensor in [*tensors.values(), images]}
            del outputs
    except Exception as error:  # a layer of another library may do anything with a tensor without values
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        log_once(f'{type(model).__name__} does not run on fake tensors: {reason}', level=logging.DEBUG)
        return None
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own) * batch // tried


def _fake(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
