"""Stubs: an op without a replacement can be imported and pickled; only the call fails, and the error gives the remedy."""

import copy
import inspect
import pickle

import pytest
import torch

from mmfreq.compat import mmcv_ops
from mmfreq.compat.mmcv_ops import MissingOp, MissingOpError
from mmfreq.compat.stack import ops_that_mmcv_loads


def test_every_op_that_mmcv_loads_exists():
    loaded = ops_that_mmcv_loads()
    assert len(loaded) > 80
    assert all(callable(getattr(mmcv_ops, op)) for op in loaded)


def test_every_supplied_op_is_loaded_by_mmcv():
    assert set(mmcv_ops.__all__) <= set(ops_that_mmcv_loads())
    assert not any(isinstance(getattr(mmcv_ops, op), MissingOp) for op in mmcv_ops.__all__)


def test_call_of_a_missing_op_names_the_op_and_the_remedy():
    op = mmcv_ops.carafe_forward
    with pytest.raises(MissingOpError, match=r"'carafe_forward'.*compiled mmcv.*python -m mmfreq\.doctor"):
        op(torch.zeros(1), up=2)
    assert issubclass(MissingOpError, RuntimeError)


def test_stubs_are_one_per_name_and_survive_copies():
    op = mmcv_ops.carafe_forward
    assert op is mmcv_ops.carafe_forward
    assert pickle.loads(pickle.dumps(op)) is op and copy.deepcopy(op) is op
    assert 'carafe_forward' in repr(op)


@pytest.mark.parametrize('name', ['__path__', '__wrapped__', '__getstate__x', '_private'])
def test_private_names_are_absent_as_in_any_module(name):
    with pytest.raises(AttributeError, match=name):
        getattr(mmcv_ops, name)


def test_inspect_and_pickle_work():
    assert inspect.getmodule(mmcv_ops.nms).__name__ == 'mmfreq.compat.mmcv_ops'
    assert pickle.loads(pickle.dumps(mmcv_ops.nms)) is mmcv_ops.nms
    assert dict(inspect.getmembers(mmcv_ops))['nms'] is mmcv_ops.nms
    assert inspect.unwrap(mmcv_ops.carafe_forward) is mmcv_ops.carafe_forward
