"""Links of Markdown pages to files of the repository that are not pages: configs, tests, source files.

In the repository such a link is relative (`../configs/seg/NAME.py`). On the site it leads to a page with the text of the file,
highlighted. A link to one of `PAGES` leads to the page that includes that file, and a link to a
tutorial to the page that its execution gave. A link to a file that does not exist is left to
MyST, which warns, so that a build with warnings as errors fails.

Markdown that is included from another folder has its links rewritten to start at the page that includes it.
"""

import os
import re
from pathlib import Path

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]
PAGES = {'README.md': 'index', 'model_zoo.md': 'model_zoo', 'CHANGELOG.md': 'changelog', 'CONTRIBUTING.md': 'contributing'}
LINK = re.compile(r'(?<=\]\()(?!\w+:|#|/)([^)\s]+)(?=\))')
FOLDER = 'files'  # of the site
TUTORIALS = 'docs/tutorials/'


def rebased(text, old, new):
    """Markdown with its relative links starting at folder `new` instead of folder `old`."""
    return LINK.sub(lambda link: Path(os.path.relpath(old / link[1], new)).as_posix(), text)


def rebase_included(app, relative_path, docname, content):
    """Handler of `include-read`."""
    path = (app.srcdir / relative_path).resolve()
    if path.suffix == '.md':
        content[0] = rebased(content[0], path.parent, (app.srcdir / docname).parent)


class RepositoryLinks(SphinxTransform):
    """Replaces what MyST makes of links to existing files: downloads, and for Markdown files references to pages."""

    default_priority = 200

    def apply(self, **kwargs):
        for node in [*self.document.findall(addnodes.download_reference), *self.document.findall(addnodes.pending_xref)]:
            path = self.repository_file(node)
            if path in PAGES:
                node['reftarget'] = PAGES[path]  # still a reference of MyST, which checks its anchor
            elif path and path.startswith(TUTORIALS):
                page = f'/generated/tutorials/{Path(path).stem}'
                node.replace_self(
                    addnodes.pending_xref('', *node.children, refdomain='std', reftype='doc', reftarget=page, refexplicit=True)
                )
            elif path:
                self.env.note_dependency(str(ROOT / path))
                files_of(self.env).setdefault(self.env.docname, set()).add(path)
                node.replace_self(nodes.reference('', '', *node.children, repository_file=path, internal=True))

    def repository_file(self, node):
        """Path from the root of the repository of the existing file outside `docs` that a link is to; None for other links."""
        if node.get('reftype') != 'myst':
            return None
        if isinstance(node, addnodes.download_reference):
            path = Path(self.env.relfn2path(node['reftarget'], self.env.docname)[1])
        elif node.get('refdomain') == 'doc' and Path(node['reftarget']).is_absolute():
            path = Path(f'{node["reftarget"]}.md')
        else:
            return None
        path = path.resolve()
        return path.relative_to(ROOT).as_posix() if path.is_file() and path.is_relative_to(ROOT) else None


def files_of(env):
    """Page -> files of the repository that it links to."""
    if not hasattr(env, 'repository_files'):
        env.repository_files = {}
    return env.repository_files


def purge(app, env, docname):
    files_of(env).pop(docname, None)


def merge(app, env, docnames, other):
    files_of(env).update({name: files for name, files in files_of(other).items() if name in docnames})


def resolve(app, doctree, docname):
    """Handler of `doctree-resolved`: the addresses of the pages, relative to the page with the link."""
    for node in doctree.findall(nodes.reference):
        path = node.attributes.pop('repository_file', None)
        if path:
            node['refuri'] = app.builder.get_relative_uri(docname, f'{FOLDER}/{path}')


def pages(app):
    """Handler of `html-collect-pages`: one page for each file."""
    for path in sorted({path for files in files_of(app.env).values() for path in files}):
        text = (ROOT / path).read_text(encoding='utf-8')
        try:
            lexer = get_lexer_for_filename(path).aliases[0]
        except ClassNotFound:
            lexer = 'text'
        body = app.builder.highlighter.highlight_block(text, lexer, force=True, linenos=False)
        yield f'{FOLDER}/{path}', {'title': path, 'body': f'<h1>{path}</h1>\n{body}'}, 'page.html'


def setup(app):
    app.add_transform(RepositoryLinks)
    app.connect('include-read', rebase_included)
    app.connect('env-purge-doc', purge)
    app.connect('env-merge-info', merge)
    app.connect('doctree-resolved', resolve)
    app.connect('html-collect-pages', pages)
    return {'version': '1', 'parallel_read_safe': True, 'parallel_write_safe': True}
