"""Batches of another size at every step, as detection has them: nothing grows without bound, a compiler compiles once or twice."""

import gc

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import mmfreq
from mmfreq.layers.eval_cache import CACHED_VALUES, EvalCache
from mmfreq.ops import dft

ARCHS = ('hornet-micro', 'gfnet-h-micro', 'gfnet-micro', 'dfformer-micro', 'affnet-micro')
SIZES = [(32 * h, 32 * w) for h in range(2, 6) for w in range(2, 6)]  # padded to 32


def caches(model):
    return [c for m in model.modules() for c in vars(m).values() if isinstance(c, EvalCache)]


@pytest.mark.parametrize('spectral', ['fft', 'matmul'])
@pytest.mark.parametrize('arch', ARCHS)
def test_caches_are_bounded(arch, spectral):
    model = mmfreq.build_backbone(arch, spectral=spectral).eval()
    assert caches(model)
    with torch.no_grad():
        for size in SIZES:
            model(torch.zeros(1, 3, *size))
    assert all(len(cache) <= CACHED_VALUES for cache in caches(model))
    assert any(len(cache) for cache in caches(model))
    for function in (dft.cos_sin, dft.multiplicity):
        assert function.cache_info().currsize <= function.cache_info().maxsize


@pytest.mark.slow
@pytest.mark.parametrize('arch', ARCHS)
def test_training_keeps_nothing_of_a_size_that_has_passed(arch):
    model = mmfreq.build_backbone(arch).train()

    def living():
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    for count, size in enumerate(SIZES[:8]):
        sum(out.mean() for out in model(torch.zeros(2, 3, *size))).backward()
        model.zero_grad()
        if count == 0:
            first = living()
    assert living() - first <= 32  # bases of the transforms, in bounded caches


@pytest.mark.slow
@pytest.mark.parametrize('arch', [arch for arch in ARCHS if arch != 'gfnet-micro'])  # its code is a part of gfnet-h's
def test_a_compiler_settles_on_dynamic_sizes(arch):
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
