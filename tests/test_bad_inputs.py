"""How many kinds of bad input the suite tries: the figure in docs/reliability.md. Each is a case of a parametrised test."""

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from tests.checkpoint import test_load
from tests.compat import test_safe_load
from tests.engine import test_bad_images, test_sample_guard


def test_the_kinds_of_bad_input_are_many():
    checkpoints = [
        test_safe_load.hostile(''),
        test_safe_load.NO_CHECKPOINTS,
        test_load.OF_NO_USE,
        test_load.NO_TENSORS,
        test_load.NOT_FINITE,
    ]
    counts = {
        'checkpoints': sum(map(len, checkpoints)),
        'pictures': sum(name.startswith('image: ') for name in test_bad_images.CASES) + len(test_sample_guard.DETECTION),
        'label maps': sum(name.startswith('label map: ') for name in test_bad_images.CASES),
    }
    assert counts == {'checkpoints': 55, 'pictures': 25, 'label maps': 17}
    assert len(test_bad_images.FINE) == 16  # unusual, and read
