"""Picture files: finding them, reading them as training does, and naming what is made of them."""

from glob import glob
from pathlib import Path

import cv2
import numpy as np

from mmfreq.datasets.picture_header import decoding_fault, read_header

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
MADE = ('.png', '_overlay.png', '_panel.png', '.json')  # what may be written for one name


def find_pictures(inputs):
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


def read_picture(path):
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
