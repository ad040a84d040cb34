"""The channels and values of images, compared with the model's input: `in_channels`, and mean and std of the data preprocessor."""

import numpy as np
from mmengine.registry import TRANSFORMS

from mmfreq.config.image_channels import image_channels
from mmfreq.config.reading import type_name
from mmfreq.errors import DataError
from mmfreq.preflight.samples import check_channels

LIBRARIES = ('mmcv.', 'mmseg.', 'mmdet.', 'mmpretrain.', 'mmfreq.')
OTHER_PIXELS = (
    'RGB2Gray',
    'ConcatCDInput',
    'Albu',
    'Albumentations',
    'Normalize',
    'Rerange',
)  # transforms after which the image is another
FAR = 10  # standard deviations of the mean pixel from 0, after normalization: no set of photographs is so dark or bright
FLAT = 0.02  # standard deviation after normalization, below which the values have another unit


def check_normalization(cfg, report, model):
    """Compare the lengths of mean and std in the data preprocessor with the model's channels.

    Args:
        report, model: not used.

    Raises:
        DataError: there are as many neither as channels, nor one for all.
    """
    channels, preprocessor = image_channels(cfg), _preprocessor(cfg)
    for name in ('mean', 'std'):
        values = preprocessor.get(name)
        if isinstance(values, (list, tuple)) and len(values) not in (1, channels):
            raise DataError(
                f'data_preprocessor.{name} has {len(values)} values, but the model takes {channels} channels (in_channels of its '
                f'backbone). Give one {name} per channel, or set in_channels={len(values)}.'
            )


def _preprocessor(cfg):
    model = cfg.model.get('module') or cfg.model
    found = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return found.get('data_preprocessor') or found  # of a mean teacher


class Pixels:
    """The images of one dataset that were read, for comparison with the model.

    Nothing is compared if the pipeline has transforms that change channels or values, or that are not of OpenMMLab.

    Args:
        key: config key of the dataset.
        leaf: its config.
    """

    def __init__(self, cfg, key, leaf):
        steps = leaf.get('pipeline') or ()
        self.compared = all(_keeps_pixels(step, cfg.get('default_scope', 'mmengine')) for step in steps)
        self.key, self.channels, self.preprocessor = key, image_channels(cfg), _preprocessor(cfg)
        self.means, self.deviations = [], []

    def add(self, image, path):
        """Take an image (H, W) or (H, W, C) as it was loaded.

        Raises:
            InputError: it has another number of channels than the model takes.
        """
        if not self.compared or not isinstance(image, np.ndarray) or image.ndim > 3:
            return
        check_channels(np.atleast_3d(image).transpose(2, 0, 1), self.channels, path)
        self.means.append(float(image.mean(dtype=np.float64)))
        self.deviations.append(float(image.std(dtype=np.float64)))

    def report(self, report):
        """Warn if mean and std are in another unit than the pixels."""
        mean, std = (self.preprocessor.get(name) for name in ('mean', 'std'))
        if not self.means or not mean or not std:
            return
        pixel, deviation = np.mean(self.means), np.mean(self.deviations)
        center, spread = (pixel - np.mean(mean)) / np.mean(std), deviation / np.mean(std)
        if abs(center) <= FAR and (spread >= FLAT or not deviation):
            return
        report.warnings.append(
            f'{self.key}: the {len(self.means)} images that were read have the mean {pixel:.4g} and the standard deviation '
            f'{deviation:.4g}, which mean={list(mean)} and std={list(std)} of data_preprocessor change to {center:.3g} and '
            f'{spread:.3g}; expected about 0 and 1. Set mean and std in the units that the pipeline reads.'
        )


def _keeps_pixels(step, scope):
    name = step.get('type', '')
    if type_name(name) in OTHER_PIXELS:
        return False
    cls = name
    if isinstance(name, str):
        with TRANSFORMS.switch_scope_and_registry(scope) as registry:
            cls = registry.get(name)
    return getattr(cls, '__module__', '').startswith(LIBRARIES)
