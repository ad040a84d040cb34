"""What is installed here: versions, real imports, the GPU, and which mmcv ops are real. Nothing is judged; `stack.py` does
that.

Standard library only at import; every look is allowed to fail, and the failure's text is the fact.
"""

import ast
import importlib
import importlib.metadata
import platform
import re
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
        ops={} if 'mmcv.ops' in failures else available_ops(),
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


def requested_ops():
    """Names that the installed `mmcv/ops/*.py` ask of `mmcv._ext`, sorted, read from their source; [] without mmcv."""
    spec = find_spec('mmcv')
    names = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, 'ops').glob('*.py')):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                    names.update(ast.literal_eval(node.args[1]))
    return sorted(names)


def available_ops():
    """Op of mmcv -> whether it can be called: the compiled one, or our stand-in for it."""
    module = importlib.import_module(finder.NAME)
    supplied = set(module.__all__) if finder.using_fallback() else None
    return {op: op in supplied if supplied is not None else hasattr(module, op) for op in requested_ops()}


# The stack that mmfreq runs on, as data, and a verdict on what is installed.
#
# `lite.txt` beside this file is the one list of required packages (the default set-up, nothing to compile); its lower bound
# of torch
# is the oldest torch that mmfreq is tested on. `judge` is a pure function of `Facts`: a row for each package and known misfit, with
# the packages to put in and to take out, from which `mend` makes one command. Standard library only.


LITE = Path(__file__).with_name('lite.txt')

# what we call it -> (stock distributions, OneDL distribution, module whose import is tried)
FAMILIES = {
    'mmengine': (('mmengine',), 'onedl-mmengine', 'mmengine'),
    'mmcv': (('mmcv-lite', 'mmcv', 'mmcv-full'), 'onedl-mmcv', 'mmcv.ops'),
    'mmsegmentation': (('mmsegmentation',), 'onedl-mmsegmentation', 'mmseg.models'),
    'mmdet': (('mmdet',), 'onedl-mmdetection', 'mmdet.models'),
    'mmpretrain': (('mmpretrain',), 'onedl-mmpretrain', 'mmpretrain.models'),
}
OPTIONAL = {'mmpretrain': 'classification configs', 'timm': 'the timm entry points'}
DISTRIBUTIONS = ('torch', 'torchvision', 'numpy', 'timm', 'ftfy', 'regex', 'setuptools') + tuple(
    name for stock, onedl, _ in FAMILIES.values() for name in (*stock, onedl)
)


@dataclass(frozen=True)
class Finding:
    """One row: `verdict` is 'ok', 'warn' or 'fail'; `install` and `uninstall` are what pip would be told."""

    name: str
    version: str
    verdict: str
    what: str
    remedy: str = ''
    install: tuple[str, ...] = ()
    uninstall: tuple[str, ...] = ()


def requirements():
    """Distribution -> requirement line of `lite.txt`, in its order."""
    lines = [line.strip() for line in LITE.read_text(encoding='utf-8').splitlines()]
    return {re.split(r'[<>=!~ ]', line)[0]: line for line in lines if line and not line.startswith('#')}


def release(version):
    """'2.1.0+cu118' -> (2, 1, 0); pre-release marks are dropped."""
    return tuple(int(part) for part in re.match(r'[\d.]*', version)[0].strip('.').split('.') if part)


def oldest_torch():
    """The lower bound of torch in `lite.txt`, as text: '2.4'."""
    return wanted('torch').partition('>=')[2]


def judge(facts):
    """Findings about the facts, one for each package and one for each misfit between packages."""
    rows = [_python(facts), _torch(facts), _torchvision(facts), _plain(facts, 'numpy')]
    rows += [_family(facts, name) for name in FAMILIES]
    rows += [_plain(facts, name) for name in ('timm', 'ftfy', 'regex')]
    rows += [_setuptools(facts), *_misfits(facts)]
    return rows


def usable(findings):
    """True if segmentation and detection can be trained here."""
    return all(finding.verdict != 'fail' for finding in findings)


def fix_command(findings):
    """The one command that mends what is not ok; '' if there is nothing to mend or pip cannot."""
    broken = [finding for finding in findings if finding.verdict != 'ok']
    out = list(dict.fromkeys(name for finding in broken for name in finding.uninstall))
    into = list(dict.fromkeys(line for finding in broken for line in finding.install))
    force = any(finding.name == 'torchvision' and finding.version for finding in broken)
    commands = []
    if out:
        commands.append('python -m pip uninstall -y ' + ' '.join(out))
    if into:
        quoted = (f'"{line}"' if re.search('[<>]', line) else line for line in into)
        commands.append('python -m pip install ' + '--force-reinstall ' * force + ' '.join(quoted))
    return ' && '.join(commands)


def found(facts, name):
    """Distributions of the family that are installed."""
    stock, onedl, _ = FAMILIES[name]
    return [distribution for distribution in (*stock, onedl) if distribution in facts.versions]


def wanted(name):
    """The line of `lite.txt` for a package or family; the bare name if the list leaves it to others (numpy)."""
    lines = requirements()
    return lines['mmcv-lite'] if name == 'mmcv' else lines.get(name, name)


def _missing(name):
    line = wanted(name)
    if name in OPTIONAL:
        return Finding(name, '', 'warn', f'not installed; needed for {OPTIONAL[name]}', f'pip install {line}', (line,))
    return Finding(name, '', 'fail', 'not installed', f'pip install {line}', (line,))


