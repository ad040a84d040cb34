"""The package of mmfreq. Each fact is read from the one file that owns it: the version from mmfreq/version.py, the default
stack and the oldest torch from mmfreq/compat/lite.txt, the OneDL forks from mmfreq/compat/onedl.txt, the test tools from
tools/requirements-test.txt.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# what OpenMMLab tools look for in <package>/.mim, so that `mmfreq::seg/...` and `mim` find the configs of an installed package
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')


def read(path):
    return (ROOT / path).read_text(encoding='utf-8')


def version():
    return re.search(r"^__version__ = '(.+)'$", read('mmfreq/version.py'), re.MULTILINE).group(1)


def requirements(path):
    lines = (line.split('#')[0].strip() for line in read(path).splitlines())
    return [line for line in lines if line]


def oldest_torch():
    """'torch>=X', as the default stack has it."""
    return next(line for line in requirements('mmfreq/compat/lite.txt') if re.match(r'torch\b', line))


class BuildWithConfigs(build_py):
    """Adds `mmfreq/.mim`: copies in the build folder for a wheel, links in the source tree for an editable installation."""

    def run(self):
        if self.editable_mode:
            super().run()
            self.link_into_source_tree()
            return
        # a build folder left by an earlier build must not carry files that have since been renamed into this wheel
        shutil.rmtree(Path(self.build_lib) / 'mmfreq', ignore_errors=True)
        super().run()
        for source, target in self.mim_files():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def get_outputs(self, include_bytecode=1):
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else outputs + [str(target) for _, target in self.mim_files()]

    def mim_files(self):
        """Pairs of a source file and its place in the build folder."""
        for entry in MIM_ENTRIES:
            source = ROOT / entry
            files = [source] if source.is_file() else sorted(source.rglob('*'))
            for file in files:
                if file.is_file() and '__pycache__' not in file.parts:
                    yield file, Path(self.build_lib) / 'mmfreq' / '.mim' / file.relative_to(ROOT)

    def link_into_source_tree(self):
        mim = ROOT / 'mmfreq' / '.mim'
        mim.mkdir(exist_ok=True)
        for entry in MIM_ENTRIES:
            link = mim / entry
            if (ROOT / entry).exists() and not link.exists():
                link.unlink(missing_ok=True)  # a dangling link
                link.symlink_to(os.path.join('..', '..', entry))


setup(
    name='mmfreq',
    version=version(),
    description='Frequency-domain and gnConv backbones and decoders for OpenMMLab 2.x',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE.md'],
    python_requires='>=3.10',
    packages=find_packages(include=['mmfreq', 'mmfreq.*']),
    package_data={'mmfreq': ['**/*.txt', '**/*.json', '**/*.yml', '**/*.md', '**/*.html']},
    include_package_data=False,
    cmdclass={'build_py': BuildWithConfigs},
    # No OpenMMLab distribution here: a compiled mmcv, mmcv-lite and the OneDL forks share import names, and to require one
    # would install it over the others. The extras name one complete stack each.
    install_requires=['numpy', oldest_torch(), 'torchvision'],
    extras_require={
        'lite': requirements('mmfreq/compat/lite.txt'),
        'onedl': requirements('mmfreq/compat/onedl.txt'),
        'export': ['onnx', 'onnxruntime', 'onnxscript'],
        'dev': [*requirements('tools/requirements-test.txt'), 'pre-commit'],
    },
    classifiers=[
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
)
