"""What is installed here: versions, real imports, the GPU, and which mmcv ops are real. Nothing is judged; `stack.py` does
that.

Standard library only at import; every look is allowed to fail, and the failure's text is the fact.
"""

import ast
import importlib
import importlib.metadata
import platform
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mmfreq.compat import finder

MODULES = (  # in this order: the first failure is the cause of the later ones
    'pkg_resources',
    'numpy',
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv.ops',
    'mmseg.models',
    'mmdet.models',
    'mmpretrain.models',
    'timm',
    'ftfy',
    'regex',
)


@dataclass
class Facts:
    """One look at an environment; a test writes its own."""

    python: str
    versions: dict[str, str] = field(default_factory=dict)  # distribution, as the registry spells it -> version
    failures: dict[str, str] = field(default_factory=dict)  # module -> text of the exception its import raised
    fallback: bool = False  # mmcv's ops are ours
    ops: dict[str, bool] = field(default_factory=dict)  # op of mmcv -> whether it can be called
    devices: dict[str, object] = field(default_factory=dict)


def gather(distributions, modules=None):
    """The facts of the running interpreter about these distributions; takes seconds, as it imports `modules` (MODULES)."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        failures = {name: text for name in modules or MODULES if (text := try_import(name))}
        if 'torchvision' not in failures and (text := try_kernel()):
            failures['torchvision'] = text
    fallback = finder.using_fallback()
    return Facts(
        python=platform.python_version(),
        versions=versions,
        failures=failures,
        fallback=fallback,
        ops={} if 'mmcv.ops' in failures else ops_there(),
        devices={} if 'torch' in failures else devices(),
    )


def try_import(name):
    """'' if the module can be imported, otherwise the first line of what it raised."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return ''


def try_kernel():
    """'' if torchvision's compiled kernels answer, otherwise the error's text: a misfit may import and fail when called."""
    import torch
    import torchvision  # noqa: F401

    try:
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return ''


def devices():
    """What torch computes on."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        'torch built for CUDA': torch.version.cuda or 'no',
        'GPUs': [torch.cuda.get_device_name(i) for i in range(count)],
        'CPU threads': torch.get_num_threads(),
    }


def ops_asked_for():
    """Names that the installed `mmcv/ops/*.py` ask of `mmcv._ext`, sorted, read from their source; [] without mmcv."""
    spec = find_spec('mmcv')
    names = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, 'ops').glob('*.py')):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                    names.update(ast.literal_eval(node.args[1]))
    return sorted(names)


def ops_there():
    """Op of mmcv -> whether it can be called: the compiled one, or our stand-in for it."""
    module = importlib.import_module(finder.NAME)
    supplied = set(module.__all__) if finder.using_fallback() else None
    return {op: op in supplied if supplied is not None else hasattr(module, op) for op in ops_asked_for()}
