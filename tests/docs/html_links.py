"""The links and anchors of HTML pages in a folder."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Page(HTMLParser):
    """One page.

    Attributes:
        links: values of `href` and `src`, in order.
        anchors: values of `id` and of `name` of links.
    """

    path: Path
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if value and name in ('href', 'src'):
                self.links.append(value)
            if value and (name == 'id' or (tag, name) == ('a', 'name')):
                self.anchors.add(value)

    __hash__ = None


def read_pages(folder):
    """Path -> Page, of all pages below a folder."""
    return {path: Page(path) for path in sorted(folder.rglob('*.html'))}


def is_external(link):
    return bool(urlsplit(link).scheme) or link.startswith('//')


def broken_links(pages):
    """['page: link'] of the links inside the site whose file or anchor does not exist."""
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if is_external(link) or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / 'index.html' if target.is_dir() else target
            anchor = unquote(parts.fragment)
            known = target in pages and anchor in pages[target].anchors
            if not target.is_file() or (anchor and target.suffix == '.html' and not known):
                broken.append(f'{path.name}: {link}')
    return broken
