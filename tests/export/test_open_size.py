"""Files with open batch, height and width equal the model at sizes that the export never saw, without Fourier operators."""

import json
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F

import mmfreq
from mmfreq.errors import UserError
from mmfreq.export import export_onnx, verify
from mmfreq.export.graphs import FeatureGraph, SegmentorGraph
from mmfreq.export.open_size import MatrixPool, check_open, for_open_size, trace_size
from mmfreq.layers.filters import GlobalFilter
from mmfreq.testing.backbone_contract import randomize_scales_and_filters
from mmfreq.testing.toy_segmentation import toy_segmentor

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

# the stored grids; maps smaller than the pyramid's bins; sides not divisible by 32; long sides; several images
SIZES = ((1, 224, 224), (3, 64, 96), (1, 33, 47), (2, 96, 64), (1, 167, 101), (1, 2048, 33), (1, 32, 1030), (1, 130, 258))
FORBIDDEN = {'DFT', 'STFT', 'Loop', 'If', 'Scan', 'NonZero', 'GridSample', 'Einsum'}


def images_of(shape, channels=3):
    return torch.randn(shape[0], channels, *shape[1:], generator=torch.Generator().manual_seed(sum(shape)))


def exported_open(graph, folder, **options):
    """The file with open sizes, checked for its axes and operators; no tested size is the traced one."""
    exported = export_onnx(graph, (64, 64), folder / 'm.onnx', dynamic=True, **options)
    proto = onnx.load(exported.path)
    axes = [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ['batch', 3, 'height', 'width']
    assert not exported.spectral and not FORBIDDEN & set(exported.operators)
    assert all(value.type.tensor_type.elem_type != onnx.TensorProto.DOUBLE for value in proto.graph.value_info)
    assert tuple(json.loads(exported.metadata['size'])) not in {shape[1:] for shape in SIZES}
    assert json.loads(exported.metadata['dynamic']) == ['batch', 'height', 'width']
    return exported


def assert_equal_at_all_sizes(exported, precision='fp32', tolerance=1e-5):
    differences = verify(exported.path, exported.model, {str(shape): images_of(shape) for shape in SIZES}, precision)
    assert len(differences) >= len(SIZES)
    assert all(difference.largest < tolerance for difference in differences), [str(each) for each in differences]


# Of the sizes of maps in a graph, those behind more strides take longest to trace: the models here stop at their first stages where
# the later ones have the same layers. tests/tools/test_export_onnx.py has whole ones.
# arch -> (last stage, maps with a spectral layer up to it, each with its own height and width)
STAGES = {'hornet-micro': (2, 1), 'gfnet-h-micro': (1, 2), 'dfformer-micro': (1, 2), 'affnet-micro': (1, 1)}


@pytest.mark.parametrize('arch', STAGES)
def test_backbones_have_one_basis_for_each_size_and_equal_the_model(arch, tmp_path):
    last, filtered = STAGES[arch]
    model = randomize_scales_and_filters(mmfreq.build_backbone(arch, out_indices=(last,))).eval()
    exported = exported_open(model, tmp_path, optimized=True)
    assert exported.operators['Cos'] == exported.operators['Sin'] == 2 * filtered
    assert 'Resize' not in exported.operators and 'BatchNormalization' not in exported.operators
    assert_equal_at_all_sizes(exported)


def segmentor(head=None):
    """A segmentor on the first two stages, with the head of these options, by default UPerHead."""
    import mmseg.models  # noqa: F401

    import mmfreq.models.seg_heads  # noqa: F401

    init_default_scope('mmseg')
    torch.manual_seed(0)
    config = toy_segmentor('BN')
    shared = {name: config['decode_head'][name] for name in ('num_classes', 'norm_cfg', 'loss_decode')}
    maps = {'in_channels': [16, 32], 'in_index': [0, 1], 'channels': 16, 'dropout_ratio': 0}
    given = shared | maps | (head or {'type': 'UPerHead', 'pool_scales': (1, 2, 3, 6)})
    backbone = config['backbone'] | {'out_indices': (0, 1)}
    return MODELS.build(Config({'model': config | {'backbone': backbone, 'decode_head': given}}).model).eval()


@pytest.mark.slow
def test_upernet_equals_the_model_where_maps_are_smaller_than_the_bins(tmp_path):
    exported = exported_open(SegmentorGraph(randomize_scales_and_filters(segmentor())), tmp_path, optimized=True)
    assert_equal_at_all_sizes(
        exported, tolerance=3e-5
    )  # measured: 1.0e-5 at 32x1030, where the model in float32 is 6e-6 from float64


HEADS = {
    'DeepLabv3 of AFFNet': {'type': 'mmfreq.AFFNetASPPHead', 'in_channels': 32, 'in_index': 1, 'dilations': (1, 2)},
    'Semantic FPN': {'type': 'FPNHead', 'feature_strides': [4, 8]},
    'HorFPN with global filters, corners aligned': {'type': 'mmfreq.GnUPerHead', 'gnconv_cfg': {'grid': 8}, 'align_corners': True},
}


@pytest.mark.slow
@pytest.mark.parametrize('name', HEADS)
def test_other_decoders_equal_the_model(name, tmp_path):
    graph = SegmentorGraph(segmentor(HEADS[name]))
    resize = sys.modules['mmseg.models.utils.wrappers'].resize
    defaults = resize.__defaults__
    exported = exported_open(graph, tmp_path)
    assert resize.__defaults__ == defaults
    assert_equal_at_all_sizes(exported, tolerance=5e-5)


@pytest.mark.slow
def test_label_maps_have_the_size_of_the_image(tmp_path):
    exported = exported_open(SegmentorGraph(segmentor(), labels=True), tmp_path)
    session = onnxruntime.InferenceSession(exported.path)
    for shape in SIZES[:3]:
        (labels,) = session.run(None, {'images': images_of(shape).numpy()})
        assert labels.shape == shape and labels.dtype == np.int64


@pytest.mark.slow
def test_feature_pyramid_with_gnconv_equals_the_model(tmp_path):
    from mmfreq.models.necks import GnFPN

    neck = GnFPN([16, 32], 16, 3, gnconv_cfg={'grid': 8})
    graph = FeatureGraph(mmfreq.build_backbone('hornet-micro', out_indices=(0, 1)), neck)
    exported = exported_open(graph, tmp_path, optimized=True)
    assert_equal_at_all_sizes(exported)


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['gfnet-micro', 'gfnet-cnn-micro', 'cdfformer-micro', 'affnet-micro'])
def test_classifiers_equal_the_model(arch, tmp_path):
    exported = exported_open(randomize_scales_and_filters(mmfreq.build_classifier(arch, num_classes=7)), tmp_path, optimized=True)
    assert_equal_at_all_sizes(exported)


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['bilinear', 'kernel', 'modes'])
def test_every_resize_policy_equals_the_model(policy, tmp_path):
    model = mmfreq.build_backbone('gfnet-h-micro', out_indices=(1,), filter_resize=policy)
    assert_equal_at_all_sizes(exported_open(randomize_scales_and_filters(model), tmp_path))


