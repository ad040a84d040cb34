"""What the plots draw: the right numbers in the right panels, texts inside the picture and clear of one another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmfreq.analysis.draw_layers import cropped, plot_filters, plot_gating, plot_masks, plot_routing
from mmfreq.analysis.learned_filters import GatingMaps, LearnedFilters, Routing, SpectralMask
from mmfreq.analysis.plot_style import centred_extent, save, wrapped
from mmfreq.analysis.receptive_field import ReceptiveField, block_means, plot_receptive_fields
from mmfreq.analysis.training_logs import Curve, TrainingLog, plot_logs

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (64, 96, 3), np.uint8)
NAME = 'backbone.stages.2.17.gnconv.dwconv'


def some_filters(count=6, grid=(14, 14)):
    kernel = RNG.normal(size=(count, *grid))
    return LearnedFilters(NAME, np.fft.fftshift(np.fft.fft2(kernel), axes=(1, 2)), kernel)


def some_logs(names):
    curves = {'loss': Curve(np.arange(50), RNG.random(50)), 'mIoU': Curve(np.array([20, 40]), np.array([1.0, 2.0]), True)}
    return {name: TrainingLog(name, curves, 1) for name in names}


FIGURES = {
    'filters': lambda: plot_filters(some_filters(), [0, 2, 3, 4, 5], f'hornet\n{NAME}'),
    'filters of a wide grid': lambda: plot_filters(some_filters(2, (40, 50)), [0, 1], 'dfformer'),
    'gating': lambda: plot_gating([GatingMaps(NAME, tuple(RNG.random((n, 8, 12)))) for n in (2, 3, 4, 5)], PICTURE, 'hornet'),
    'routing': lambda: plot_routing(Routing(RNG.dirichlet([1] * 4, 64).T, some_filters(4)), PICTURE, 'dfformer'),
    'masks': lambda: plot_masks([SpectralMask(NAME, *RNG.random((2, 8, 9, 12)))] * 3, PICTURE, 'affnet'),
    'fields': lambda: plot_receptive_fields({f'model {i}': ReceptiveField(RNG.random((64, 96))) for i in range(5)}, 'fields'),
    'logs': lambda: plot_logs(some_logs(['one', 'a long name of a work directory', 'three', 'four']), ['loss', 'mIoU'], 'logs'),
}


def texts_of(figure):
    """Boxes of all visible texts but tick labels', in pixels."""
    renderer = figure.canvas.get_renderer()
    ticks = {label for axis in figure.findobj(lambda o: hasattr(o, 'get_ticklabels')) for label in axis.get_ticklabels()}
    ticks |= {label for axis in figure.axes for label in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    texts = figure.findobj(lambda o: isinstance(o, Text) and o.get_visible() and o.get_text().strip() and o not in ticks)
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize('kind', FIGURES)
def test_texts_lie_inside_the_picture_and_clear_of_one_another(kind):
    figure = FIGURES[kind]()
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    boxes = texts_of(figure)
    assert len(boxes) > 4
    width, height = figure.bbox.width, figure.bbox.height
    outside = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    assert not outside
    assert not [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.padded(-1).overlaps(y.padded(-1))]


def test_a_filters_panels_hold_its_numbers():
    filters = some_filters()
    figure = plot_filters(filters, [4], 'title')
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert any(np.array_equal(image, filters.gain[4]) for image in images)
    assert any(np.array_equal(image, filters.kernel[4]) for image in images)
    assert any(np.ma.allclose(image, np.angle(filters.response[4])) for image in images)
    assert any(np.array_equal(image, filters.gain.mean(0)) for image in images)


def test_the_profile_of_gains_ends_at_the_highest_frequency():
    profile = next(axis for axis in plot_filters(some_filters(), [4], 'title').axes if axis.get_title().startswith('gain against'))
    (line,) = profile.lines
    assert profile.get_xlim() == (0, line.get_xdata().max()) and line.get_xdata().max() < 1


def test_every_row_of_a_routing_has_its_unit():
    labels = [axis.get_xlabel() for axis in FIGURES['routing']().axes if axis.get_xlabel()]
    assert [label.split(',')[0] for label in labels] == ['horizontal', 'the 64 channels', 'horizontal']


@pytest.mark.parametrize(('size', 'extent'), [((8, 8), (-4.5, 3.5, 3.5, -4.5)), ((7, 4), (-2.5, 1.5, 3.5, -3.5))])
def test_the_origin_is_the_pixel_in_the_middle(size, extent):
    assert centred_extent(*size) == extent


def test_cropping_keeps_the_origin_in_the_middle():
    values = np.zeros((40, 51))
    values[20, 25] = 1
    assert cropped(values, 31).shape == (31, 31) and cropped(values, 31)[15, 15] == 1
    assert cropped(values[:14], 31).shape == (14, 31)


def test_block_means():
    values = np.arange(15.0).reshape(3, 5)
    np.testing.assert_allclose(block_means(values, 2), [[3, 5, 6.5], [10.5, 12.5, 14]])
    assert block_means(values, 1) is not None and np.array_equal(block_means(values, 1), values)


def test_long_names_are_broken_where_they_may_be():
    name = 'hornet-dim32_upernet_1xb8-1600_camvid-180x240'
    assert wrapped(name, 24) == 'hornet-dim32_upernet_\n1xb8-1600_camvid-180x240'
    assert wrapped('a-b', 24) == 'a-b' and wrapped('x' * 40, 24) == 'x' * 40


def test_saved_pictures_are_900_pixels_wide(tmp_path):
    from PIL import Image

    path = save(FIGURES['logs'](), tmp_path / 'new' / 'logs.png')
    picture = np.asarray(Image.open(path).convert('RGB'))
    assert picture.shape[1] == 900 and picture.std() > 5
