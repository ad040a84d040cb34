"""The number of bad inputs that the tests cover, as docs/reliability.md states it. Each is a case of a parametrized test."""

import re
from pathlib import Path

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from tests.compat import test_safe_load
from tests.engine import test_bad_images, test_sample_guard
from tests.weights import test_load

PAGE = (Path(__file__).resolve().parents[1] / 'docs' / 'reliability.md').read_text(encoding='utf-8')


def test_numbers_of_bad_inputs_are_those_of_the_page():
    checkpoints = [
        test_safe_load.hostile(''),
        test_safe_load.NO_CHECKPOINTS,
        test_load.INCOMPATIBLE,
        test_load.NO_TENSORS,
        test_load.NOT_FINITE,
    ]
    counts = {
        'checkpoints': sum(map(len, checkpoints)),
        'images': sum(name.startswith('image: ') for name in test_bad_images.CASES) + len(test_sample_guard.DETECTION),
        'label maps': sum(name.startswith('label map: ') for name in test_bad_images.CASES),
    }
    parts, total = re.search(r'^\| kinds of bad input: (.+?) \| (\d+) \|', PAGE, re.MULTILINE).groups()
    assert parts == ', '.join(f'{count} {name}' for name, count in counts.items()) and int(total) == sum(counts.values())
    assert min(counts.values()) > 15 and len(test_bad_images.FINE) > 15  # unusual but valid
