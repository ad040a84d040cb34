"""Laws of looking: what is seen is what is there, and a look that fails is a fact, not a crash."""

import importlib.metadata
import sys

import torch

from mmfreq.compat import stack
from mmfreq.compat.stack import DISTRIBUTIONS


def test_an_import_that_works_leaves_no_text():
    assert stack.try_import('json') == ''
    assert stack.try_import('mmfreq') == ''


def test_an_import_that_fails_leaves_the_first_line_of_its_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'broken_here.py').write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n")
    (tmp_path / 'leaving_here.py').write_text('raise SystemExit(3)\n')
    assert stack.try_import('broken_here') == 'RuntimeError: operator torchvision::nms does not exist'
    assert stack.try_import('leaving_here') == 'SystemExit: 3'
    assert stack.try_import('no_such_module_here').startswith('ModuleNotFoundError')


def test_a_kernel_that_cannot_be_called_is_seen(monkeypatch):
    assert stack.try_kernel() == ''

    class Broken:
        def nms(self, *args):
            raise NotImplementedError('no kernel')

    monkeypatch.setattr(torch.ops, 'torchvision', Broken())
    assert stack.try_kernel() == 'NotImplementedError: no kernel'


def test_gather_sees_this_environment(monkeypatch):
    monkeypatch.setattr(stack, 'MODULES', ('numpy', 'torch', 'torchvision', 'mmcv.ops', 'no_such_module_here'))
    seen = stack.gather(DISTRIBUTIONS)
    assert seen.versions['torch'] == importlib.metadata.version('torch') and 'mmcv-full' not in seen.versions
    assert set(seen.failures) == {'no_such_module_here'}
    assert seen.python.startswith('.'.join(map(str, sys.version_info[:2])))
    assert len(seen.ops) > 80 and seen.ops['nms'] and seen.ops['roi_align_forward']
    assert seen.ops['carafe_forward'] != seen.fallback
    assert seen.devices['GPUs'] == [] or torch.cuda.is_available()
