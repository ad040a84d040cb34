"""The parts of the file name of a dense config."""

import re
from dataclasses import dataclass

from tests.configs.reading import CONFIGS

LEAFS = sorted(path for task in ('seg', 'det') for path in (CONFIGS / task).glob('*/*.py'))
NAME = re.compile(
    r'(?P<arch>[a-z0-9-]+)_(?P<method>[a-z0-9-]+)_(?P<gpus>\d+)xb(?P<images>\d+)-(?P<variant>((amp|ema|ms-crop)-)?)'
    r'(?P<schedule>\d+(k|x|e|))_(?P<data>[a-z0-9]+(-nuts)?)(-(?P<height>\d+)x(?P<width>\d+))?'
)


@dataclass(frozen=True)
class Name:
    """The parts of a name; either `iterations` or `epochs` is None, and `size` is None if the name has none."""

    arch: str
    method: str
    gpus: int
    images: int
    variant: str
    iterations: int | None
    epochs: int | None
    data: str
    size: tuple[int, int] | None


def read(path):
    """Parse a file name.

    Raises:
        AssertionError: the name does not match the pattern.
    """
    match = NAME.fullmatch(path.stem)
    assert match, f'{path.stem} is not <arch>_<method>_<gpus>xb<images>-<variant>-<schedule>_<data>-<height>x<width>'
    amount, unit = re.fullmatch(r'(\d+)(\w?)', match['schedule']).groups()
    return Name(
        arch=match['arch'],
        method=match['method'],
        gpus=int(match['gpus']),
        images=int(match['images']),
        variant=match['variant'].rstrip('-'),
        iterations=int(amount) * {'': 1, 'k': 1000}[unit] if unit in ('', 'k') else None,
        epochs=int(amount) * {'e': 1, 'x': 12}[unit] if unit in ('e', 'x') else None,
        data=match['data'],
        size=(int(match['height']), int(match['width'])) if match['height'] else None,
    )
