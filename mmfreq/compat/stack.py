"""The installed stack: its facts, and what they mean for mmfreq.

First half, facts: `gather` collects versions, failing imports, GPUs and mmcv's ops as `Facts` and judges nothing. Every check may
fail; the text of the failure is then the fact. Second half, judgment: `judge` is a pure function of `Facts`. It returns a `Finding`
for each package and each known incompatibility, from which `fix_command` makes one pip command. The required packages are listed in
`lite.txt` only. Importing this module needs nothing but the standard library.
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

LITE = Path(__file__).with_name('lite.txt')  # its lower bound of torch is the oldest one that is tested

# name here -> (stock distributions, OneDL distribution, module that is imported as a check)
OPENMMLAB = {
    'mmengine': (('mmengine',), 'onedl-mmengine', 'mmengine'),
    'mmcv': (('mmcv-lite', 'mmcv', 'mmcv-full'), 'onedl-mmcv', 'mmcv.ops'),
    'mmsegmentation': (('mmsegmentation',), 'onedl-mmsegmentation', 'mmseg.models'),
    'mmdet': (('mmdet',), 'onedl-mmdetection', 'mmdet.models'),
    'mmpretrain': (('mmpretrain',), 'onedl-mmpretrain', 'mmpretrain.models'),
}
OPTIONAL = {'mmpretrain': 'classification configs', 'timm': 'the timm entry points'}
DISTRIBUTIONS = ('torch', 'torchvision', 'numpy', 'timm', 'ftfy', 'regex', 'setuptools') + tuple(
    name for stock, onedl, _ in OPENMMLAB.values() for name in (*stock, onedl)
)
MODULES = (  # in this order: the first failure causes the later ones
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
    """What is installed; tests construct their own."""

    python: str
    versions: dict[str, str] = field(default_factory=dict)  # distribution, as the package index spells it -> version
    failures: dict[str, str] = field(default_factory=dict)  # module -> text of the exception that its import raised
    fallback: bool = False  # mmcv's ops are those of mmfreq
    ops: dict[str, bool] = field(default_factory=dict)  # op of mmcv -> whether it can be called
    devices: dict[str, object] = field(default_factory=dict)


def gather(distributions, modules=None):
    """The facts of the running interpreter about these distributions; takes seconds, because it imports `modules` (`MODULES`)."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        failures = {name: text for name in modules or MODULES if (text := import_error(name))}
        if 'torchvision' not in failures and (text := kernel_error()):
            failures['torchvision'] = text
    return Facts(
        python=platform.python_version(),
        versions=versions,
        failures=failures,
        fallback=finder.using_fallback(),
        ops={} if 'mmcv.ops' in failures else available_ops(),
        devices={} if 'torch' in failures else devices(),
    )


def import_error(name):
    """'' if the module can be imported, otherwise the first line of the exception."""
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return ''


def kernel_error():
    """'' if torchvision's compiled kernels work, otherwise the exception: of another build they may import and fail when called."""
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


def ops_that_mmcv_loads():
    """Names that the installed `mmcv/ops/*.py` load from `mmcv._ext`, sorted, read from their source; [] without mmcv."""
    spec = find_spec('mmcv')
    names = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, 'ops').glob('*.py')):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                    names.update(ast.literal_eval(node.args[1]))
    return sorted(names)


def available_ops():
    """Op of mmcv -> whether it can be called: compiled, or replaced by mmfreq."""
    module = importlib.import_module(finder.NAME)
    supplied = module.__all__ if finder.using_fallback() else dir(module)
    return {op: op in supplied for op in ops_that_mmcv_loads()}


@dataclass(frozen=True)
class Finding:
    """The judgment of one package: `verdict` is 'ok', 'warn' or 'fail'; `install` and `uninstall` are arguments of pip."""

    name: str
    version: str
    verdict: str
    what: str
    remedy: str = ''
    install: tuple[str, ...] = ()
    uninstall: tuple[str, ...] = ()


def judge(facts):
    """Findings: one for each package, and one for each incompatibility between packages."""
    rows = [_python(facts), _torch(facts), _torchvision(facts), _package(facts, 'numpy')]
    rows += [_openmmlab(facts, name) for name in OPENMMLAB]
    rows += [_package(facts, name) for name in ('timm', 'ftfy', 'regex')]
    rows += [_setuptools(facts), *_incompatibilities(facts)]
    return rows