def _plain(facts, name):
    if name not in facts.versions:
        return _missing(name)
    version = facts.versions[name]
    if name in facts.failures:
        verdict = 'warn' if name in OPTIONAL else 'fail'
        what = f'cannot be imported: {facts.failures[name]}'
        return Finding(name, version, verdict, what, f'reinstall {name}', (wanted(name),), (name,))
    return Finding(name, version, 'ok', 'can be imported')


def _python(facts):
    if release(facts.python) < (3, 10):
        return Finding('python', facts.python, 'fail', 'older than 3.10', 'use Python 3.10 to 3.13')
    if release(facts.python) >= (3, 14):
        what = 'newer than 3.13; mmengine calls pkgutil.find_loader, which is gone'
        return Finding('python', facts.python, 'fail', what, 'use Python 3.10 to 3.13')
    return Finding('python', facts.python, 'ok', '3.10 to 3.13')


def _torch(facts):
    row = _plain(facts, 'torch')
    if row.verdict != 'ok':
        return row
    if release(row.version) < release(oldest_torch()):
        what = f'older than {oldest_torch()}, the oldest that mmfreq is tested on'
        into = (wanted('torch'), wanted('torchvision'))
        return Finding('torch', row.version, 'fail', what, 'a newer torch, and the torchvision that belongs to it', into)
    return Finding('torch', row.version, 'ok', f'CUDA: {facts.devices.get("torch built for CUDA")}')


def _torchvision(facts):
    version, failure = facts.versions.get('torchvision'), facts.failures.get('torchvision')
    if not version or not failure or 'torch' in facts.failures:
        return _plain(facts, 'torchvision')
    what = f'does not fit torch {facts.versions.get("torch")}, they are not from the same build: {failure}'
    remedy = 'install both from one index, with one command'
    return Finding('torchvision', version, 'fail', what, remedy, (wanted('torch'), wanted('torchvision')))


def _family(facts, name):
    installed = found(facts, name)
    if not installed:
        return _missing(name)
    module = FAMILIES[name][2]
    version = ' + '.join(f'{distribution} {facts.versions[distribution]}' for distribution in installed)
    if len(installed) > 1:
        what = f'{" and ".join(installed)} write into one folder'
        remedy = 'take all of them out and put one in'
        return Finding(name, version, 'fail', what, remedy, (wanted(name),), tuple(installed))
    if module in facts.failures:
        verdict = 'warn' if name in OPTIONAL else 'fail'
        what = f'import {module} fails: {facts.failures[module]}'
        return Finding(name, version, verdict, what, 'see the other rows first: most import failures follow from them')
    if name == 'mmcv':
        kind = "torchvision's kernels by mmfreq" if facts.fallback else 'compiled'
        return Finding(name, version, 'ok', f'ops: {kind}, {sum(facts.ops.values())} of {len(facts.ops)} can be called')
    return Finding(name, version, 'ok', f'import {module} works')


def _setuptools(facts):
    version, line = facts.versions.get('setuptools'), wanted('setuptools')
    mmengine = facts.versions.get('mmengine', '')
    if found(facts, 'mmengine') == ['onedl-mmengine']:
        return Finding('setuptools', version or '', 'ok', 'not needed: onedl-mmengine does not import pkg_resources')
    if 'pkg_resources' in facts.failures and (not mmengine or release(mmengine) <= (0, 10, 7)):
        what = 'mmengine imports pkg_resources, which is not there'
        return Finding('setuptools', version or '', 'fail', what, f'pip install "{line}"', (line,))
    if version and release(version) >= (82,) and mmengine and release(mmengine) <= (0, 10, 7):
        what = '82 and later have no pkg_resources, which mmengine imports'
        return Finding('setuptools', version, 'warn', what, f'pip install "{line}"', (line,))
    return Finding('setuptools', version or '', 'ok', 'pkg_resources can be imported' if version else 'not needed')


def _misfits(facts):
    versions = {name: release(version) for name, version in facts.versions.items()}
    mmengine, torch = versions.get('mmengine'), versions.get('torch')
    if mmengine and torch and mmengine < (0, 10, 6) and torch >= (2, 5):
        what = 'before 0.10.6 it registers Adafactor, which torch >= 2.5 has itself'
        yield Finding('mmengine x torch', facts.versions['mmengine'], 'fail', what, 'newer mmengine', (wanted('mmengine'),))
    stock = [name for name in ('mmdet', 'mmsegmentation') if name in versions]
    onedl = [name for name in versions if name.startswith('onedl-')]
    everything = [name for family in FAMILIES for name in found(facts, family)]
    mixed = [name for name in everything if name not in onedl]
    mmcv = next((name for name in ('mmcv', 'mmcv-lite') if name in versions), None)
    if onedl and mixed:
        refused = stock and 'onedl-mmcv' in onedl
        what = f'{", ".join(onedl)} beside stock {", ".join(mixed)}'
        what += f': {" and ".join(stock)} refuse its mmcv' if refused else ': nobody tests such a mixture'
        remedy = 'take OneDL as a set, or none of it; the command takes it out'
        lite = tuple(wanted(name) for name in FAMILIES)
        yield Finding('OneDL', '', 'fail' if refused else 'warn', what, remedy, lite, tuple(everything))
    elif mmcv and stock and versions[mmcv] >= (2, 2):
        what = f'{" and ".join(stock)} refuse mmcv >= 2.2.0'
        yield Finding('mmcv x mmdet', facts.versions[mmcv], 'fail', what, wanted('mmcv'), (wanted('mmcv'),), (mmcv,))
    elif mmcv and versions[mmcv] < (2,):
        what = 'OpenMMLab 1.x; mmfreq needs 2.x'
        yield Finding('mmcv x mmdet', facts.versions[mmcv], 'fail', what, wanted('mmcv'), (wanted('mmcv'),), (mmcv,))
