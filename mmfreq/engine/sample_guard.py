"""The pipelines of a run's data sets, so that whatever fails in one, also deep in a worker, names the file that it failed on."""

import logging
import traceback
from os.path import basename

from mmengine.dataset import Compose
from mmengine.logging import print_log

from mmfreq.compat.file_kind import file_kind, shown
from mmfreq.datasets.picture_header import size_of
from mmfreq.engine.errors import InputError
from mmfreq.engine.sample_checks import ONE_ROW, check_image, check_label_map


class GuardedPipeline(Compose):
    """The transforms of another pipeline, the same list, with an eye on them.

    An error of a transform becomes an `InputError` that names it and the files; what a transform named `Load...` loads is looked at
    (see `sample_checks`); a sample that such a transform leaves out is told in the log, with its number in this process.
    """

    def __init__(self, pipeline, test_mode=False):
        self.transforms = pipeline.transforms
        self.test_mode = test_mode
        self.left_out = 0

    def __call__(self, data):
        files = {what: data.get(key) for what, key in (('image', 'img_path'), ('label map', 'seg_map_path'))}
        for transform in self.transforms:
            name = type(transform).__name__
            loads = name.startswith('Load')
            try:
                data = transform(data)
                if loads and isinstance(data, dict):
                    check_image(data, transform) if name.startswith('LoadImage') else check_label_map(data)
            except InputError:
                raise
            except Exception as error:
                raise InputError(_failure(name, files, error)) from error
            if data is None:
                self._tell_left_out(name, files, loads)
                return None
        return data

    def _tell_left_out(self, name, files, loads):
        if self.test_mode:
            raise InputError(f'{name} leaves out {_named(files)}, which is not possible in validation and testing.')
        if loads:  # others leave out at random, and mean to
            self.left_out += 1
            print_log(f'{name} left out {_named(files)}, sample {self.left_out} so.', logger='current', level=logging.WARNING)


def guard_samples(runner):
    """Put a `GuardedPipeline` into every data set of the loops that a runner has built.

    Workers that have started keep the pipelines that they have; mmengine's own IterBasedTrainLoop starts its workers earlier.
    """
    for loop in (getattr(runner, f'_{mode}_loop', None) for mode in ('train', 'val', 'test')):
        for dataset in leaves_of(getattr(getattr(loop, 'dataloader', None), 'dataset', None)):
            pipeline = getattr(dataset, 'pipeline', None)
            if isinstance(getattr(pipeline, 'transforms', None), list) and not isinstance(pipeline, GuardedPipeline):
                dataset.pipeline = GuardedPipeline(pipeline, getattr(dataset, 'test_mode', False))


def leaves_of(dataset):
    """Yield the data sets that read files, inside wrappers that repeat, join or mix them."""
    children = [*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)]
    children = [child for child in children if child is not None]
    if not children and dataset is not None:
        yield dataset
    for child in children:
        yield from leaves_of(child)


def _named(files):
    return ', '.join(f'{what} {shown(path)}' for what, path in files.items() if path) or 'a sample that names no file'


def _failure(name, files, error):
    """Of a loading transform: the file that it reads, and what that is; of another one where in the code it failed."""
    told = ' '.join(str(error).split())
    reason = f'{type(error).__name__}: {told}' if told else type(error).__name__
    if not name.startswith('Load'):
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f'{name} failed on {_named(files)}: {reason} ({basename(place.filename)}, line {place.lineno}).'
    what = 'image' if name.startswith('LoadImage') or not files['label map'] else 'label map'
    path = files[what]
    if not isinstance(path, str):
        return f'{name} failed on {_named(files)}: {reason}.'
    kind = file_kind(path)
    if kind.endswith('picture') and what == 'label map' and 1 in size_of(path):
        return f'the {what} {shown(path)} has {ONE_ROW}'
    if kind.endswith('picture'):
        kind += ', damaged or of a form that the decoder does not take'
    told = f'the {what} {shown(path)} cannot be loaded: it is {kind}. ({name}: {reason})'
    return f'{told} Mend the file, or leave it out of the data set.'