def usable(findings):
    """Whether segmentation and detection can be trained here."""
    return all(finding.verdict != 'fail' for finding in findings)


def fix_command(findings):
    """The one command that fixes what is not ok; '' if there is nothing to fix or pip cannot do it."""
    broken = [finding for finding in findings if finding.verdict != 'ok']
    uninstall = list(dict.fromkeys(name for finding in broken for name in finding.uninstall))
    install = list(dict.fromkeys(line for finding in broken for line in finding.install))
    force = any(finding.name == 'torchvision' and finding.version for finding in broken)
    commands = []
    if uninstall:
        commands.append('python -m pip uninstall -y ' + ' '.join(uninstall))
    if install:
        quoted = (f'"{line}"' if re.search('[<>]', line) else line for line in install)
        commands.append('python -m pip install ' + '--force-reinstall ' * force + ' '.join(quoted))
    return ' && '.join(commands)


def requirements():
    """Distribution -> requirement line of `lite.txt`, in its order."""
    lines = [line.strip() for line in LITE.read_text(encoding='utf-8').splitlines()]
    return {re.split(r'[<>=!~ ]', line)[0]: line for line in lines if line and not line.startswith('#')}


def required(name):
    """The requirement line of a package; its bare name if `lite.txt` does not list it (numpy)."""
    lines = requirements()
    return lines['mmcv-lite'] if name == 'mmcv' else lines.get(name, name)


def release(version):
    """'2.1.0+cu118' -> (2, 1, 0); pre-release marks are dropped."""
    return tuple(int(part) for part in re.match(r'[\d.]*', version)[0].strip('.').split('.') if part)


def oldest_torch():
    """The lower bound of torch in `lite.txt`, as text: '2.4'."""
    return required('torch').partition('>=')[2]


def installed(facts, name):
    """The installed distributions of an OpenMMLab package."""
    stock, onedl, _ = OPENMMLAB[name]
    return [distribution for distribution in (*stock, onedl) if distribution in facts.versions]


def _missing(name):
    line = required(name)
    if name in OPTIONAL:
        return Finding(name, '', 'warn', f'not installed; needed for {OPTIONAL[name]}', f'pip install {line}', (line,))
    return Finding(name, '', 'fail', 'not installed', f'pip install {line}', (line,))


def _package(facts, name):
    if name not in facts.versions:
        return _missing(name)
    version = facts.versions[name]
    if name in facts.failures:
        verdict = 'warn' if name in OPTIONAL else 'fail'
        what = f'cannot be imported: {facts.failures[name]}'
        return Finding(name, version, verdict, what, f'reinstall {name}', (required(name),), (name,))
    return Finding(name, version, 'ok', 'can be imported')


def _python(facts):
    if release(facts.python) < (3, 10):
        return Finding('python', facts.python, 'fail', 'older than 3.10', 'use Python 3.10 to 3.13')
    if release(facts.python) >= (3, 14):
        what = 'newer than 3.13: mmengine calls pkgutil.find_loader, which Python 3.14 removed'
        return Finding('python', facts.python, 'fail', what, 'use Python 3.10 to 3.13')
    return Finding('python', facts.python, 'ok', '3.10 to 3.13')


def _torch(facts):
    row = _package(facts, 'torch')
    if row.verdict != 'ok':
        return row
    if release(row.version) < release(oldest_torch()):
        what = f'older than {oldest_torch()}, the oldest version that mmfreq is tested on'
        lines = (required('torch'), required('torchvision'))
        return Finding('torch', row.version, 'fail', what, 'install a newer torch with its matching torchvision', lines)
    return Finding('torch', row.version, 'ok', f'CUDA: {facts.devices.get("torch built for CUDA")}')


def _torchvision(facts):
    version, failure = facts.versions.get('torchvision'), facts.failures.get('torchvision')
    if not version or not failure or 'torch' in facts.failures:
        return _package(facts, 'torchvision')
    what = f'is not from the same build as torch {facts.versions.get("torch")}: {failure}'
    lines = (required('torch'), required('torchvision'))
    return Finding('torchvision', version, 'fail', what, 'install both from one index, with one command', lines)


