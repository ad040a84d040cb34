"""Imports never point upwards: the layout's table, read from the syntax trees, and two checks in fresh interpreters."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

OPENMMLAB = {'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}
IMAGE_LIBRARIES = {'PIL', 'cv2', 'pycocotools'}
# Pattern of a module's path -> (third-party packages, parts of mmfreq) it may import. The first pattern that matches holds.
# The standard library and numpy are open to all; a part stands for everything below it.
RULES = {
    # for type checkers alone; `test_import_mmfreq_is_light` checks that they are not imported
    'mmfreq/__init__.py': (
        set(),
        {
            *('compat.after_import', 'compat.finder', 'version', 'models._factory', 'speed.compiling', 'speed.optimizing'),
            *('weights.files', 'weights.load', 'weights.loaders'),
        },
    ),
    'mmfreq/version.py': (set(), set()),
    'mmfreq/errors.py': (set(), set()),
    'mmfreq/log.py': ({'mmengine'}, set()),
    'mmfreq/registry.py': ({'mmengine'}, {'compat'}),
    'mmfreq/torchrun.py': ({'torch'}, set()),
    'mmfreq/doctor.py': ({'torch', 'torchvision', 'mmengine', 'rich'}, {'compat', 'version'}),
    'mmfreq/compat/mmdet_ssd.py': ({'mmdet'}, set()),
    'mmfreq/compat/*': ({'torch', 'torchvision', 'mmengine', 'mmcv', 'safetensors'}, {'compat', 'version'}),
    # tensors and modules
    'mmfreq/ops/*': ({'torch'}, {'ops'}),
    'mmfreq/layers/*': ({'torch', 'torchvision'}, {'ops', 'layers'}),
    'mmfreq/models/__init__.py': (set(), set()),
    'mmfreq/models/_base.py': ({'torch', 'mmengine'}, {'ops', 'layers', 'weights', 'speed.memory_efficient'}),
    'mmfreq/models/_factory.py': (
        set(),
        {'models._base', 'models.hornet', 'models.gfnet', 'models.dfformer', 'models.affnet', 'weights'},
    ),
    'mmfreq/models/gfnet.py': ({'torch', 'torchvision'}, {'ops', 'layers', 'registry', 'models._base', 'models.hornet'}),
    'mmfreq/models/conv_layer.py': ({'torch', 'mmengine', 'mmcv'}, {'ops', 'layers', 'registry'}),
    'mmfreq/models/necks.py': ({'torch', 'mmengine', 'mmcv', 'mmdet'}, {'registry', 'models.conv_layer'}),
    'mmfreq/models/seg_heads.py': ({'torch', 'mmengine', 'mmcv', 'mmseg'}, {'layers', 'registry', 'models.conv_layer'}),
    'mmfreq/models/det_heads.py': ({'torch', 'mmengine', 'mmcv', 'mmdet'}, {'registry'}),
    'mmfreq/models/ssdlite.py': ({'torch', 'mmengine', 'mmcv', 'mmdet'}, {'registry'}),
    'mmfreq/models/image_classifier.py': ({'torch', 'mmengine', 'mmpretrain'}, {'registry', 'models._factory'}),
    'mmfreq/models/*.py': ({'torch', 'torchvision'}, {'ops', 'layers', 'registry', 'models._base'}),  # a family
    'mmfreq/speed/__init__.py': (set(), set()),
    'mmfreq/speed/memory_efficient.py': ({'torch'}, set()),
    'mmfreq/speed/fixed_size.py': ({'torch'}, {'ops'}),
    'mmfreq/speed/*': ({'torch', 'torchvision'}, {'ops', 'layers', 'models', 'speed'}),
    # files: weights, data, configs
    'mmfreq/weights/*': (
        {'torch', 'mmengine', 'filelock', 'rich', 'huggingface_hub', 'safetensors'},
        {'compat', 'errors', 'version', 'weights'},
    ),
    'mmfreq/datasets/*': ({'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', *IMAGE_LIBRARIES}, {'registry', 'datasets'}),
    'mmfreq/config/*': ({'torch', 'mmengine'}, {'errors', 'log', 'registry', 'models._factory', 'weights.files', 'config'}),
    # runs
    'mmfreq/preflight/*': (
        {'torch', 'mmengine', *IMAGE_LIBRARIES, *OPENMMLAB},
        {'errors', 'log', 'registry', 'compat', 'datasets', 'weights', 'config', 'preflight'},
    ),
    'mmfreq/engine/*': (
        {'torch', 'mmengine', 'rich', *IMAGE_LIBRARIES, *OPENMMLAB},
        {'errors', 'log', 'registry', 'torchrun', 'analysis', 'compat', 'speed', 'weights', 'config', 'preflight', 'engine'},
    ),
    'mmfreq/apis/*': (
        {'torch', 'mmengine', *IMAGE_LIBRARIES, *OPENMMLAB},
        {'errors', 'log', 'registry', 'compat', 'datasets', 'models._factory', 'speed', 'weights', 'config', 'apis'},
    ),
    'mmfreq/analysis/*': (
        {'torch', 'mmengine', 'matplotlib', *IMAGE_LIBRARIES, *OPENMMLAB},
        {'errors', 'ops', 'layers', 'models', 'registry', 'compat', 'datasets', 'analysis'},
    ),
    # what is built on top
    'mmfreq/export/detectors/*': (
        {'torch', 'torchvision', 'mmcv', 'mmdet'},
        {'errors', 'compat.mmdet_ssd', 'models.ssdlite', 'export'},
    ),
    'mmfreq/export/*': (
        {'torch', 'onnx', 'onnxruntime', *IMAGE_LIBRARIES},
        {'errors', 'version', 'ops', 'speed', 'analysis', 'apis', 'export'},
    ),
    'mmfreq/zoo/*': (
        {'torch', 'mmengine', 'yaml', 'rich', 'safetensors', 'huggingface_hub'},
        {
            *('errors', 'version', 'registry', 'compat', 'models', 'weights', 'config', 'preflight', 'engine', 'analysis', 'apis'),
            *('integrations', 'zoo'),
        },
    ),
    'mmfreq/demo/*': (
        {'torch', 'mmengine', *IMAGE_LIBRARIES},
        {'errors', 'layers', 'datasets', 'engine', 'apis', 'analysis', 'testing', 'demo'},
    ),
    'mmfreq/integrations/*': ({'torch', 'timm'}, {'compat', 'log', 'models', 'weights', 'integrations'}),
    'mmfreq/testing/stack_table.py': (set(), {'compat.finder', 'compat.stack'}),
    'mmfreq/testing/*': ({'torch', 'mmengine'}, {'ops', 'layers', 'models', 'registry', 'testing'}),
}


def source_files():
    return sorted(path for path in (ROOT / 'mmfreq').rglob('*.py') if '.mim' not in path.parts)


def rule_for(relative):
    return next((rule for pattern, rule in RULES.items() if fnmatch(relative, pattern)), None)


def imported_names(tree, relative):
    """Absolute dotted names of everything imported, also inside functions and by `import_module('a.literal')`."""
    package = list(Path(relative).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[: len(package) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, [base, node.module]))
            # `from mmfreq import ops` imports mmfreq.ops; a plain name below a module is harmlessly one step deeper
            yield from ((f'{module}.{alias.name}', node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, 'id', getattr(node.func, 'attr', '')) == 'import_module':
            yield from ((name.value, node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant))


def violations(source, relative):
    """Lines that break the rule for the module at `relative`, as readable strings."""
    third_party, parts = rule_for(relative)
    found = []
    for name, line in imported_names(ast.parse(source), relative):
        top, _, rest = name.partition('.')
        if top == 'mmfreq':
            if not any(rest == part or rest.startswith(part + '.') for part in parts):
                found.append(f'{relative}:{line} imports {name}; of mmfreq it may import {sorted(parts) or "nothing"}')
        elif top not in sys.stdlib_module_names and top != 'numpy' and top not in third_party:
            found.append(f'{relative}:{line} imports {name}; of other packages it may import {sorted(third_party) or "none"}')
    return found


def test_every_file_has_a_rule():
    files = source_files()
    assert len(files) > 20
    uncovered = [path.relative_to(ROOT).as_posix() for path in files if rule_for(path.relative_to(ROOT).as_posix()) is None]
    assert not uncovered, f'add these to RULES in {Path(__file__).name}: {uncovered}'


@pytest.mark.slow
def test_imports_never_point_upwards():
    found = []
    for path in source_files():
        relative = path.relative_to(ROOT).as_posix()
        if rule_for(relative) is not None:
            found += violations(path.read_text(encoding='utf-8'), relative)
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    ('relative', 'source', 'broken'),
    [
        ('mmfreq/ops/x.py', 'import torch\nimport math\nimport numpy as np\nfrom mmfreq.ops.spectral import f', 0),
        ('mmfreq/ops/x.py', 'from .spectral import f', 0),
        ('mmfreq/ops/x.py', 'import mmengine', 1),
        ('mmfreq/ops/x.py', 'from mmfreq.layers.gnconv import GnConv', 1),
        ('mmfreq/ops/x.py', 'from ..layers import gnconv', 1),
        ('mmfreq/ops/x.py', 'from mmfreq import layers', 1),
        ('mmfreq/ops/x.py', 'def f():\n    import mmcv', 1),
        ('mmfreq/layers/x.py', 'from timm.layers import DropPath', 1),
        ('mmfreq/models/hornet.py', 'import torch, mmengine\nfrom mmseg.registry import MODELS', 2),
        ('mmfreq/models/hornet.py', 'from importlib import import_module\nimport_module("mmdet.models")', 1),
        ('mmfreq/__init__.py', 'import torch', 1),
        ('mmfreq/version.py', 'from mmfreq.opsx import y', 1),
    ],
)
def test_the_checker_sees_a_forbidden_import(relative, source, broken):
    assert len(violations(source, relative)) == broken


def test_only_integrations_may_import_timm():
    assert [pattern for pattern, (third_party, _) in RULES.items() if 'timm' in third_party] == ['mmfreq/integrations/*']


def run_python(code):
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_import_mmfreq_is_light():
    result = run_python(
        'import mmfreq, sys\n'
        "heavy = {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'timm'}\n"
        'heavy &= set(sys.modules)\n'
        'assert not heavy, heavy\n'
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_backbone_needs_no_openmmlab_library_but_mmengine():
    result = run_python(
        'import sys\n'
        "for name in ('mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'timm'):\n"
        '    sys.modules[name] = None\n'
        'import mmfreq, torch\n'
        "outputs = mmfreq.build_backbone('hornet-micro').eval()(torch.zeros(1, 3, 64, 64))\n"
        'print([tuple(x.shape[2:]) for x in outputs])\n'
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith('[(16, 16), (8, 8), (4, 4), (2, 2)]')
