"""One process of test_distributed_options.py: trains configs, then compares DDP's gradients for many models.

python -m torch.distributed.run --nproc_per_node 2 _options_worker.py FOLDER

The configs are FOLDER/<name>.py; each is trained into FOLDER/<name>/. `laws<rank>.json` has for each model the largest relative
difference between DDP's gradients and the mean of the gradients of each process's samples, or the traceback of an error; and the
same for mmengine's FSDPStrategy.
"""

import contextlib
import copy
import json
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import FlexibleRunner
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import mmfreq
from mmfreq.engine import launch
from mmfreq.engine.processes import group_closed_at_exit, init_cpu_group
from mmfreq.testing.whole_models import MICRO, backbones, total, whole_models

FEW = ((0,), (0, 1), (2,), (0, 1, 2, 3))  # tests/models has every choice; for DDP only the last stage matters
aot = partial(torch.compile, backend='aot_eager')
autocast = partial(torch.autocast, 'cpu', torch.bfloat16)


def image(rank: int) -> Tensor:
    """Two samples for each process, always the same."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(rank))


def gradients(model: nn.Module, x: Tensor, context: Callable) -> list[Tensor]:
    """Complete gradients of the trainable parameters, zeros if one has none; with the same dropout each time."""
    torch.manual_seed(1)
    model.zero_grad()
    with context():
        loss = total(model(x))
    loss.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters() if p.requires_grad]
    return [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in found]


def distance(build: Callable[[], nn.Module], wrap: Callable, context: Callable = contextlib.nullcontext) -> float:
    """max |DDP's - mean| / max |mean| over all parameters; a second iteration, in which DDP reports unused parameters.

    Args:
        wrap: makes the distributed model.
        context: around the forward pass.
    """
    torch.manual_seed(0)
    model = build().train()
    each = [gradients(copy.deepcopy(model), image(rank), context) for rank in range(dist.get_world_size())]
    want = [sum(grads) / len(grads) for grads in zip(*each)]
    distributed = wrap(model)
    got = gradients(distributed, image(dist.get_rank()), context)
    gradients(distributed, image(dist.get_rank()), context)
    whole = max(float(w.abs().max()) for w in want)
    return max(float((g - w).abs().max()) for g, w in zip(got, want, strict=True)) / whole


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, find_unused_parameters=False)


def sharded(model: nn.Module) -> nn.Module:
    """As in docs/performance.md: each process keeps its part of every block, and of the rest."""
    for block in [module for module in model.modules() if type(module).__name__.endswith('Block')]:
        fully_shard(block)
    return fully_shard(model)


def recipe() -> float:
    """Run the script of docs/performance.md with a small model; the largest difference of the gathered weights from the model's."""
    page = (Path(mmfreq.__file__).resolve().parents[1] / 'docs' / 'performance.md').read_text()
    (script,) = re.findall(r'^```python\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    for there, here in (
        ('hornet-large-gf', 'hornet-micro'),
        ('512, 512', '64, 64'),
        ('torch.distributed.init_process_group()', ''),
    ):
        assert there in script
        script = script.replace(there, here)
    exec(compile(script, 'performance.md', 'exec'), space := {})
    if dist.get_rank() == 0:
        mmfreq.build_backbone('hornet-micro').load_state_dict(space['whole'], strict=True)
    mine = {name: parameter.detach().full_tensor() for name, parameter in space['model'].named_parameters()}
    return max(float((value - mine[name]).abs().max()) for name, value in space['whole'].items()) if space['whole'] else 0.0


def laws():
    """(name, function that returns the difference)."""
    for name, build in (*backbones(FEW), *whole_models()):
        yield name, partial(distance, build, ddp)
    for arch in MICRO:
        yield f'{arch}, checkpointing', partial(distance, partial(mmfreq.build_backbone, arch, with_cp=True), ddp)
        yield f'{arch}, frozen', partial(distance, partial(mmfreq.build_backbone, arch, frozen_stages=1), ddp)
        yield f'{arch}, bfloat16', partial(distance, partial(mmfreq.build_backbone, arch), ddp, autocast)
        yield f'{arch}, sharded', partial(distance, partial(mmfreq.build_backbone, arch), sharded)
    yield 'compiled inside', partial(distance, partial(mmfreq.build_backbone, 'hornet-micro'), lambda model: ddp(aot(model)))
    yield 'compiled outside', partial(distance, partial(mmfreq.build_backbone, 'gfnet-micro'), lambda model: aot(ddp(model)))
    yield 'the recipe of docs/performance.md', recipe
    yield 'an unused part', partial(distance, with_an_unused_part, ddp)


def with_an_unused_part() -> nn.Module:
    model = mmfreq.build_backbone('gfnet-micro')
    model.idle = nn.Linear(1, 1)
    return model


def outcome(law: Callable[[], float]) -> float | str:
    """The value of a law, or the traceback of its error."""
    try:
        return law()
    except Exception:
        return traceback.format_exc()


def train_with_mmengines_strategy(config: Path, work_dir: Path, resume: bool = False) -> float:
    """Train with mmengine's FSDPStrategy, bypassing `refuse_sharding`; returns the number of iterations."""
    cfg = Config.fromfile(config, format_python_code=False)
    wrapper = {'type': 'MMFullyShardedDataParallel', 'device_id': 'cpu'}
    cfg.strategy = {'type': 'FSDPStrategy', 'model_wrapper': wrapper, 'state_dict_cfg': 'full'}
    cfg.update(work_dir=str(work_dir), launcher='pytorch', resume=resume)
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    runner = FlexibleRunner.from_cfg(cfg)
    runner.train()
    return runner.iter


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    launch.check_run = lambda *_: None  # seconds for each config; it has tests of its own
    init_cpu_group('pytorch', {})
    for config in sorted(folder.glob('*.py')):
        launch.train(str(config), work_dir=folder / config.stem, launcher='pytorch')
    found = {name: outcome(law) for name, law in laws()}
    strategy = partial(train_with_mmengines_strategy, folder / 'plain.py', folder / 'sharded')
    found |= {"mmengine's strategy": outcome(strategy), "mmengine's strategy, resumed": outcome(partial(strategy, resume=True))}
    (folder / f'laws{dist.get_rank()}.json').write_text(json.dumps(found))


if __name__ == '__main__':
    with group_closed_at_exit():
        main()
