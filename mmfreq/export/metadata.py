"""What a program needs to know to use an exported file, as entries of the file's metadata."""

from dataclasses import asdict
from typing import Any

from mmfreq.analysis.drawing import DRAWN_SCORE
from mmfreq.apis.loading import LoadedModel
from mmfreq.apis.preprocessing import preprocessing_at
from mmfreq.export.graphs import OUTPUTS


def metadata_of(loaded: LoadedModel, output: str | None = None, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The entries for the metadata of a file, in addition to those of `export_onnx`.

    Args:
        output: as for `build_graph`.
        size: (H, W), if the file takes images of this size only.
    """
    arch = getattr(loaded.backbone, 'arch_name', type(loaded.backbone).__name__)
    entries = {'name': loaded.name, 'arch': arch, 'task': loaded.task, 'output': output or OUTPUTS[loaded.task][0]}
    entries |= asdict(loaded.normalization) | {'pixels': 'as in the file' if loaded.read.keeps_values else '0..255'}
    entries |= {'classes': loaded.classes, 'palette': loaded.palette, 'trained': loaded.trained}
    steps = preprocessing_at(loaded.preprocessing, size, loaded.task) if size else loaded.preprocessing
    return entries | {'preprocessing': steps, 'thresholds': thresholds_of(loaded), 'notes': notes_of(loaded)}


def thresholds_of(loaded: LoadedModel) -> dict[str, float]:
    """Of detectors: `score` from which boxes are drawn, `iou` of their NMS, `mask` probability of the pixels of an instance.

    Of segmentors with one output channel: `score` from which a pixel is of class 1.
    """
    if loaded.task == 'segmentation' and getattr(loaded.model, 'out_channels', 0) == 1:
        return {'score': loaded.model.decode_head.threshold}
    if loaded.task != 'detection':
        return {}
    of_tests = getattr(loaded.model, 'test_cfg', None) or {}
    of_tests = of_tests.get('rcnn', of_tests)
    found = {'iou': of_tests.get('nms', {}).get('iou_threshold'), 'mask': of_tests.get('mask_thr_binary')}
    return {'score': DRAWN_SCORE} | {name: value for name, value in found.items() if value is not None}


def notes_of(loaded: LoadedModel) -> list[str]:
    """Where predictions with the file differ from those of the config, a sentence each."""
    notes = []
    of_tests = getattr(loaded.model, 'test_cfg', None) or {}
    if loaded.task == 'segmentation' and of_tests.get('mode') == 'slide':
        height, width = of_tests['crop_size']
        notes.append(f"The config segments windows of {height}x{width} (test_cfg mode='slide'); the file takes the whole image.")
    if missing := loaded.preprocessing['undescribed']:
        notes.append(f'Steps of the test pipeline that the file does not describe: {", ".join(missing)}.')
    return notes
