"""Anchors and points equal those of the generators of mmdetection and of this package, with symbolic sizes too."""

import pytest
import torch
from mmdet.registry import TASK_UTILS

import mmfreq  # noqa: F401
from mmfreq.errors import UserError
from mmfreq.export.detectors.priors import priors_of
from mmfreq.models.ssdlite import AFFNetSSDAnchorGenerator, in_pixels

GENERATORS = {
    'RetinaNet': dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0], strides=[8, 16, (32, 24)]
    ),
    'center offset': dict(type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8], center_offset=0.5),
    'SSD': dict(
        type='SSDAnchorGenerator',
        scale_major=False,
        strides=[16, 32],
        ratios=[[2, 3], [2]],
        min_sizes=[48, 100],
        max_sizes=[100, 150],
    ),
    'FCOS': dict(type='MlvlPointGenerator', strides=[8, 16, (32, 24)], offset=0.5),
}
SIZES = [(5, 8), (3, 4), (1, 2)]


@pytest.mark.parametrize('name', GENERATORS)
def test_priors_equal_those_of_mmdet(name):
    generator = TASK_UTILS.build({**GENERATORS[name], 'type': f'mmdet.{GENERATORS[name]["type"]}'})
    sizes = SIZES[: generator.num_levels]
    expected = generator.grid_priors(sizes, device='cpu')
    images = torch.zeros(1, 3, 40, 64)
    for level, size, priors in zip(priors_of(generator), sizes, expected, strict=True):
        torch.testing.assert_close(level(torch.zeros(1, 7, *size), images), priors, rtol=0, atol=0)


def test_anchors_of_ssdlite_are_in_pixels_of_the_images():
    generator = AFFNetSSDAnchorGenerator()
    sizes = [(10, 12), (5, 6), (3, 3), (2, 2), (1, 1), (1, 1)]
    expected = [in_pixels(level, {'img_shape': (150, 180)}) for level in generator.grid_priors(sizes)]
    for level, size, anchors in zip(priors_of(generator), sizes, expected, strict=True):
        actual = level(torch.zeros(1, 7, *size), torch.zeros(1, 3, 150, 180))
        torch.testing.assert_close(actual, anchors, rtol=0, atol=0)


class AllPriors(torch.nn.Module):
    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, images):
        return self.level(images[:, :, ::8, ::8], images)


@pytest.mark.parametrize('generator', [*GENERATORS.values(), AFFNetSSDAnchorGenerator()], ids=[*GENERATORS, 'SSDLite'])
def test_sizes_may_be_symbolic(generator):
    generator = TASK_UTILS.build({**generator, 'type': f'mmdet.{generator["type"]}'}) if isinstance(generator, dict) else generator
    module = AllPriors(priors_of(generator)[0])
    open_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, (torch.zeros(1, 1, 40, 64),), dynamic_shapes=(open_size,)).module()
    for size in ((40, 64), (72, 24), (16, 136)):
        images = torch.zeros(1, 1, *size)
        torch.testing.assert_close(program(images), module(images))


def test_generators_that_place_priors_differently_are_refused_by_name():
    class Shifted(type(TASK_UTILS.build({**GENERATORS['FCOS'], 'type': 'mmdet.MlvlPointGenerator'}))):
        def single_level_grid_priors(self, *args, **kwargs):
            return 1 + super().single_level_grid_priors(*args, **kwargs)

    with pytest.raises(
        UserError, match=r'Expected a detector with the prior generator AnchorGenerator, .*, found Shifted\. Export'
    ):
        priors_of(Shifted([8]))
