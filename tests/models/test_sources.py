"""Rules for the sources: no private parts of torch, and short forward methods."""

import ast
import re
from pathlib import Path

import mmfreq

PACKAGE = Path(mmfreq.__file__).parent
MODELS = sorted(path for folder in ('models', 'layers', 'ops') for path in (PACKAGE / folder).rglob('*.py'))
WHERE_ALLOWED = ('speed', 'compat')
PRIVATE = re.compile(
    r'torch(\.\w+)*\._(?!_version__)\w|from torch[\w.]*\._\w|from torch[\w.]* import .*\b_[A-Za-z]'
    r'|\._conv_forward|\._\w+_hooks\b|torch\.ops\b|\._version\b'
)
# needed to count operators and bytes without computing; torch has no public API for it
ALLOWED = {
    'from torch._subclasses.fake_tensor import FakeTensorMode': ('analysis/flops.py', 'preflight/resources.py'),
    'from torch.utils._python_dispatch import TorchDispatchMode': ('analysis/flops.py',),
    'aten = torch.ops.aten': ('analysis/flops.py',),
}
LONGEST_FORWARD = 12  # lines


def test_no_private_part_of_torch_is_used():
    sources = [path for path in sorted(PACKAGE.rglob('*.py')) if path.relative_to(PACKAGE).parts[0] not in WHERE_ALLOWED]
    assert len(sources) > 90 and set(MODELS) < set(sources)
    found, allowed = [], set()
    for path in sources:
        name = path.relative_to(PACKAGE).as_posix()
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if name in ALLOWED.get(line.strip(), ()):
                allowed.add((line.strip(), name))
            elif PRIVATE.search(line):
                found.append(f'{name}:{number}: {line.strip()}')
    assert not found, '\n'.join(found)
    assert allowed == {(line, name) for line, names in ALLOWED.items() for name in names}


def test_search_finds_private_parts():
    for line in (
        'torch._C._is_fwd_grad_enabled()',
        'from torch._guards import detect_fake_mode',
        'from torch.utils._python_dispatch import TorchDispatchMode',
        'from torch.nn.modules.utils import _pair',
        'conv._conv_forward(x, weight, bias)',
        'torch.ops.mkldnn._linear_pointwise(x, w)',
        'if module._forward_hooks:',
    ):
        assert PRIVATE.search(line), line
    for line in ('from torch.autograd.function import Function', 'torch.__version__', 'cfg.custom_hooks', 'saved_tensors_hooks'):
        assert not PRIVATE.search(line), line


def test_forward_has_at_most_twelve_lines():
    lengths = {}
    for path in MODELS:
        for cls in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            for node in getattr(cls, 'body', []) if isinstance(cls, ast.ClassDef) else []:
                if isinstance(node, ast.FunctionDef) and node.name == 'forward':
                    lengths[f'{path.stem}.{cls.name}'] = node.end_lineno - node.body[0].lineno + 1
    assert len(lengths) > 30
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FORWARD}
