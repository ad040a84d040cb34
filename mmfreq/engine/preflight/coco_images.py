"""The images that a COCO file names: within their folder, and there."""

import os

from mmfreq.engine.errors import DataError
from mmfreq.engine.paths import is_remote
from mmfreq.engine.preflight.folders import Folders, some


def check_images(where, leaf, images, kept, report):
    """Look at the names of the images, and for the files of those that will be read.

    Args:
        kept: ids of the images that mmdet will read.

    Raises:
        DataError: a name that leads out of the folder of images, or images that are not there.
    """
    prefix = leaf.get('data_prefix') or {}
    folder = os.path.join(leaf.get('data_root') or '', (prefix.get('img') if isinstance(prefix, dict) else prefix) or '')
    outside = [image['file_name'] for image in images if leads_outside(image['file_name'])]
    if outside:
        raise DataError(
            f'{where}: {len(outside)} file names lead out of the folder of images {folder or "."}: {some(outside)}. This is '
            'refused, as '
            'such a file could have any file of this machine read. Write names relative to data_prefix.img; if they are meant so, '
            'set data_prefix.img to a folder that holds them all.'
        )
    if is_remote(folder) or (leaf.get('backend_args') or {}).get('backend', 'local') != 'local':
        return
    folders = Folders()
    gone = [image for image in images if not folders.holds(os.path.join(folder, image['file_name']))]
    missed = [image['file_name'] for image in gone if image['id'] in kept]
    if missed:
        raise DataError(
            f'{where}: {len(missed)} of the {len(kept)} images that would be read are not in {folder or "."}: {some(missed)}. '
            'Copy them '
            'there, set data_prefix.img to where they are, or take them out of the file.'
        )
    if gone:
        names = some(image['file_name'] for image in gone)
        report.notes.append(f'{where}: {len(gone)} images are not there, of those that are left out anyway: {names}.')


def leads_outside(name):
    """Whether a file name, relative to a folder, leads out of it. Links are not followed."""
    name = name.replace('\\', '/')
    return name.startswith('/') or name[1:2] == ':' or os.path.normpath(name).split('/')[0] == '..' or '\0' in name
