"""The page in a headless browser: actions of a user and what the page shows.

A test fails on an error in the console and on a request to another host.
"""

import re
import time
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from mmfreq.demo.responses import encode_plane, sample_scenes
from mmfreq.demo.server import MAX_BYTES, make_server

# drops a file on an element, with the events of a browser
DROP = """([selector, bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name));
  for (const type of ['dragover', 'drop']) {
    document.querySelector(selector).dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: transfer}));
  }
}"""
# [width, height, colors as r,g,b,a with their counts] of a canvas
COLORS = """id => {
  const canvas = document.getElementById(id);
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const counts = {};
  for (let at = 0; at < data.length; at += 4) {
    const key = data.slice(at, at + 4).join();
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return [canvas.width, canvas.height, counts];
}"""


class Screen:
    """A page in the browser; `errors` are those in the console, `requests` the URLs that it requested."""

    def __init__(self, browser, server):
        self.server, self.errors, self.requests = server, [], []
        self.page = browser.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on('console', lambda message: message.type == 'error' and self.errors.append(message.text))
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.goto(server.url)
        self.until("document.getElementById('model').options.length > 0")

    def until(self, expression, seconds=30):
        """Wait for a condition. Playwright's own function evaluates strings in the page, which the policy of the page forbids."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def drop(self, data, name='image.png'):
        self.page.evaluate(DROP, ['#stage', list(data), name])

    def pick(self, name):
        self.page.select_option('#model', label=name)

    def text(self, selector):
        return self.page.inner_text(selector)

    def classes(self):
        """Name -> share in percent, after waiting for a prediction."""
        self.page.wait_for_selector('.class')
        rows = self.page.locator('.class')
        names, shares = rows.locator('.name').all_inner_texts(), rows.locator('.share').all_inner_texts()
        return {name: float(re.search(r'([\d.]+) %', share)[1]) for name, share in zip(names, shares)}

    def colors(self, canvas='masks'):
        return self.page.evaluate(COLORS, canvas)


@pytest.fixture
def screen(browser, server):
    screen = Screen(browser, server)
    yield screen
    screen.page.close()
    refused = 'Failed to load resource: the server responded with a status of 4'  # the browser logs the errors that the page shows
    assert [error for error in screen.errors if not error.startswith(refused)] == []
    hosts = {urlsplit(url).netloc for url in screen.requests if not url.startswith(('data:', 'blob:'))}
    assert hosts == {urlsplit(server.url).netloc}


@pytest.fixture(scope='module')
def scene():
    return sample_scenes()[0]


def expected_colors(server, name, data):
    """r,g,b,a -> number of pixels, from the API."""
    key = next(key for key, source in server.models.sources.items() if source.name == name)
    prediction = server.predict(key, data)
    area = prediction['size'][0] * prediction['size'][1]
    return {','.join(map(str, [*entry['color'], 255])): round(entry['share'] * area) for entry in prediction['legend']}


@pytest.mark.slow
def test_dropped_image_is_shown_with_its_prediction(screen, scene):
    assert screen.page.locator('#empty').is_visible()
    screen.drop(scene)
    classes = screen.classes()
    assert len(classes) > 1 and sum(classes.values()) == pytest.approx(100, abs=0.5)
    assert list(classes.values()) == sorted(classes.values(), reverse=True)
    width, height, colors = screen.colors()
    assert (width, height) == (240, 160) and colors == expected_colors(screen.server, 'iter_2.pth', scene)
    assert not screen.page.locator('#empty').is_visible() and not screen.page.locator('#busy').is_visible()
    width, height, colors = screen.colors('image')
    red, green, blue, _ = map(int, max(colors, key=colors.get).split(','))
    image = cv2.imdecode(np.frombuffer(scene, np.uint8), cv2.IMREAD_COLOR)
    assert (width, height) == (240, 160) and (image == [blue, green, red]).all(axis=2).any()
    assert re.search(r'Image 240 . 160 pixels\s+[\d.]+ (ms|s) on cpu', screen.text('#facts'))


@pytest.mark.slow
def test_scenes_and_chosen_files_are_predicted(screen, scene):
    screen.page.click('#samples button:first-child')
    classes = screen.classes()
    assert screen.page.get_attribute('#samples button:first-child', 'aria-pressed') == 'true'
    screen.page.click('#samples button:last-child')
    screen.until("document.querySelector('#image').getAttribute('aria-label') === 'Scene 4'")
    assert screen.classes() != classes
    screen.page.set_input_files('#file', files=[{'name': 'x.png', 'mimeType': 'image/png', 'buffer': scene}])
    screen.until("document.querySelector('#image').getAttribute('aria-label') === 'x.png'")
    assert screen.classes() == classes


@pytest.mark.slow
def test_opacity_slider_sends_no_request(screen, scene):
    screen.drop(scene)
    screen.classes()
    screen.page.wait_for_selector('#layers[data-done]')
    requests = len(screen.requests)
    opacity = "getComputedStyle(document.getElementById('masks')).opacity"
    for key, value in (('Home', '0'), ('End', '1')):
        screen.page.press('#opacity', key)
        screen.until(f"{opacity} === '{value}'")
    assert screen.text('#opacity-value') == '100 %' and len(screen.requests) == requests


@pytest.mark.slow
def test_class_is_highlighted_by_pointer_key_and_click(screen, scene):
    def highlighted():
        return {color for color in screen.colors()[2] if color.endswith(',255')}

    screen.drop(scene)
    screen.classes()
    everything = highlighted()
    screen.page.hover('.class >> nth=1')
    assert len(highlighted()) == 1 < len(everything)
    screen.page.mouse.move(1, 1)
    assert highlighted() == everything
    screen.page.focus('.class >> nth=0')
    screen.page.keyboard.press('Enter')
    screen.page.mouse.move(1, 1)
    screen.page.focus('#opacity')
    assert len(highlighted()) == 1 and screen.page.get_attribute('.class >> nth=0', 'aria-pressed') == 'true'
    screen.page.click('.class >> nth=0')
    screen.page.focus('#opacity')
    screen.page.mouse.move(1, 1)
    assert highlighted() == everything


def test_filters_of_the_layers_are_shown(screen):
    screen.page.wait_for_selector('#layers[data-done]')
    layers = screen.page.locator('.layer')
    assert layers.count() == 3 and 'backbone.stages.2.0' in layers.first.inner_text()
    images = screen.page.locator('.layer img')
    assert images.count() == 3 * 2 * 8
    assert images.evaluate_all('all => all.every(one => one.complete && one.naturalWidth > 1 && one.alt)')


@pytest.mark.slow
def test_detections_have_boxes_and_a_score_threshold(screen, scene):
    screen.pick('epoch_1.pth')
    screen.until("document.getElementById('filters-text').textContent.startsWith('AFFNet stores no filters')")
    screen.drop(scene)
    screen.page.wait_for_selector('#threshold-row:not([hidden])')
    screen.page.press('#threshold', 'Home')
    assert screen.page.locator('.box').count() == 6
    classes = screen.classes()
    assert set(screen.page.locator('.box span').all_inner_texts()) and all(share > 0 for share in classes.values())
    screen.page.press('#threshold', 'End')
    assert screen.page.locator('.box').count() == 0 and 'No detection reaches this score' in screen.text('#legend')


def test_best_mask_is_on_top_and_shares_count_each_pixel_once(screen, server, scene, monkeypatch):
    def one(label, score, rectangle, mask):
        left, top, width, height = rectangle
        box = [left, top, left + width, top + height]
        return {'label': label, 'score': score, 'box': box, 'mask': {'rectangle': rectangle, 'plane': encode_plane(mask)}}

    best, other = np.ones((4, 10), np.uint8), np.ones((6, 10), np.uint8)
    best[0] = 0  # 30 pixels, of which 20 lie on the 60 of the other
    legend = [{'id': 0, 'name': 'a', 'color': [255, 0, 0]}, {'id': 1, 'name': 'b', 'color': [0, 0, 255]}]
    prediction = {
        'task': 'detection',
        'size': [240, 160],
        'uploaded_size': [240, 160],
        'seconds': {'load': None, 'predict': 0.1},
        'legend': legend,
    }
    prediction['detections'] = [one(0, 0.9, [0, 0, 10, 4], best), one(1, 0.6, [0, 2, 10, 6], other)]
    monkeypatch.setattr(server, 'predict', lambda key, data: prediction)
    screen.drop(scene)
    assert screen.classes() == {'b': 0.2, 'a': 0.1}  # of 38400 pixels
    _, _, colors = screen.colors()
    assert colors == {'0,0,0,0': 240 * 160 - 70, '255,0,0,255': 30, '0,0,255,255': 40}


def test_change_of_checkpoint_predicts_again_and_a_damaged_one_is_an_error(screen, scene):
    screen.drop(scene)
    screen.classes()
    screen.pick('iter_1.pth')
    screen.page.wait_for_selector('#error:not([hidden])')
    assert 'iter_1.pth' in screen.text('#error') and screen.page.locator('.class').count() == 0
    assert screen.colors()[2] == {'0,0,0,0': 1}
    screen.pick('iter_2.pth')
    assert screen.classes() and not screen.page.locator('#error').is_visible()


def test_errors_of_invalid_and_too_large_files(screen, scene):
    screen.drop(b'hello', 'letter.png')
    screen.page.wait_for_selector('#error:not([hidden])')
    assert 'not an image' in screen.text('#error') and screen.page.locator('#empty').is_visible()
    requests = len(screen.requests)
    big = f'new File([new Uint8Array({MAX_BYTES + 1})], "big.png")'
    screen.page.evaluate(f'choose({big}, "big.png")')
    assert 'too large' in screen.text('#error') and 'at most 24.0 MB' in screen.text('#error')
    assert not any('predict' in url for url in screen.requests[requests:])
    screen.drop(scene)
    assert screen.classes() and not screen.page.locator('#error').is_visible()


@pytest.mark.slow
def test_page_without_checkpoints_shows_the_remedy(browser, tmp_path, scene):
    from threading import Thread

    with make_server(folders=[tmp_path], port=0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        screen = Screen(browser, server)
        assert 'quickstart.sh' in screen.text('#note') and 'untrained' in screen.text('#where')
        screen.drop(scene)
        assert screen.classes() and screen.errors == []
        screen.page.close()
        server.shutdown()


@pytest.mark.slow
def test_page_is_not_wider_than_the_window(screen, scene):
    screen.drop(scene)
    screen.classes()
    screen.page.wait_for_selector('#layers[data-done]')
    for width in (400, 900, 1400):
        screen.page.set_viewport_size({'width': width, 'height': 800})
        assert screen.page.evaluate('document.documentElement.scrollWidth') <= width


@pytest.mark.slow
def test_text_has_sufficient_contrast(screen):
    """Contrast of at least 4.5 : 1 (WCAG AA) for every text color on its background."""
    pairs = (
        ('ink', 'card'),
        ('ink', 'page'),
        ('ink', 'sunk'),
        ('soft', 'card'),
        ('soft', 'sunk'),
        ('accent', 'card'),
        ('accent', 'tint'),
    )
    pairs += (('bad', 'bad-tint'), ('warn', 'warn-tint'))
    probe = """name => {
      const node = document.body.appendChild(document.createElement('i'));
      node.style.color = `var(--${name})`;
      const found = getComputedStyle(node).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
      node.remove();
      return found;
    }"""

    def luminance(name):
        values = np.array(screen.page.evaluate(probe, name)) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    pages = {}
    for scheme in ('light', 'dark'):
        screen.page.emulate_media(color_scheme=scheme)
        pages[scheme] = luminance('page')
        for pair in pairs:
            dark, bright = sorted(map(luminance, pair))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, pair)
    assert pages['light'] > 0.5 > pages['dark']
