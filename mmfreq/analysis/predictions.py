"""Predictions for image and video files, written as files."""

from collections import Counter
from itertools import groupby, islice
from pathlib import Path

from mmfreq.analysis.drawing import legend_of, overlay, panel
from mmfreq.analysis.inputs import Input, refuse_to_overwrite, result_paths
from mmfreq.analysis.results import (
    Written,
    choose_results,
    draw,
    make_folder,
    predict_each,
    report_of,
    save_image,
    save_json,
    save_label_map,
)
from mmfreq.analysis.videos import CODEC, check_codec, write_video
from mmfreq.compat.file_type import printable_path
from mmfreq.errors import DataError


def write_predictions(predictor, inputs, out, truth=None, batch_size=1, codec=CODEC, progress=None, **options):
    """Predict each image and video and yield a `Written` for it. The generator is lazy, but checks its arguments immediately.

    Segmentation: `NAME_overlay.png`, `NAME.png` (ids, 8 bits with the palette, or 16 bits), `NAME_panel.png` (the image, the label
    map of `truth` if there is one, and the prediction), `NAME.json` (pixels and share of each class). Detection: `NAME_overlay.png`
    (scores from `score_thr`) and `NAME.json` (all of them). Files of videos: see `write_video`.
    `Written.problem` reports a file that cannot be read, an image that the model rejects (ValueError) or one without a label map;
    other exceptions of the model are raised as PredictionError.

    Args:
        inputs: paths, or what `find_inputs` returns.
        out: folder in which results mirror the inputs (`result_paths`); None writes them next to the inputs, as `NAME_pred*`.
        truth: folder with the label maps, in the same sub-folders as the images or without sub-folders.
        batch_size: images or frames for one call of `predict_batch`; results do not depend on it.
        progress: called with (path, done, total) after each batch of frames of a video; `total` 0 is unknown.
        options: `save`, `opacity` and `score_thr` of `choose_results`.
    """
    results = choose_results(predictor.task, with_truth=truth is not None, **options)
    inputs = [item if isinstance(item, Input) else Input(Path(item), Path(Path(item).name)) for item in inputs]
    if truth is not None and not Path(truth).is_dir():
        raise ValueError(f'The truth folder {truth} does not exist.')
    if batch_size < 1:
        raise ValueError(f'The batch size is {batch_size}; it must be at least 1.')
    targets = result_paths(inputs, out)
    refuse_to_overwrite(inputs, targets)
    if any(item.is_video for item in inputs):
        _check_videos(results, codec)
    if out is not None:
        make_folder(out)
    label_maps = None if truth is None else _LabelMaps(predictor, Path(truth), inputs)
    return _write_all(predictor, list(zip(inputs, targets)), results, label_maps, batch_size, codec, progress)


def _check_videos(results, codec):
    if not results.of_video:
        raise ValueError('Panels are drawn for images, and there are videos among the inputs. Add overlay to --save.')
    if 'overlay' in results.of_video:
        check_codec(codec)


def _write_all(predictor, jobs, results, label_maps, batch_size, codec, progress):
    for videos, group in groupby(jobs, key=lambda job: job[0].is_video):
        while batch := list(islice(group, 1 if videos else batch_size)):
            if videos:
                (item, target) = batch[0]
                report = None if progress is None else lambda done, total, path=item.path: progress(path, done, total)
                yield write_video(predictor, item.path, target, results, batch_size, codec, report)
            else:
                yield from _write_images(predictor, batch, results, label_maps)


def _write_images(predictor, batch, results, label_maps):
    """Read and predict the images of a batch, and yield a `Written` for each."""
    images = [_read(predictor, item.path) for item, _ in batch]
    readable = [(item, image) for (item, _), image in zip(batch, images) if not isinstance(image, ValueError)]
    names = [f'{printable_path(item.path)}, {image.shape[1]} x {image.shape[0]} pixels' for item, image in readable]
    predictions = iter(predict_each(predictor, [image for _, image in readable], names) if readable else [])
    names = iter(names)
    for (item, target), image in zip(batch, images):
        if isinstance(image, ValueError):
            yield Written(item.path, problem=str(image))
            continue
        name, prediction = next(names), next(predictions)
        if isinstance(prediction, ValueError):
            yield Written(item.path, problem=f'{name}: {prediction}')
        else:
            yield _write_one(predictor, item, target, predictor.shown(image), prediction, results, label_maps)


def _read(predictor, path):
    """The image in a file, or the ValueError that tells why there is none."""
    try:
        return predictor.read(path)
    except ValueError as error:
        return error


def _write_one(predictor, item, target, image, prediction, results, label_maps):
    written = Written(item.path)
    make_folder(target.parent)
    if 'mask' in results.of_image:
        written.files.append(save_label_map(prediction, predictor.palette, _beside(target, '.png')))
    if 'overlay' in results.of_image:
        written.files.append(save_image(draw(predictor, image, prediction, results), _beside(target, '_overlay.png')))
    if 'json' in results.of_image:
        report = {'image': item.path.name, 'size': list(image.shape[:2])} | report_of(predictor, prediction)
        written.files.append(save_json(report, _beside(target, '.json')))
    if 'panel' in results.of_image:
        try:
            sheet = _panel(predictor, target.name, image, label_maps and label_maps.load(item), prediction, results.opacity)
            written.files.append(save_image(sheet, _beside(target, '_panel.png')))
        except ValueError as error:  # includes the DataError of a missing label map
            written.problem = str(error)
    return written


def _beside(target, suffix):
    return target.with_name(target.name + suffix)


def _panel(predictor, name, image, labels, ids, opacity):
    columns = [('image', image)]
    if labels is not None and labels.shape != ids.shape:
        raise ValueError(f'The label map of {name} is {labels.shape}, but its image is {ids.shape} (H, W).')
    if labels is not None:
        columns.append(('truth', overlay(image, labels, predictor.palette, opacity)))
    columns.append(('prediction', overlay(image, ids, predictor.palette, opacity)))
    maps = [ids] if labels is None else [labels, ids]
    return panel(columns, legend_of(maps, predictor.classes, predictor.palette))


class _LabelMaps:
    """The label maps of images: in the same sub-folder of `folder` as the image, or in `folder` itself."""

    def __init__(self, predictor, folder, inputs):
        self.predictor, self.folder = predictor, folder
        self.places = Counter(stem for _, stem in {(item.relative.parent, item.path.stem) for item in inputs})

    def load(self, item):
        """The label map (H, W) of an image. Raises DataError if there is none, or if it is not clear which one it is."""
        stem, folder = item.path.stem, self.folder / item.relative.parent
        mirrored, flat = (self.predictor.label_map_path(place, stem).is_file() for place in (folder, self.folder))
        if mirrored or not flat:
            return self.predictor.load_label_map(folder, stem)
        if self.places[stem] > 1:
            raise DataError(f'{self.folder} has one label map for several images named {stem}: expected them in {folder}')
        return self.predictor.load_label_map(self.folder, stem)