@pytest.mark.slow
def test_fp16_computes_bases_and_transforms_in_float32(tmp_path):
    exported = exported_open(mmfreq.build_backbone('gfnet-h-micro', out_indices=(1,)), tmp_path, precision='fp16')
    graph = onnx.load(exported.path).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    bases = [types[name] for node in graph.node if node.op_type in ('Cos', 'Sin') for name in node.output]
    assert bases and set(bases) == {onnx.TensorProto.FLOAT}
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in graph.initializer}
    assert_equal_at_all_sizes(exported, 'fp16', 1e-2)


class Padded(nn.Module):
    """A graph with further inputs whose batch is always 1."""

    input_names = ('images', 'image_size')
    open_axes = ('height', 'width')

    def further_inputs(self, images):
        return (torch.tensor([7, 9]),)

    def forward(self, images, image_size):
        return images * image_size.sum()


def test_graph_restricts_the_open_axes_and_keeps_further_inputs(tmp_path):
    exported = export_onnx(Padded(), (8, 8), tmp_path / 'm.onnx', dynamic=True)
    inputs = [(each.name, each.shape) for each in onnxruntime.InferenceSession(exported.path).get_inputs()]
    assert inputs == [('images', [1, 3, 'height', 'width']), ('image_size', [2])]
    assert json.loads(exported.metadata['dynamic']) == ['height', 'width']
    differences = verify(exported.path, exported.model, {'a': images_of((1, 5, 6)), 'b': images_of((1, 1, 9))})
    assert all(each.within for each in differences)


