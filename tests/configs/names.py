"""What the name of a dense config says, read back."""

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
    """The parts of a name; `iterations` or `epochs` is None, and `size` where the name gives none."""

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
    """Parse a file name; an AssertionError says that it is none."""
    said = NAME.fullmatch(path.stem)
    assert said, f'{path.stem} is not <arch>_<method>_<gpus>xb<images>-<variant>-<schedule>_<data>-<height>x<width>'
    amount, unit = re.fullmatch(r'(\d+)(\w?)', said['schedule']).groups()
    return Name(
        arch=said['arch'],
        method=said['method'],
        gpus=int(said['gpus']),
        images=int(said['images']),
        variant=said['variant'].rstrip('-'),
        iterations=int(amount) * {'': 1, 'k': 1000}[unit] if unit in ('', 'k') else None,
        epochs=int(amount) * {'e': 1, 'x': 12}[unit] if unit in ('e', 'x') else None,
        data=said['data'],
        size=(int(said['height']), int(said['width'])) if said['height'] else None,
    )
