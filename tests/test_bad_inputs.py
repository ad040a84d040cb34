"""The number of bad inputs that the tests cover, as docs/reliability.md states it. Each is a case of a parametrized test."""

import re
from pathlib import Path

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from tests.analysis import test_videos
from tests.apis import test_reading
from tests.compat import test_safe_load
from tests.engine import test_bad_images, test_detector_tta, test_sample_guard
from tests.preflight import (
    test_batch_norms,
    test_classification,
    test_coco,
    test_coco_evaluator,
    test_coco_geometry,
    test_labels,
    test_pixels,
    test_rewritten,
    test_seg_heads,
)
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
    coco_files = [
        *(test_coco.REFUSED, test_coco.CONTENT, test_coco.SKIPPED),
        *(test_coco_evaluator.REFUSED, test_coco_evaluator.LOWERED),
        *(test_coco_geometry.REFUSED, test_coco_geometry.WARNED, test_coco_geometry.LOST, test_coco_geometry.RUNS),
    ]
    inputs = [test_pixels.CHANNELS, test_pixels.VALUES, test_pixels.LENGTHS]
    labels = [test_labels.ABSENT, test_labels.REFUSED, test_labels.WARNED]
    folders = [getattr(test_classification, name) for name in ('FOLDERS', 'WARNED', 'LISTS', 'IMAGES', 'JSON')]
    models = [
        *(test_seg_heads.REFUSED, test_seg_heads.WARNED, test_seg_heads.EVALUATORS, test_classification.CONFIGS),
        *(test_coco_evaluator.OPTIONS, test_rewritten.BAD_PARTS, *inputs),
        *(test_batch_norms.ONE_VALUE, test_batch_norms.LAST_BATCH_OF_ONE, test_detector_tta.REFUSED),
    ]
    images = sum(name.startswith('image: ') for name in test_bad_images.CASES)
    counts = {
        'checkpoints': sum(map(len, checkpoints)),
        'images': images + len(test_sample_guard.DETECTION) + len(test_reading.CHANNELS),
        'label maps': sum(name.startswith('label map: ') for name in test_bad_images.CASES),
        'COCO files': len(set().union(*coco_files)),  # a name in two tables is one kind
        'sets of labels': sum(map(len, labels)),
        'class folders and lists': sum(map(len, folders)),
        'heads, losses and metrics': sum(map(len, models)),
        'videos and codecs': sum(map(len, (test_videos.BROKEN, test_videos.FAILURES, test_videos.CODECS))),
    }
    parts, total = re.search(r'^\| kinds of bad input: (.+?) \| (\d+) \|', PAGE, re.MULTILINE).groups()
    assert parts == ', '.join(f'{count} {name}' for name, count in counts.items()) and int(total) == sum(counts.values())
    assert min(counts.values()) > 15 and len(test_bad_images.FINE) > 15  # unusual but valid
