"""What autograd keeps of one batch of training, found by a forward pass in which tensors are shapes alone."""

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
from torch.utils._python_dispatch import TorchDispatchMode

from mmfreq.config.meta_model import logging_disabled
from mmfreq.config.reading import absolute, is_remote, type_name
from mmfreq.errors import UserError
from mmfreq.log import log_once
from mmfreq.preflight.paths import training_crop
from mmfreq.preflight.report import size_text

TRIED = (2, 4)  # images, least and most: batch norms want more than one; of a large batch our operators would run many pieces


class Ones(TorchDispatchMode):
    """Every number that is read from a tensor is 1: StarReLU reads its factor, and a shape alone has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return func(*args, **(kwargs or {}))


class TrainingForward(nn.Module):
    """What of a model runs without labels; a module, so that its parameters can be replaced for one call.

    Segmentors: backbone, neck, every head, and the cross entropy of each at the size of the image, which weighs more than the
    head. Detectors: backbone, neck, and the heads that look at whole maps. Others: `mode='tensor'`.
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


def saved_bytes(model, batch, size):
    """Bytes of the distinct storages that autograd saves in a forward pass of `batch` images of `size` (H, W).

    Parameters, buffers and the images do not count; a view counts as the storage that it keeps alive. What a custom Function holds
    beside `save_for_backward` is not seen. Of a batch of more than 4 a part is run and multiplied, with the little in it that
    is the same for any batch, such as resized filters.

    Args:
        model: in training mode, on the meta device.

    Returns:
        None where the model does not run on shapes alone.
    """
    tried = min(max(batch, TRIED[0]), TRIED[1])
    storages = {}  # held until the end, so that no address is given out twice

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    try:
        with logging_disabled(), FakeTensorMode(allow_non_fake_inputs=True), Ones():
            forward = TrainingForward(revert_sync_batchnorm(model))
            tensors = {f'model.{name}': _fake(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
            images = torch.empty(tried, _channels(model), *size)
            with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
                outputs = torch.func.functional_call(forward, tensors, (images,))
            own = {tensor.untyped_storage()._cdata for tensor in [*tensors.values(), images]}
            del outputs
    except Exception as error:  # whatever a foreign layer makes of tensors without values
        told = f'{type(error).__name__}: {error}'.splitlines()[0]
        log_once(f'{type(model).__name__} does not run on shapes alone: {told}', level=logging.DEBUG)
        return None
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own) * batch // tried


def _with_loss(head, logits, images):
    loss = getattr(head, 'loss_decode', None)
    softmax = type(loss).__name__ == 'CrossEntropyLoss' and not (loss.use_sigmoid or getattr(loss, 'use_mask', False))
    if not (softmax and torch.is_tensor(logits)):
        return logits
    logits = nn.functional.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=head.align_corners)
    labels = torch.empty(len(images), *images.shape[-2:], dtype=torch.long)
    return nn.functional.cross_entropy(logits, labels, reduction='none')


def _channels(model):
    stated = getattr(getattr(model, 'backbone', None), 'in_channels', None)
    return stated if isinstance(stated, int) else 3


def _fake(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)


# Is there room for the checkpoints of a run?


# tensors of a parameter's shape that an optimizer keeps for it; where a name is not here, none is counted
STATES = {
    **dict.fromkeys(('Adam', 'AdamW', 'NAdam', 'RAdam', 'Adamax', 'LAMB', 'Lamb', 'AdaBelief', 'Adan', 'AdamW8bit'), 2),
    **dict.fromkeys(('Adagrad', 'RMSprop', 'Lion', 'ASGD'), 1),
}


class DiskError(UserError):
    """The file system of the work directory has no room for checkpoints."""


def check_disk(cfg, report, model):
    """Compare the checkpoints that a run will keep with the free space where they go.

    What the work directory holds already counts as room, as resuming goes on in it.

    Raises:
        DiskError: not even two checkpoints fit.
    """
    hook = _hook(cfg, 'CheckpointHook')
    if hook is None or is_remote(str(hook.get('out_dir') or '')):
        return
    size, kept, best = checkpoint_bytes(cfg, model), checkpoints_kept(cfg, hook), _best(hook)
    folder = absolute(hook.get('out_dir') or cfg.work_dir)
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    count = '' if kept is None else f'{kept + best} checkpoints'
    fact = f'{size_text(size)} each; {size_text(free)} free at {folder}'
    report.facts['checkpoints'] = f'{count}, {size_text((kept + best) * size)}: {fact}' if count else fact
    room = free + sum(path.stat().st_size for path in Path(folder).glob('*.pth'))
    remedy = (
        'Free some space, choose another --work-dir, or keep fewer: --cfg-options default_hooks.checkpoint.max_keep_ckpts=2 '
        '(the latest two), or a larger default_hooks.checkpoint.interval.'
    )
    if room < 2 * size:
        raise DiskError(
            f'{folder} has {size_text(free)} free, and a checkpoint takes {size_text(size)}: two must fit, as a new one is written '
            f'before an old one goes. {remedy}'
        )
    if kept is not None and room < (kept + best) * size:
        report.warnings.append(
            f'The disk will be full before the end: interval={hook.get("interval", -1)}, '
            f'max_keep_ckpts={hook.get("max_keep_ckpts", -1)} makes {kept} checkpoints'
            f'{f" and {best} best" if best else ""} of {size_text(size)}, together {size_text((kept + best) * size)}, and '
            f'{folder} has '
            f'{size_text(free)} free. {remedy}'
        )


