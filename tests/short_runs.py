"""Make short training runs a third faster, without a change of their results."""

from functools import cache
from types import SimpleNamespace

from mmengine.config import config
from mmengine.dataset import base_dataset

from mmfreq.compat import stack


def shorten(replace):
    """Skip mmengine's formatting of the config (five times a run) and its garbage collection for every dataset; cache mmcv's ops.

    Args:
        replace: `setattr`, or that of pytest's `monkeypatch`.
    """
    replace(config, 'FormatCode', lambda text, **_: (text, True))
    replace(base_dataset, 'gc', SimpleNamespace(collect=lambda: 0))
    replace(stack, 'ops_that_mmcv_loads', cache(stack.ops_that_mmcv_loads))