def _openmmlab(facts, name):
    distributions = installed(facts, name)
    if not distributions:
        return _missing(name)
    module = OPENMMLAB[name][2]
    version = ' + '.join(f'{distribution} {facts.versions[distribution]}' for distribution in distributions)
    if len(distributions) > 1:
        what = f'{" and ".join(distributions)} install into one folder'
        return Finding(name, version, 'fail', what, 'uninstall all of them, install one', (required(name),), tuple(distributions))
    if module in facts.failures:
        verdict = 'warn' if name in OPTIONAL else 'fail'
        what = f'import {module} fails: {facts.failures[module]}'
        return Finding(name, version, verdict, what, 'fix the other rows first: they cause most import failures')
    if name == 'mmcv':
        source = "torchvision's kernels by mmfreq" if facts.fallback else 'compiled'
        return Finding(name, version, 'ok', f'ops: {source}, {sum(facts.ops.values())} of {len(facts.ops)} can be called')
    return Finding(name, version, 'ok', f'import {module} works')


def _setuptools(facts):
    version, line = facts.versions.get('setuptools', ''), required('setuptools')
    mmengine = facts.versions.get('mmengine', '')
    needed = not mmengine or release(mmengine) <= (0, 10, 7)
    if installed(facts, 'mmengine') == ['onedl-mmengine']:
        return Finding('setuptools', version, 'ok', 'not needed: onedl-mmengine does not import pkg_resources')
    if 'pkg_resources' in facts.failures and needed:
        what = 'mmengine imports pkg_resources, which is not installed'
        return Finding('setuptools', version, 'fail', what, f'pip install "{line}"', (line,))
    if version and release(version) >= (82,) and mmengine and needed:
        what = '82 and later do not have pkg_resources, which mmengine imports'
        return Finding('setuptools', version, 'warn', what, f'pip install "{line}"', (line,))
    return Finding('setuptools', version, 'ok', 'pkg_resources can be imported' if version else 'not needed')


def _incompatibilities(facts):
    versions = {name: release(version) for name, version in facts.versions.items()}
    mmengine, torch = versions.get('mmengine'), versions.get('torch')
    if mmengine and torch and mmengine < (0, 10, 6) and torch >= (2, 5):
        what = 'mmengine before 0.10.6 registers Adafactor, which torch >= 2.5 has itself'
        remedy = 'install a newer mmengine'
        yield Finding('mmengine x torch', facts.versions['mmengine'], 'fail', what, remedy, (required('mmengine'),))
    refusing = ' and '.join(name for name in ('mmdet', 'mmsegmentation') if name in versions)
    distributions = [name for package in OPENMMLAB for name in installed(facts, package)]
    onedl = [name for name in distributions if name.startswith('onedl-')]
    stock = [name for name in distributions if name not in onedl]
    mmcv = next((name for name in ('mmcv', 'mmcv-lite') if name in versions), None)
    replace_mmcv = (f'install {required("mmcv")}', (required('mmcv'),), (mmcv,))
    if onedl and stock:
        refused = refusing and 'onedl-mmcv' in onedl
        what = f'{", ".join(onedl)} and stock {", ".join(stock)} are mixed: '
        what += f'{refusing} refuse onedl-mmcv' if refused else 'the mixture is not tested'
        remedy = 'use the OneDL packages only, or none of them; the command uninstalls them'
        lite = tuple(required(name) for name in OPENMMLAB)
        yield Finding('OneDL', '', 'fail' if refused else 'warn', what, remedy, lite, tuple(distributions))
    elif mmcv and refusing and versions[mmcv] >= (2, 2):
        yield Finding('mmcv x mmdet', facts.versions[mmcv], 'fail', f'{refusing} refuse mmcv >= 2.2.0', *replace_mmcv)
    elif mmcv and versions[mmcv] < (2,):
        yield Finding('mmcv x mmdet', facts.versions[mmcv], 'fail', 'OpenMMLab 1.x; mmfreq needs 2.x', *replace_mmcv)