def checkpoint_bytes(cfg, model):
    """Bytes of one checkpoint: parameters and buffers, once more with EMA, and the optimizer's states of what is trained."""
    state = sum(tensor.nbytes for tensor in model.state_dict().values())
    copies = 2 if _hook(cfg, 'EMAHook') is not None else 1
    saves_optimizer = (_hook(cfg, 'CheckpointHook') or {}).get('save_optimizer', True)
    return copies * state + (optimizer_bytes(cfg, model) if saves_optimizer else 0)


def optimizer_bytes(cfg, model):
    """Bytes of the optimizer's states; none where its kind is not known."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = type_name(optimizer.get('type', ''))
    states = int(bool(optimizer.get('momentum'))) if kind == 'SGD' else STATES.get(kind, 0) + bool(optimizer.get('amsgrad'))
    return states * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def checkpoints_kept(cfg, hook):
    """How many checkpoints lie there at the end, without the best ones; None where the schedule does not say."""
    interval, limit = hook.get('interval', -1), hook.get('max_keep_ckpts', -1)
    length = (cfg.get('train_cfg') or {}).get('max_epochs' if hook.get('by_epoch', True) else 'max_iters')
    if limit > 0:
        return limit
    if interval <= 0:
        return 1
    return None if length is None else math.ceil(max(length - hook.get('save_begin', 0), interval) / interval)


def _best(hook):
    best = hook.get('save_best')
    return len(best) if isinstance(best, (list, tuple)) else int(bool(best))


def _hook(cfg, name):
    """The config of a default or custom hook by its bare name; None if there is none."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return next((hook for hook in hooks if isinstance(hook, dict) and type_name(hook.get('type', '')) == name), None)


# Does one iteration fit into the device? A lower bound: what is counted must be there, and there is more that is not.
#
# Counted: parameters, their gradients, the optimizer's states, the copy of EMA, and what autograd keeps of one batch at the
# training crop (see `activations`; half of it with mixed precision). Not counted: the losses of detectors and what their
# second stage
# keeps, scratch space of convolutions and transforms, the gradients of activations, the CUDA context, what fragments.


EMA = 'EMAHook'
MEMORY_EFFICIENT = 0.4  # no model was measured to save less, as a share of what it saves as built: docs/performance.md


class DeviceMemoryError(UserError):
    """One iteration needs more memory than the device has."""


def check_memory(cfg, report, model):
    """Compare a lower bound of the memory of one iteration with the device that will run it.

    Raises:
        DeviceMemoryError: the device has less in total. If only what is free now is too little, a warning says so.
    """
    needed = least_bytes(cfg, model)
    if needed is None:
        why = 'the model does not run on shapes alone' if training_crop(cfg) else 'no step of the pipeline states a size'
        report.facts['memory'] = f'not foreseen, as {why}'
        return
    total, free, device = device_memory()
    processes = 1 if device.startswith('cuda') else int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    batch, crop = batch_size(cfg), training_crop(cfg)
    what = f'a batch of {batch} at {crop[0]}x{crop[1]}'
    together = f' in each of {processes} processes' if processes > 1 else ''
    report.facts['memory'] = f'at least {size_text(needed)} for {what}{together}; {device} has {size_text(total)}'
    needed *= processes
    remedy = (
        'Take fewer images at a time (train_dataloader.batch_size; tools/few_gpus.py keeps the batch by accumulation), a smaller '
        'crop, --amp on a GPU, or model.backbone.memory_efficient=True or with_cp=True, which save less and compute more.'
    )
    if needed > total:
        raise DeviceMemoryError(
            f'{what} needs at least {size_text(needed // processes)}{together} (a lower bound), and {device} '
            f'has {size_text(total)}. {remedy}'
        )
    if free is not None and needed > free:
        report.warnings.append(
            f'{what} needs at least {size_text(needed)} (a lower bound), and of the {size_text(total)} of {device} only '
            f'{size_text(free)} are free: another process holds the rest. End it, choose another device (CUDA_VISIBLE_DEVICES), '
            f'or: {remedy}'
        )


def least_bytes(cfg, model):
    """The lower bound in bytes; None where the crop is not known, or the model cannot be run without data."""
    crop = training_crop(cfg)
    kept = None if crop is None else saved_bytes(model, batch_size(cfg), crop)
    if kept is None:
        return None
    if type_name((cfg.get('optim_wrapper') or {}).get('type', 'OptimWrapper')) == 'AmpOptimWrapper':
        kept //= 2
    if any(getattr(module, 'memory_efficient', False) for module in model.modules()):
        kept = int(kept * MEMORY_EFFICIENT)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    hooks = [type_name(hook.get('type', '')) for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict)]
    return weights * (1 + (EMA in hooks)) + gradients + optimizer_bytes(cfg, model) + kept


def batch_size(cfg):
    """Images at a time in one process."""
    return (cfg.get('train_dataloader') or {}).get('batch_size') or 1


def device_memory():
    """(total bytes, free bytes or None, name) of the device of this process; without a GPU that of the machine."""
    if torch.cuda.is_available():
        index = int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()
        free, total = torch.cuda.mem_get_info(index)
        return total, free, f'cuda:{index} ({torch.cuda.get_device_name(index)})'
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'), None, 'this machine'
