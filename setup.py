"""The build step that pyproject.toml cannot express: configs and tools in `mmfreq/.mim`, where OpenMMLab looks for them.

All metadata is in pyproject.toml.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# mmengine and mim look here for the configs of an installed package: `mmfreq::seg/...`
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')


class BuildWithConfigs(build_py):
    """Adds `mmfreq/.mim`: copies in the build folder for a wheel, links in the source tree for an editable installation."""

    def run(self):
        if self.editable_mode:
            super().run()
            self.link_into_source_tree()
            return
        # files of an earlier build that have been renamed since must not get into this wheel
        shutil.rmtree(Path(self.build_lib) / 'mmfreq', ignore_errors=True)
        super().run()
        for source, target in self.mim_files():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def get_outputs(self, include_bytecode=1):
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else outputs + [str(target) for _, target in self.mim_files()]

    def mim_files(self):
        """Pairs of a source file and its path in the build folder."""
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


setup(cmdclass={'build_py': BuildWithConfigs})