class Converted(nn.Module):
    def forward(self, images):
        return images[..., : int(images.shape[2]) // 2]


def test_a_model_that_needs_a_fixed_size_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'open batch, height and width, but .*Export for one size'):
        export_onnx(Converted(), (8, 8), tmp_path / 'm.onnx', dynamic=True)
    assert not list(tmp_path.iterdir())


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, images):
        return self.pool(images)


@pytest.mark.parametrize(
    'pool',
    [lambda x: F.adaptive_avg_pool2d(x, (2, 3)), lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_max_pool2d(x, 1)],
)
def test_pooling_by_functions_equals_the_model(pool, tmp_path):
    exported = exported_open(Pooled(pool), tmp_path)
    assert_equal_at_all_sizes(exported)


@pytest.mark.parametrize(
    ('pool', 'message'),
    [
        (nn.AdaptiveMaxPool2d(2), 'cannot be pooled by adaptive_max_pool2d to 2'),
        (lambda x: F.interpolate(x, size=(3, 3), mode='area'), "another mode of interpolate than 'area'"),
    ],
)
def test_pooling_that_the_exporter_would_fix_to_the_traced_size_is_refused(pool, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export_onnx(Pooled(pool), (8, 8), tmp_path / 'm.onnx', dynamic=True)


def test_a_fixed_axis_in_the_file_is_an_error():
    shape = onnx.helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, ['batch', 3, 64, 'width'])
    proto = onnx.helper.make_model(onnx.helper.make_graph([], 'g', [shape], []))
    check_open(proto, {'batch': 0, 'width': 3})
    with pytest.raises(RuntimeError, match=r"the exporter fixed \{'height': 64\}"):
        check_open(proto, {'batch': 0, 'height': 2, 'width': 3})


def test_refused_options(tmp_path):
    with pytest.raises(ValueError, match=r"needs the backend 'matmul', got 'fft'"):
        export_onnx(nn.Identity(), (8, 8), tmp_path / 'm.onnx', dynamic=True, backend='fft')
    with pytest.raises(UserError, match=r"has filter_resize='none'.*Export for one size"):
        for_open_size(mmfreq.build_backbone('hornet-micro', filter_resize='none'))
    with pytest.raises(UserError, match=r"GlobalFilter has filter_resize='none'"):
        for_open_size(GlobalFilter(4, 8, filter_resize='none'))
    with pytest.raises(UserError, match=r'0 enlarges by 1\.5'):
        for_open_size(nn.Sequential(nn.Upsample(scale_factor=1.5)))


@pytest.mark.parametrize('size', [1, 3, (2, None), (None, 6), (5, 1)])
def test_replaced_pools_equal_those_of_torch(size):
    pool = nn.AdaptiveAvgPool2d(size)
    replaced = for_open_size(nn.Sequential(pool))[0]
    assert isinstance(replaced, MatrixPool)
    for sides in ((1, 1), (2, 3), (7, 13), (32, 31)):
        x = torch.randn(2, 3, *sides)
        torch.testing.assert_close(replaced(x), pool(x))


@pytest.mark.parametrize('mode', ['nearest', 'bilinear'])
def test_replaced_upsampling_equals_that_of_torch(mode):
    upsample = nn.Upsample(scale_factor=2, mode=mode)
    replaced = for_open_size(nn.Sequential(upsample))[0]
    x = torch.randn(2, 3, 5, 7)
    assert type(replaced).__name__ == 'Enlarge' and torch.equal(replaced(x), upsample(x))


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro'])
def test_traced_size_has_no_side_of_a_stored_grid_and_no_divisible_last_map(arch):
    model = mmfreq.build_backbone(arch, img_size=352)
    height, width = (model.stage_sides(side) for side in trace_size(model))
    stored = {352 // stride for stride in model.strides} if arch != 'affnet-micro' else set()  # AFFNet stores nothing at a grid
    assert not {*height, *width} & (stored | {1}) and not set(height) & set(width)
    assert all(side % divisor for side in (height[-1], width[-1]) for divisor in (2, 3, 6))
