"""`gather` describes the installed stack; a failing import or kernel is a recorded fact, not a crash."""

import importlib.metadata
import sys

import torch

from mmfreq.compat import stack
from mmfreq.compat.stack import DISTRIBUTIONS


def test_import_error_is_empty_for_an_importable_module():
    assert stack.import_error('json') == ''
    assert stack.import_error('mmfreq') == ''


def test_import_error_is_the_first_line_of_the_exception(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'broken_module.py').write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n")
    (tmp_path / 'exiting_module.py').write_text('raise SystemExit(3)\n')
    assert stack.import_error('broken_module') == 'RuntimeError: operator torchvision::nms does not exist'
    assert stack.import_error('exiting_module') == 'SystemExit: 3'
    assert stack.import_error('no_such_module').startswith('ModuleNotFoundError')


def test_kernel_error_of_a_kernel_that_cannot_be_called(monkeypatch):
    assert stack.kernel_error() == ''

    class Broken:
        def nms(self, *args):
            raise NotImplementedError('no kernel')

    monkeypatch.setattr(torch.ops, 'torchvision', Broken())
    assert stack.kernel_error() == 'NotImplementedError: no kernel'


def test_gather_describes_this_environment(monkeypatch):
    monkeypatch.setattr(stack, 'MODULES', ('numpy', 'torch', 'torchvision', 'mmcv.ops', 'no_such_module'))
    facts = stack.gather(DISTRIBUTIONS)
    assert facts.versions['torch'] == importlib.metadata.version('torch') and 'mmcv-full' not in facts.versions
    assert set(facts.failures) == {'no_such_module'}
    assert facts.python.startswith('.'.join(map(str, sys.version_info[:2])))
    assert len(facts.ops) > 80 and facts.ops['nms'] and facts.ops['roi_align_forward']
    assert facts.ops['carafe_forward'] != facts.fallback
    assert facts.devices['GPUs'] == [] or torch.cuda.is_available()
