"""What the sources of models, layers and ops may look like: no private parts of torch, and blocks that are read in a minute."""

import ast
import re
from pathlib import Path

import mmfreq

PACKAGE = Path(mmfreq.__file__).parent
SOURCES = sorted(path for folder in ('models', 'layers', 'ops') for path in (PACKAGE / folder).rglob('*.py'))
PRIVATE = re.compile(
    r'torch(\.\w+)*\._\w|from torch[\w.]*\._\w|from torch[\w.]* import .*\b_[A-Za-z]'
    r'|\._conv_forward|_hooks\b|torch\.ops\b|\._version\b'
)
LONGEST_FORWARD = 12  # lines


def test_no_private_part_of_torch_is_used():
    assert len(SOURCES) > 15
    found = [
        f'{path.relative_to(PACKAGE)}:{number}: {line.strip()}'
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not found, '\n'.join(found)


def test_the_search_finds_private_parts():
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
    assert not PRIVATE.search('from torch.autograd.function import Function')


def test_a_forward_is_at_most_twelve_lines():
    lengths = {}
    for path in SOURCES:
        for kind in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            for node in getattr(kind, 'body', []) if isinstance(kind, ast.ClassDef) else []:
                if isinstance(node, ast.FunctionDef) and node.name == 'forward':
                    lengths[f'{path.stem}.{kind.name}'] = node.end_lineno - node.body[0].lineno + 1
    assert len(lengths) > 30
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FORWARD}
