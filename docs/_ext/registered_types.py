"""The classes of mmfreq's registries in the API reference, found by their names as configs find them.

`.. registered:: HorNet` documents the class that `type='mmfreq.HorNet'` builds, and adds how a config names it. It takes several
names.
"""

import re

from docutils.parsers.rst import Directive
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

REGISTRIES = ('MODELS', 'TASK_UTILS', 'DATASETS', 'TRANSFORMS', 'HOOKS', 'LOOPS', 'OPTIM_WRAPPER_CONSTRUCTORS')


def registered():
    """Name -> class, over all registries of mmfreq."""
    import mmfreq.registry

    found = {}
    for name in REGISTRIES:
        registry = getattr(mmfreq.registry, name)
        registry.import_from_location()
        found.update(registry.module_dict)
    return found


class Registered(SphinxDirective, Directive):
    """`.. registered:: NAME ...`"""

    required_arguments = 1
    optional_arguments = 100

    def run(self):
        kinds, found = registered(), []
        for name in self.arguments:
            if name not in kinds:
                raise ExtensionError(f'{self.env.docname}: no registry of mmfreq has {name}')
            kind = kinds[name]
            found += self.parse_text_to_nodes(f'.. autoclass:: {kind.__module__}.{kind.__qualname__}\n')
        return found


def add_line(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`: how a config names the class, after the first paragraph."""
    if what == 'class' and obj in registered().values():
        end = lines.index('') if '' in lines else len(lines)
        lines[end:end] = ['', f"In a config: ``type='mmfreq.{obj.__name__}'``."]


def escape_stars(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`, before napoleon: `**` of `a, b, **kwargs: ...` is not the start of bold text."""
    lines[:] = [re.sub(r'(?<=, )(\*+)(?=\w+: )', lambda stars: stars[0].replace('*', r'\*'), line) for line in lines]


def setup(app):
    app.add_directive('registered', Registered)
    app.connect('autodoc-process-docstring', add_line)
    app.connect('autodoc-process-docstring', escape_stars, priority=100)
    return {'version': '1', 'parallel_read_safe': True, 'parallel_write_safe': True}
