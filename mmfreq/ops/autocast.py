"""Autocast, off for the computations that need float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context with autocast off on the device of `x`; the meta device has no autocast."""
    return nullcontext() if x.device.type == 'meta' else torch.autocast(x.device.type, enabled=False)
