"""Batches of another size at every step, as in detection: no tensors are kept, and a compiler compiles once or twice."""

import gc

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import mmfreq

ARCHS = ('hornet-micro', 'gfnet-h-micro', 'gfnet-micro', 'dfformer-micro', 'affnet-micro')
SIZES = [(32 * h, 32 * w) for h in range(2, 6) for w in range(2, 6)]  # padded to 32


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
def test_training_with_many_sizes_keeps_no_tensors(arch):
    model = mmfreq.build_backbone(arch).train()

    def tensors_alive():
        gc.collect()
        return [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]

    for count, size in enumerate(SIZES[:8]):
        sum(out.mean() for out in model(torch.zeros(2, 3, *size))).backward()
        model.zero_grad()
        if count == 0:
            first = tensors_alive()  # kept, so that no new tensor takes the id of one of these
    known = {id(tensor) for tensor in first}
    assert [tuple(tensor.shape) for tensor in tensors_alive() if id(tensor) not in known] == []


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['hornet-micro', 'dfformer-micro', 'affnet-micro'])  # GFNet: tests/export
def test_compile_settles_on_dynamic_sizes(arch):
    """Automatic dynamic shapes: one graph for the first size, one for all others."""
    torch._dynamo.reset()
    counter = CompileCounter()
    model = torch.compile(mmfreq.build_backbone(arch, out_indices=(0, 2)).eval(), backend=counter, fullgraph=True)
    frames = []
    with torch.no_grad():
        for size in ((96, 96), (128, 160), (160, 64), (96, 128)):
            model(torch.zeros(1, 3, *size))
            frames.append(counter.frame_count)
    torch._dynamo.reset()
    assert frames[0] == 1 and frames[-1] <= 4, frames
    assert frames[-1] == frames[-3], f'still compiling after {len(frames)} sizes: {frames}'
