"""Texts of all figures lie inside the figure and do not overlap; the shared helpers of the plots."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmfreq.analysis.draw_layers import plot_filters, plot_gating, plot_masks, plot_routing
from mmfreq.analysis.learned_filters import GatingMaps, LearnedFilters, Routing, SpectralMask
from mmfreq.analysis.plot_style import centered_extent, save, wrapped
from mmfreq.analysis.receptive_field import ReceptiveField, plot_receptive_fields
from mmfreq.analysis.training_logs import Curve, TrainingLog, plot_logs

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (64, 96, 3), np.uint8)
NAME = 'backbone.stages.2.17.gnconv.dwconv'


def random_filters(count=6, grid=(14, 14)):
    return LearnedFilters(NAME, RNG.normal(size=(count, *grid)) + 1j, RNG.normal(size=(count, *grid)))


def random_logs(names):
    curves = {'loss': Curve(np.arange(50), RNG.random(50)), 'mIoU': Curve(np.array([20, 40]), np.array([1.0, 2.0]), True)}
    return {name: TrainingLog(name, curves, 1) for name in names}


FIGURES = {
    'filters': lambda: plot_filters(random_filters(), [0, 2, 3, 4, 5], 'hornet'),
    'filters of a wide grid': lambda: plot_filters(random_filters(2, (40, 50)), [0, 1], 'dfformer'),
    'gating': lambda: plot_gating([GatingMaps(NAME, tuple(RNG.random((n, 8, 12)))) for n in (2, 3, 4, 5)], IMAGE, 'hornet'),
    'routing': lambda: plot_routing(Routing(RNG.dirichlet([1] * 4, 64).T, random_filters(4)), IMAGE, 'dfformer'),
    'masks': lambda: plot_masks([SpectralMask(NAME, *RNG.random((2, 8, 9, 12)))] * 3, IMAGE, 'affnet'),
    'fields': lambda: plot_receptive_fields({f'model {i}': ReceptiveField(RNG.random((64, 96))) for i in range(5)}, 'fields'),
    'logs': lambda: plot_logs(random_logs(['one', 'a long name of a work directory', 'three', 'four']), ['loss', 'mIoU'], 'logs'),
}


def texts_of(figure):
    """Boxes of all visible texts but tick labels', in pixels."""
    renderer = figure.canvas.get_renderer()
    ticks = {label for axis in figure.findobj(lambda o: hasattr(o, 'get_ticklabels')) for label in axis.get_ticklabels()}
    ticks |= {label for axis in figure.axes for label in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    texts = figure.findobj(lambda o: isinstance(o, Text) and o.get_visible() and o.get_text().strip() and o not in ticks)
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize('name', FIGURES)
def test_texts_lie_inside_the_figure_and_do_not_overlap(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    boxes = texts_of(figure)
    assert len(boxes) > 4
    width, height = figure.bbox.width, figure.bbox.height
    outside = [text for text, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    assert not outside
    assert not [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.padded(-1).overlaps(y.padded(-1))]


@pytest.mark.parametrize(('size', 'extent'), [((8, 8), (-4.5, 3.5, 3.5, -4.5)), ((7, 4), (-2.5, 1.5, 3.5, -3.5))])
def test_origin_is_the_pixel_in_the_center(size, extent):
    assert centered_extent(*size) == extent


def test_long_names_are_wrapped_at_separators():
    name = 'hornet-dim32_upernet_1xb8-1600_camvid-180x240'
    assert wrapped(name, 24) == 'hornet-dim32_upernet_\n1xb8-1600_camvid-180x240'
    assert wrapped('a-b', 24) == 'a-b' and wrapped('x' * 40, 24) == 'x' * 40


def test_saved_figures_are_900_pixels_wide(tmp_path):
    from PIL import Image

    path = save(FIGURES['logs'](), tmp_path / 'new' / 'logs.png')
    image = np.asarray(Image.open(path).convert('RGB'))
    assert image.shape[1] == 900 and image.std() > 5
