"""Picture files: finding them, reading them as training does, and naming what is made of them."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mmfreq.datasets.image_header import decoding_fault, read_header
from mmfreq.datasets.toy import MIN_SIDE, draw_scene

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
MADE = ('.png', '_overlay.png', '_panel.png', '.json')  # what may be written for one name


def find_images(inputs):
    """The files meant by files, folders (pictures directly in them) and globs, in order, each once.

    Raises FileNotFoundError naming the inputs that stand for no file at all. A file given by name need not be a picture.
    """
    found, empty = {}, []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        elif path.is_file():
            files = [path]
        else:
            files = sorted(Path(file) for file in glob(str(item), recursive=True) if Path(file).is_file())
        if not files:
            empty.append(str(item))
        found.update((file.resolve(), file) for file in files)
    if empty:
        raise FileNotFoundError(
            f'no picture found for {", ".join(empty)}; expected files, quoted globs, or folders with {" ".join(SUFFIXES)} files'
        )
    return list(found.values())


def read_image(path):
    """The picture as mmcv's LoadImageFromFile reads it: (H, W, 3) uint8 BGR; grey is repeated, alpha dropped, 16 bits become 8.

    Returns None for what is no picture, for one that is truncated, and for one of more pixels than OpenCV takes (2^30).
    """
    try:
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        whole = image is None or read_header(str(path)).ended or not decoding_fault(str(path))
    except (OSError, cv2.error):
        return None
    return image if whole else None


def output_names(pictures):
    """One name for each picture, its stem; where outputs would meet, that of the folder and then a number are added."""
    names, taken = [], set()
    for path in pictures:
        folder = path.resolve().parent.name
        candidates = [path.stem, f'{folder}-{path.stem}']
        candidates += (f'{path.stem}-{number}' for number in range(2, len(pictures) + 3))
        name = next(name for name in candidates if taken.isdisjoint(name + suffix for suffix in MADE))
        taken.update(name + suffix for suffix in MADE)
        names.append(name)
    return names


def refuse_to_overwrite(pictures, names, out):
    """Raises ValueError if an output of `names` in folder `out` would be one of the pictures."""
    made = {(Path(out) / (name + suffix)).resolve() for name in names for suffix in MADE}
    hit = sorted(str(path) for path in pictures if path.resolve() in made)
    if hit:
        raise ValueError(f'results in {out} would overwrite {", ".join(hit)}; choose another output folder')


# Pictures as models want them: from files, or drawn where there are none; cut to one size and normalised.
#
# Legend: N pictures, H W pixels.


def load_images(inputs: Sequence[str | Path], size: tuple[int, int], count: int) -> np.ndarray:
    """The first `count` pictures meant by files, folders and globs, scaled to cover `size` (H, W) and cut around their centre.

    Shape:
        `(N, H, W, 3)` uint8 RGB.

    Raises:
        FileNotFoundError: an input stands for no file.
        ValueError: a file is no picture, or a side is below `MIN_SIDE`.
    """
    check_size(size)
    return np.stack([resize_and_crop(_read(path), size) for path in find_images(inputs)[:count]])


def drawn_scenes(size: tuple[int, int], count: int, seed: int = 0) -> np.ndarray:
    """Generated scenes, the same for the same arguments, `(count, H, W, 3)` uint8 RGB; sides as in `load_pictures`."""
    check_size(size)
    rng = np.random.default_rng(seed)
    return np.stack([draw_scene(rng, size).image for _ in range(count)])


def check_size(size: tuple[int, int]) -> None:
    """Refuse sides that no backbone takes."""
    if min(size) < MIN_SIDE:
        raise ValueError(f'pictures of {size[0]} x {size[1]} are asked for; the sides are at least {MIN_SIDE} pixels')


def resize_and_crop(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled so that it just covers `size` (H, W), and cut around its centre; an array of that size."""
    height, width = size
    scale = max(height / picture.shape[0], width / picture.shape[1])
    scaled = tuple(max(round(side * scale), wanted) for side, wanted in zip(picture.shape[:2], size))
    picture = cv2.resize(picture, scaled[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return picture[top : top + height, left : left + width]


def normalised(pictures: np.ndarray, mean: Sequence[float], std: Sequence[float], channels: str = 'RGB') -> Tensor:
    """Pictures `(N, H, W, 3)` uint8 RGB as the input `(N, 3, H, W)` float32 of a model.

    Args:
        mean, std: taken off, and then divided by, in the order of `channels` and on the scale 0..255.
        channels: 'RGB' or 'BGR'.
    """
    ordered = pictures[..., ::-1] if channels == 'BGR' else pictures
    values = (ordered.astype(np.float32) - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _read(path: Path) -> np.ndarray:
    picture = read_image(path)
    if picture is None:
        raise ValueError(f'{path} cannot be read as a picture')
    return np.ascontiguousarray(picture[..., ::-1])
