"""The documentation site: it builds without a warning, is complete, and its links lead somewhere."""

import re
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import mmfreq
from tests.docs.html_links import broken_links, is_external, read_pages

pytestmark = pytest.mark.slow

PAGES = [
    'index',
    'getting_started',
    'models',
    'model_zoo',
    'configs',
    'image_sizes',
    'decoders',
    'weights',
    'training',
    'data',
    'performance',
    'deployment',
    'reliability',
    'reproduction',
    'tools',
    'cookbook',
    'gallery',
    'troubleshooting',
    'contributing',
    'adding_a_size',
    'adding_a_family',
    'changelog',
    'measurements/index',
    'api/index',
    'api/mmfreq',
    'api/ops',
    'api/layers',
    'api/backbones',
    'api/decoders',
    'api/engine',
    'api/datasets',
    'api/apis',
    'api/export',
    'generated/tutorials/index',
    'generated/tutorials/features_and_filters',
    'generated/tutorials/fine_tuning',
    'generated/tutorials/gnconv_in_your_network',
]
FIGURES = {'features_and_filters': 2, 'fine_tuning': 2, 'gnconv_in_your_network': 2}
REGISTRIES = ('MODELS', 'TASK_UTILS', 'DATASETS', 'TRANSFORMS', 'HOOKS', 'LOOPS', 'OPTIM_WRAPPER_CONSTRUCTORS')
# hosts of the links that lead out of the site; whether they answer is not tested, because the tests have no network
HOSTS = {
    'arxiv.org',
    'cloud.tsinghua.edu.cn',
    'github.com',
    'keepachangelog.com',
    'pradyunsg.me',
    'semver.org',
    'sphinx-gallery.github.io',
    'www.apache.org',
    'www.sphinx-doc.org',
}


@pytest.fixture(scope='module')
def pages(site):
    return read_pages(site)


def test_every_page_is_there(site):
    assert [name for name in PAGES if not (site / f'{name}.html').is_file()] == []


def test_the_tutorials_were_executed(site):
    for name, count in FIGURES.items():
        text = (site / f'generated/tutorials/{name}.html').read_text(encoding='utf-8')
        assert len(re.findall(r'<img [^>]*class ?= ?"sphx-glr-(?:single|multi)-img"', text)) == count, name
        assert 'sphx-glr-script-out' in text and 'Traceback' not in text, name


def test_every_link_inside_the_site_leads_somewhere(pages):
    assert len(pages) > 150 and sum(len(page.links) for page in pages.values()) > 5000
    assert broken_links(pages) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / 'a.html').write_text('<h1 id="top">A</h1><a href="b.html#x">b</a><a href="#top">top</a><a href="c.html">c</a>')
    (tmp_path / 'b.html').write_text('<p id="y"></p><a href="a.html#top">a</a><a href="https://arxiv.org/">out</a>')
    assert broken_links(read_pages(tmp_path)) == ['a.html: b.html#x', 'a.html: c.html']


def test_links_out_of_the_site_are_well_formed_and_to_known_hosts(pages):
    links = {link for page in pages.values() for link in page.links if is_external(link) and not link.startswith('data:')}
    assert links
    for link in links:
        parts = urlsplit(link)
        assert parts.scheme == 'https' and not re.search(r'[\s<>"`]', link), link
        assert parts.hostname in HOSTS, link


def test_nothing_of_the_machine_is_on_the_pages(site):
    """No path of a home folder, of a temporary folder or of the checkout."""
    root = str(Path(mmfreq.__file__).resolve().parents[1])
    for path in site.rglob('*.html'):
        text = path.read_text(encoding='utf-8')
        assert root not in text and '/tmp/' not in re.sub(r'Loads checkpoint by local backend from path: \S+', '', text), path.name


def public_names():
    """Every name of the public packages, and the class of every registered type, as the API reference may write them."""
    for module in ('mmfreq', 'mmfreq.ops', 'mmfreq.layers', 'mmfreq.apis', 'mmfreq.export'):
        yield from (f'{module}.{name}' for name in import_module(module).__all__)
    registry = import_module('mmfreq.registry')
    for name in REGISTRIES:
        getattr(registry, name).import_from_location()
        yield from (f'{kind.__module__}.{kind.__qualname__}' for kind in getattr(registry, name).module_dict.values())


def test_the_api_reference_has_every_public_name(site, pages):
    anchors = {anchor for path, page in pages.items() if path.parent.name == 'api' for anchor in page.anchors}
    names = set(public_names())
    assert len(names) > 55
    assert sorted(names - anchors) == []


def test_registries_are_all_of_them():
    registry = import_module('mmfreq.registry')
    own = {name for name, value in vars(registry).items() if getattr(value, 'scope', '') == 'mmfreq'}
    assert own == set(REGISTRIES)


def test_a_browser_opens_the_front_page_and_an_api_page(site, browser):
    screen = browser.new_page(viewport={'width': 1400, 'height': 1000})
    errors, requests = [], []
    screen.on('console', lambda message: message.type == 'error' and errors.append(message.text))
    screen.on('pageerror', lambda error: errors.append(str(error)))
    screen.on('request', lambda request: requests.append(request.url))
    screen.goto((site / 'index.html').as_uri())
    assert screen.title().startswith('mmfreq')
    assert screen.locator('.cards li').count() == 8 and screen.locator('.cards li').first.is_visible()
    screen.get_by_role('link', name='API reference').first.click()
    screen.locator('article').get_by_role('link', name='mmfreq.layers').first.click()
    heading = screen.locator('dt[id="mmfreq.layers.GnConv"]')
    heading.wait_for()  # visible: the click does not wait for the page
    assert 'order' in heading.inner_text()
    sections = screen.locator('dl:has(> dt[id="mmfreq.layers.GnConv"])').inner_text().lower()
    assert all(word in sections for word in ('parameters', 'shape', 'raises'))
    assert errors == [] and not [url for url in requests if not url.startswith('file:')]
    screen.close()
