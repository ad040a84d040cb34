"""`torch.onnx.export(dynamo=False)`, as timm's and mmdeploy's scripts call it: files equal the model, also at sizes not traced."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfreq
from mmfreq.layers import GnConvLayer
from mmfreq.layers.basic import map_norm
from mmfreq.testing.backbone_contract import randomize_scales_and_filters
from mmfreq.testing.toy_segmentation import toy_segmentor

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

pytestmark = pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning', 'ignore::UserWarning')
MICRO = [arch for arch in mmfreq.list_archs() if 'micro' in arch]
STORED, OTHERS = (1, 3, 224, 224), [(2, 3, 224, 224), (1, 3, 96, 160), (3, 3, 70, 33)]  # micro filters are stored for 224x224
FOURIER = {'DFT', 'STFT', 'If', 'Loop'}


def export(model, images, path, opset=17, **options):
    """The file of the legacy exporter; it has passed the checker."""
    torch.onnx.export(model, (images,), path, dynamo=False, opset_version=opset, input_names=['images'], **options)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert not FOURIER & {node.op_type for node in proto.graph.node}
    return proto


def open_axes(outputs):
    """Argument `dynamic_axes` for a model of so many outputs, and the names of the outputs."""
    names = [f'output_{i}' for i in range(outputs)]
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    return {'dynamic_axes': {'images': axes, **{name: {0: 'batch'} for name in names}}, 'output_names': names}


def assert_equal_in_onnxruntime(path, model, *shapes):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for shape in shapes:
        images = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
        with torch.no_grad():
            expected = model(images)
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        for actual, want in zip(session.run(None, {'images': images.numpy()}), expected, strict=True):
            assert np.abs(actual - want.numpy()).max() <= 1e-4 * want.abs().max(), shape


@pytest.mark.parametrize('arch', MICRO)
def test_a_file_for_one_size_in_the_lowest_opset(arch, tmp_path):
    model = randomize_scales_and_filters(mmfreq.build_classifier(arch, num_classes=5)).eval()
    images = torch.randn(1, 3, 96, 64)
    assert {opset.version for opset in export(model, images, tmp_path / 'm.onnx', opset=13).opset_import} == {13}
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, images.shape)


@pytest.mark.parametrize('arch', MICRO)
def test_dynamic_axes_of_a_trace_at_the_stored_grids(arch, tmp_path):
    model = randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    proto = export(model, torch.randn(STORED), tmp_path / 'm.onnx', **open_axes(4))
    assert [axis.dim_param for axis in proto.graph.input[0].type.tensor_type.shape.dim] == ['batch', '', 'height', 'width']
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, STORED, *OTHERS)


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-h-micro', 'affnet-micro'])
def test_a_trace_at_another_size(arch, tmp_path):
    model = randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    export(model, torch.randn(1, 3, 96, 64), tmp_path / 'm.onnx', **open_axes(4))
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, STORED, *OTHERS)


@pytest.mark.parametrize('arch', ['hornet-micro', 'gfnet-micro', 'dfformer-micro', 'affnet-micro'])
def test_optimized_models(arch, tmp_path):
    model = mmfreq.optimize(randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval(), (96, 64))
    export(model, torch.randn(1, 3, 96, 64), tmp_path / 'm.onnx')
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, (1, 3, 96, 64))


@pytest.mark.parametrize('arch', ['hornet-micro', 'dfformer-micro'])
def test_optimized_models_of_open_sizes(arch, tmp_path):
    model = mmfreq.optimize(randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval())
    export(model, torch.randn(1, 3, 96, 64), tmp_path / 'm.onnx', **open_axes(4))
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, STORED, *OTHERS)


@pytest.mark.parametrize('head', ['UPerHead', 'FPNHead', 'mmfreq.GnUPerHead', 'mmfreq.GnFPNHead'])
def test_segmentors(head, tmp_path):
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    cfg = toy_segmentor('BN')
    cfg['decode_head']['type'] = head
    if 'FPN' in head:
        cfg['decode_head'].pop('pool_scales')
        cfg['decode_head'] |= {'feature_strides': [4, 8, 16, 32], 'in_channels': [16] * 4}
        cfg['neck'] = {'type': 'FPN', 'in_channels': [16, 32, 64, 128], 'out_channels': 16, 'num_outs': 4}
    model = MODELS.build(Config({'model': cfg}).model).eval()
    images = torch.randn(1, 3, 64, 64)  # torch: adaptive pooling only where bins divide the map
    export(model, images, tmp_path / 'm.onnx')
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, images.shape)


@pytest.mark.parametrize('grid', [None, 14])
def test_gnconv_layers(grid, tmp_path):
    model = GnConvLayer(16, 8, 3, padding=1, order=3, **({'grid': grid} if grid else {})).eval()
    images = torch.randn(2, 16, 14, 14)
    export(model, images, tmp_path / 'm.onnx', **open_axes(1))
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, images.shape, (1, 16, 14, 14), (1, 16, 20, 15))


@pytest.mark.parametrize('policy', ['bilinear', 'bicubic', 'kernel', 'modes'])
def test_policies_that_resize_filters(policy, tmp_path):
    model = randomize_scales_and_filters(mmfreq.build_backbone('gfnet-h-micro', filter_resize=policy)).eval()
    export(model, torch.randn(STORED), tmp_path / 'm.onnx', **open_axes(4))
    assert_equal_in_onnxruntime(tmp_path / 'm.onnx', model, STORED, *OTHERS)


@pytest.mark.parametrize('arch', ['hornet-micro', 'dfformer-micro', 'affnet-micro'])
def test_fourier_transforms_are_refused_with_the_reason(arch, tmp_path):
    model = mmfreq.build_backbone(arch, spectral='fft').eval()
    with pytest.raises(ValueError, match=r"dynamo=False\) cannot write, got spectral='fft'\. .*tools/export_onnx\.py.*dynamo=True"):
        export(model, torch.randn(1, 3, 64, 64), tmp_path / 'm.onnx')


def test_map_norm_of_maps_with_a_large_mean(tmp_path):
    """Traces use a group norm, whose variance in torch is inaccurate for such maps; onnxruntime's is not."""

    class Norm(torch.nn.Module):
        def forward(self, x):
            return map_norm(x.contiguous(memory_format=torch.channels_last), torch.ones(8, 1, 1)[:, 0, 0], torch.zeros(8), 1e-5)

    images = torch.randn(2, 8, 24, 20) + 1000
    export(Norm(), images, tmp_path / 'm.onnx', **open_axes(1))
    session = onnxruntime.InferenceSession(tmp_path / 'm.onnx', providers=['CPUExecutionProvider'])
    (actual,) = session.run(None, {'images': images.numpy()})
    flat = images.double().flatten(1)
    expected = ((flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()).view(images.shape)
    assert np.abs(actual - expected.numpy()).max() < 1e-3


def test_the_export_function_of_timm(tmp_path):
    export_of_timm = pytest.importorskip('timm.utils.onnx').onnx_export
    model = randomize_scales_and_filters(mmfreq.build_classifier('hornet-micro', num_classes=5)).eval()
    path = str(tmp_path / 'm.onnx')
    export_of_timm(model, path, torch.randn(STORED), dynamic_size=True, check_forward=True, input_names=['images'])
    assert_equal_in_onnxruntime(path, model, STORED, *OTHERS)
