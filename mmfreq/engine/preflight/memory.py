"""Does one iteration fit into the device? A lower bound: what is counted must be there, and there is more that is not.

Counted: parameters, their gradients, the optimizer's states, the copy of EMA, and what autograd keeps of one batch at the
training crop (see `activations`; half of it with mixed precision). Not counted: the losses of detectors and what their second stage
keeps, scratch space of convolutions and transforms, the gradients of activations, the CUDA context, what fragments.
"""

import os

import torch

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name
from mmfreq.engine.preflight.activations import saved_bytes
from mmfreq.engine.preflight.crop import training_crop
from mmfreq.engine.preflight.disk import optimizer_bytes
from mmfreq.engine.preflight.report import size_text

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
