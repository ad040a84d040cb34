"""Refuse mmengine's sharded training before it starts: it trains, and what it saves cannot be resumed."""

from mmfreq.engine.errors import UserError
from mmfreq.engine.machine import type_name


def refuse_sharding(cfg):
    """Raise if a Config asks for mmengine's `FSDPStrategy`.

    It trains (`tests/tools/test_distributed_options.py`; as one process does, when it was compared), but mmengine 0.10.7 hands the
    optimizer's state to torch in the order of an older release, and its gradient clipping takes the norm of one shard for all.

    Raises:
        UserError: it does.
    """
    strategy = cfg.get('strategy') or {}
    if isinstance(strategy, dict) and type_name(strategy.get('type')) == 'FSDPStrategy':
        raise UserError(
            "strategy.type='FSDPStrategy' is not supported: mmengine saves such a run and cannot resume it (TypeError: unhashable "
            "type: 'dict'). For less memory set model.backbone.with_cp=True, and a smaller batch_size with "
            'optim_wrapper.accumulative_counts; for a model that does not fit then, docs/performance.md has a recipe with '
            "torch's fully_shard."
        )
