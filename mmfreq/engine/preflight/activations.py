"""What autograd keeps of one batch of training, found by a forward pass in which tensors are shapes alone."""

import logging

import torch
from mmengine.model.utils import revert_sync_batchnorm
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from mmfreq.engine.meta_model import quiet
from mmfreq.engine.notes import say

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
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True), Ones():
            forward = TrainingForward(revert_sync_batchnorm(model))
            tensors = {f'model.{name}': _fake(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
            images = torch.empty(tried, _channels(model), *size)
            with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
                outputs = torch.func.functional_call(forward, tensors, (images,))
            own = {tensor.untyped_storage()._cdata for tensor in [*tensors.values(), images]}
            del outputs
    except Exception as error:  # whatever a foreign layer makes of tensors without values
        told = f'{type(error).__name__}: {error}'.splitlines()[0]
        say(f'{type(model).__name__} does not run on shapes alone: {told}', level=logging.DEBUG)
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
