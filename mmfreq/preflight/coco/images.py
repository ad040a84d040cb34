"""The images of a COCO file: they exist, inside of the image folder, and some of them are read."""

import os
import re

from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from mmfreq.config.reading import is_remote, type_name
from mmfreq.errors import DataError
from mmfreq.preflight.coco.annotations import first_duplicate
from mmfreq.preflight.data import FolderListing, first_names
from mmfreq.preflight.pixels import Pixels
from mmfreq.preflight.samples import GuardedPipeline
from mmfreq.preflight.sampling import read_sample

SEPARATORS = re.compile(r'[/\\:\0]')


def check_images(where, leaf, images, kept, report):
    """Check that the image files of a COCO file exist and are inside of the image folder.

    Args:
        kept: ids of the images that mmdet reads.

    Raises:
        DataError: a file name that leads out of the folder, or images that do not exist.
    """
    folder = _image_folder(leaf)
    outside = [image['file_name'] for image in images if leads_outside(image['file_name'])]
    if outside:
        raise DataError(
            f'{where}: expected file names inside of the image folder {folder or "."}, but {len(outside)} file names lead out of '
            f'it: {first_names(outside)}. They are refused, as such a name can point to any file of this computer. Write names '
            'relative to data_prefix.img, or set data_prefix.img to a folder that contains all images.'
        )
    names = [image['file_name'] for image in images]
    if len(set(names)) < len(names):
        report.warnings.append(
            f'{where}: {len(names) - len(set(names))} images are listed again under another id, such as {first_duplicate(names)}. '
            'Each has only its own objects, so the others count as background. Merge the entries.'
        )
    if _is_remote(leaf, folder):
        return
    files = FolderListing()
    present = files.names(folder)
    missing = [
        image for image in images if image['file_name'] not in present and not files.has(os.path.join(folder, image['file_name']))
    ]
    needed = [image['file_name'] for image in missing if image['id'] in kept]
    if needed:
        remedy = 'Copy them there, set data_prefix.img to their folder, or remove them from the file.'
        if any('\\' in name for name in needed):
            remedy = "The names have Windows' backslashes: write / instead of \\ in every file_name."
        raise DataError(
            f'{where}: expected {len(kept)} images in {folder or "."}, but {len(needed)} of the {len(kept)} images do not exist: '
            f'{first_names(needed)}. {remedy}'
        )
    if missing:
        names = first_names(image['file_name'] for image in missing)
        report.notes.append(f'{where}: {len(missing)} images do not exist, but are skipped anyway: {names}.')


def _image_folder(leaf):
    prefix = leaf.get('data_prefix') or {}
    if isinstance(prefix, str):
        raise DataError(f'Expected data_prefix=dict(img={prefix!r}) in a dataset of mmdet, got the text {prefix!r}.')
    return os.path.join(leaf.get('data_root') or '', prefix.get('img') or '')


def _is_remote(leaf, folder):
    return is_remote(folder) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local'


def leads_outside(name):
    """Whether a file name, relative to a folder, leads out of it. Links are not followed."""
    if not SEPARATORS.search(name):
        return name == '..'
    name = name.replace('\\', '/')
    return name.startswith('/') or name[1:2] == ':' or os.path.normpath(name).split('/')[0] == '..' or '\0' in name


def check_image_sample(cfg, key, leaf, images, report):
    """Read some of the images, and compare their sizes with those in the file.

    Raises:
        InputError: the error of the first image that is invalid, and how many of the sample are.
    """
    steps = [step for step in leaf.get('pipeline') or () if type_name(step.get('type', '')).startswith('LoadImage')]
    folder = _image_folder(leaf)
    if not steps or _is_remote(leaf, folder) or not images:
        return
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = GuardedPipeline(Compose(steps[:1]))
    pixels = Pixels(cfg, key, leaf)

    def read(image):
        path = os.path.join(folder, image['file_name'])
        sample = {'img_path': path, 'height': image['height'], 'width': image['width'], 'instances': []}
        pixels.add((pipeline(sample) or {}).get('img'), path)

    read_sample(key, images, read, 'images')
    pixels.report(report)
