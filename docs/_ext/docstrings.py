"""Docstrings of mmfreq in the API reference: its registered classes by the names that configs use, and the Markdown in docstrings.

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


def markdown_in_docstrings(app, what, name, obj, options, lines):
    """Handler of `autodoc-process-docstring`, before napoleon: Markdown tables, and `**` of `a, b, **kwargs: ...`."""
    lines[:] = with_tables([re.sub(r'(?<=, )(\*+)(?=\w+: )', lambda stars: stars[0].replace('*', r'\*'), line) for line in lines])


def with_tables(lines):
    """The lines of a docstring with Markdown tables as list tables of reStructuredText.

    A table starts with a header row and a rule such as `|---|---|`.
    """
    out, at = [], 0
    while at < len(lines):
        rows = []
        while at + len(rows) < len(lines) and lines[at + len(rows)].lstrip().startswith('|'):
            rows.append(lines[at + len(rows)])
        if len(rows) < 2 or not re.fullmatch(r'[\s|:-]+', rows[1]):
            out.append(lines[at])
            at += 1
            continue
        indent = ' ' * (len(rows[0]) - len(rows[0].lstrip()))
        out += ['', f'{indent}.. list-table::', f'{indent}   :header-rows: 1', '']
        for row in (rows[0], *rows[2:]):
            cells = [cell.strip() for cell in row.strip().strip('|').split('|')]
            out += [f'{indent}   {"*" if i == 0 else " "} - {cell}' for i, cell in enumerate(cells)]
        out.append('')
        at += len(rows)
    return out


def setup(app):
    app.add_directive('registered', Registered)
    app.connect('autodoc-process-docstring', add_line)
    app.connect('autodoc-process-docstring', markdown_in_docstrings, priority=100)
    return {'version': '1', 'parallel_read_safe': True, 'parallel_write_safe': True}
