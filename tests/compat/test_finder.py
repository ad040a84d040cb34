"""The finder is last, handles one name, loads nothing, and a compiled module takes precedence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmfreq
from mmfreq.compat import finder

ROOT = Path(mmfreq.__file__).parents[1]


def run(code, *arguments):
    """What `code` prints as JSON in a fresh interpreter that can import mmfreq."""
    code = f'import json, sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}'
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_mmfreq_loads_no_heavy_module():
    loaded = run('import mmfreq; print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))')
    assert 'mmfreq' in loaded
    assert not {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'rich'} & set(loaded)


def test_finder_is_installed_last_and_once():
    finder.install_finder()
    finder.install_finder()
    assert sys.meta_path.count(finder.MmcvOpsFinder) == 1
    code = 'import mmfreq; print(json.dumps([getattr(f, "__name__", "") for f in sys.meta_path]))'
    assert run(code)[-1] == 'MmcvOpsFinder'


def test_finder_handles_one_name_only():
    assert finder.MmcvOpsFinder.find_spec('mmcv._ext').origin == str(finder.SOURCE)
    for name in ('mmcv', 'mmcv.ops', 'mmcv._extra', '_ext', 'mmdet._ext'):
        assert finder.MmcvOpsFinder.find_spec(name) is None


@pytest.mark.parametrize('missing', ['torch', 'torchvision'])
def test_finder_finds_nothing_without_torch_and_torchvision(monkeypatch, missing):
    monkeypatch.setattr(finder, 'find_spec', lambda name: None if name == missing else object())
    assert finder.MmcvOpsFinder.find_spec('mmcv._ext') is None


def test_a_compiled_module_takes_precedence(tmp_path):
    for folder in ('mmcv', 'compiled'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    (tmp_path / 'compiled' / '_ext.py').write_text("nms = 'compiled'\n")
    code = """
sys.path.insert(0, sys.argv[1])
import mmcv  # before mmfreq, or after it: the order of sys.meta_path decides
import mmfreq
from mmfreq.compat.finder import using_fallback
without = using_fallback()
mmcv.__path__.append(sys.argv[1] + '/compiled')
before = using_fallback()
import mmcv._ext
print(json.dumps([without, before, using_fallback(), mmcv._ext.nms, mmcv._ext.__file__, hasattr(mmcv._ext, 'roi_pool_forward')]))
"""
    path = str(tmp_path / 'compiled' / '_ext.py')
    assert run(code, str(tmp_path)) == [True, False, False, 'compiled', path, False]


def test_using_fallback_does_not_import_mmcv(tmp_path):
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('raise RuntimeError("imported")\n')
    code = """
sys.path.insert(0, sys.argv[1])
import mmfreq
from mmfreq.compat.finder import using_fallback
print(json.dumps(using_fallback()))
"""
    assert run(code, str(tmp_path)) is True
    (package / '_ext.py').write_text('')
    assert run(code, str(tmp_path)) is False


@pytest.mark.slow
def test_openmmlab_finds_and_imports_the_ops_in_a_fresh_interpreter():
    code = """
import mmfreq, inspect, pkgutil
from mmfreq.compat.finder import using_fallback
early = using_fallback()
found = pkgutil.find_loader('mmcv._ext') is not None
unloaded = 'mmfreq.compat.mmcv_ops' in sys.modules or 'mmcv._ext' in sys.modules
import mmcv.ops, mmdet.models, mmseg.models, mmpretrain.models
import mmcv._ext as ext
from mmcv.utils import collect_env
from mmcv.utils.ext_loader import check_ops_exist
print(json.dumps([early, found, unloaded, using_fallback(), check_ops_exist(), ext.__name__, ext.__spec__.name,
                  inspect.getsource(ext)[:3], mmcv.ops.get_compiler_version(), mmcv.ops.get_compiling_cuda_version()]))
"""
    early, found, unloaded, late, exist, name, spec_name, source, compiler, cuda = run(code)
    assert early and found and late and exist and not unloaded
    assert name == spec_name == 'mmcv._ext' and source == '"""'
    assert 'mmfreq' in compiler and 'mmfreq' in cuda


def test_a_module_of_mmcv_that_was_imported_before_mmfreq_is_completed():
    """mmpretrain imports it without mmcv's ops, and mmdet imports the class from it."""
    code = """
import mmcv.cnn.bricks.transformer as early
before = hasattr(early, 'MultiScaleDeformableAttention')
import mmfreq
from mmcv.cnn.bricks.transformer import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention as own
print(json.dumps([before, MultiScaleDeformableAttention is own, mmfreq.compat.finder.using_fallback()]))
"""
    before, same, fallback = run(code)
    assert same and (before or fallback)
