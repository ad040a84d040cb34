"""Does the installed stack run this config? The judgement of `python -m mmfreq.doctor`, on what the config's library needs."""

from mmfreq.compat.facts import gather
from mmfreq.compat.stack import DISTRIBUTIONS, judge, mend
from mmfreq.engine.errors import UserError

CORE = ('pkg_resources', 'numpy', 'torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops')
# default_scope -> (modules to import, rows of the doctor) beside the core
LIBRARIES = {
    'mmseg': (('mmseg.models', 'ftfy', 'regex'), ('mmsegmentation', 'ftfy', 'regex')),
    'mmdet': (('mmdet.models',), ('mmdet',)),
    'mmpretrain': (('mmpretrain.models',), ('mmpretrain',)),
}
ROWS = ('python', 'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'setuptools', 'mmengine x torch', 'mmcv x mmdet', 'OneDL')


class StackError(UserError):
    """What is installed cannot run the config."""


def check_versions(cfg, report, gather=gather):
    """Judge the packages that a config's library needs.

    Args:
        gather: of `mmfreq.compat.facts`; a test gives its own.

    Raises:
        StackError: some are missing or do not fit together; with the command that mends it.
    """
    modules, rows = LIBRARIES.get(cfg.get('default_scope'), ((), ()))
    facts = gather(DISTRIBUTIONS, modules=(*CORE, *modules))
    findings = [finding for finding in judge(facts) if finding.name in (*ROWS, *rows)]
    report.facts['versions'] = ', '.join(_named(finding) for finding in findings if finding.version)
    failed = [finding for finding in findings if finding.verdict == 'fail']
    if failed:
        told = [f'  {_named(finding)}: {finding.what}' + (f' -> {finding.remedy}' if finding.remedy else '') for finding in failed]
        command = mend(failed)
        told.append(f'To mend: {command}' if command else '`python -m mmfreq.doctor` says more.')
        raise StackError('\n'.join(['what is installed cannot run this config:', *told]))
    report.warnings += [
        f'{_named(finding)}: {finding.what}' + (f' ({finding.remedy})' if finding.remedy else '')
        for finding in findings
        if finding.verdict == 'warn'
    ]


def _named(finding):
    return finding.version if ' ' in finding.version else f'{finding.name} {finding.version}'.strip()
