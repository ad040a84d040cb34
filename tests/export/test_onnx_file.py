"""Exported files have no Fourier operator, the outputs of the model, and metadata for their users."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

import mmfreq
from mmfreq.export import export_onnx, verify
from mmfreq.layers import StoredFilter
from mmfreq.models._factory import backbone_class
from mmfreq.testing.backbone_contract import randomize_scales_and_filters

onnx = pytest.importorskip('onnx', reason='extra [export] is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')

SMALL = ('gfnet-micro', 'gfnet-cnn-micro', 'cdfformer-micro')  # types of blocks that PUBLISHED does not have
PUBLISHED = {'hornet-tiny-gf': (1,) * 4, 'gfnet-h-ti': (1,) * 4, 'dfformer-s18': (1,) * 4, 'affnet': (1,) * 3}
FORBIDDEN = {'Resize', 'Einsum', 'Loop', 'If', 'Scan', 'GridSample', 'NonZero', 'Shape'}


def random_images(*size, count=2):
    generator = torch.Generator().manual_seed(3)
    return {f'input {i}': torch.randn(1, 3, *size, generator=generator) for i in range(count)}


def assert_no_fourier_and_equal(exported, size):
    assert not exported.spectral
    assert not FORBIDDEN & set(exported.operators)
    differences = verify(exported.path, exported.model, random_images(*size))
    assert differences
    assert all(difference.largest < 1e-5 for difference in differences), [str(d) for d in differences]


@pytest.mark.slow
@pytest.mark.parametrize('arch', SMALL)
def test_backbones_at_a_size_other_than_the_published(arch, tmp_path):
    model = mmfreq.build_backbone(arch).eval()
    exported = export_onnx(model, (72, 100), tmp_path / 'm.onnx')
    assert exported.operators['MatMul'] > 0
    assert_no_fourier_and_equal(exported, (72, 100))


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_widths_and_grids_are_exported(name, tmp_path):
    """One block in each stage; benchmarks/onnx_dft.py exports whole models."""
    arch = replace(backbone_class(name).ARCHS[name], depths=PUBLISHED[name])
    exported = export_onnx(backbone_class(name)(arch=asdict(arch)).eval(), (256, 320), tmp_path / 'm.onnx')
    assert_no_fourier_and_equal(exported, (256, 320))


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['dfformer-micro', 'affnet-micro'])
def test_optimized_export_equals_the_model(arch, tmp_path):
    """Compared with the model that is not optimized; onnxruntime 1.32 multiplies transposed maps by vectors wrongly."""
    model = randomize_scales_and_filters(mmfreq.build_backbone(arch)).eval()
    exported = export_onnx(model, (64, 96), tmp_path / 'm.onnx', optimized=True)
    assert 'BatchNormalization' not in exported.operators and 'Folded' not in repr(exported.model)
    assert_no_fourier_and_equal(exported, (64, 96))


@pytest.mark.slow
def test_dynamic_batch_accepts_any_number_of_images(tmp_path):
    model = mmfreq.build_backbone('dfformer-micro', out_indices=(1,)).eval()
    exported = export_onnx(model, (64, 96), tmp_path / 'm.onnx', dynamic_batch=True)
    session = onnxruntime.InferenceSession(exported.path)
    assert session.get_inputs()[0].shape == ['batch', 3, 64, 96]
    for count in (1, 3):
        images = torch.randn(count, 3, 64, 96)
        with torch.no_grad():
            expected = model(images)[0].numpy()
        np.testing.assert_allclose(session.run(None, {'images': images.numpy()})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_fp16_file_has_float16_weights_and_float32_inputs_and_outputs(tmp_path):
    model = mmfreq.build_classifier('gfnet-h-micro', num_classes=5).eval()
    exported = export_onnx(model, (64, 96), tmp_path / 'm.onnx', precision='fp16')
    proto = onnx.load(exported.path)
    sizes = {}
    for tensor in proto.graph.initializer:
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    filters = sum(m.stored.numel() for m in model.modules() if isinstance(m, StoredFilter))
    others = sum(p.numel() for p in model.parameters()) - filters - model.pos_embed.numel()
    assert sizes[onnx.TensorProto.FLOAT16] >= others
    assert {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)} == {onnx.TensorProto.FLOAT}
    differences = verify(exported.path, exported.model, random_images(64, 96), 'fp16')
    assert all(1e-6 < difference.largest < 5e-3 for difference in differences)
    assert next(exported.model.parameters()).dtype == next(model.parameters()).dtype == torch.float32


@pytest.mark.slow
def test_other_dtypes_autocast_and_compiled_models_give_the_file_of_the_float32_model(tmp_path):
    model = mmfreq.build_backbone('gfnet-h-micro', out_indices=(0,)).eval()
    expected = export_onnx(model, (32, 32), tmp_path / 'm.onnx').operators
    half = copy.deepcopy(model).bfloat16()
    for changed in (copy.deepcopy(model).double(), half, torch.compile(model)):
        exported = export_onnx(changed, (32, 32), tmp_path / 'm.onnx')
        assert exported.operators == expected and next(exported.model.parameters()).dtype == torch.float32
    assert next(half.parameters()).dtype == torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        assert export_onnx(model, (32, 32), tmp_path / 'm.onnx').operators == expected


def test_fft_backend_exports_the_dft_operator(tmp_path):
    model = mmfreq.build_backbone('hornet-micro').eval()
    exported = export_onnx(model, (64, 64), tmp_path / 'm.onnx', backend='fft')
    assert exported.spectral.keys() == {'DFT'}
    assert all(difference.within for difference in verify(exported.path, exported.model, random_images(64, 64)))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A file in a new folder, which tests only read."""
    metadata = {'classes': ('a', 'b'), 'mean': (1.0, 2.0, 3.0), 'task': 'segmentation'}
    path = tmp_path_factory.mktemp('exported') / 'deep' / 'm.onnx'
    return export_onnx(mmfreq.build_backbone('gfnet-h-micro'), (64, 32), path, metadata=metadata)


@pytest.mark.slow
def test_metadata_of_the_file(exported):
    proto = onnx.load(exported.path)
    found = {item.key: item.value for item in proto.metadata_props}
    assert found == exported.metadata
    assert json.loads(found['classes']) == ['a', 'b'] and json.loads(found['mean']) == [1.0, 2.0, 3.0]
    assert found['task'] == 'segmentation' and json.loads(found['size']) == [64, 32]
    assert found['mmfreq_version'] == proto.producer_version == mmfreq.__version__
    assert [v.name for v in proto.graph.output] == ['output_0', 'output_1', 'output_2', 'output_3']


class Scaled(nn.Module):
    """A graph with a second input and named outputs."""

    input_names = ('images', 'image_size')
    output_names = ('scaled', 'rows')

    def further_inputs(self, images):
        return (torch.tensor(images.shape[2:]),)

    def forward(self, images, image_size):
        return images / image_size[0], torch.arange(images.shape[2]) < image_size[1]


@pytest.mark.parametrize('options', [{}, {'precision': 'fp16', 'dynamic_batch': True}])
def test_graph_declares_its_names_and_further_inputs(options, tmp_path):
    exported = export_onnx(Scaled(), (8, 6), tmp_path / 'm.onnx', **options)
    session = onnxruntime.InferenceSession(exported.path)
    assert [v.name for v in session.get_inputs()] == ['images', 'image_size']
    assert [v.name for v in session.get_outputs()] == ['scaled', 'rows']
    assert session.get_inputs()[0].shape == ['batch' if options else 1, 3, 8, 6]
    scaled, rows = session.run(None, {'images': np.ones((1, 3, 8, 6), np.float32), 'image_size': np.array([4, 3])})
    assert scaled.dtype == np.float32 and (scaled == 0.25).all() and rows.sum() == 3
    assert all(difference.within for difference in verify(exported.path, exported.model, random_images(8, 6)))


def test_transforms_outside_the_spectral_operator_are_rejected(tmp_path):
    class Own(nn.Module):
        def forward(self, x):
            return torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])

    with pytest.raises(RuntimeError, match=r'the graph has .*DFT'):
        export_onnx(Own(), (16, 16), tmp_path / 'm.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'precision': 'int8'}, "precision 'int8' is unknown; choose one of fp32, fp16"),
        ({'backend': 'auto'}, "backend 'auto' is unknown; choose one of matmul, fft"),
    ],
)
def test_unknown_options_are_rejected(option, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(nn.Identity(), (8, 8), tmp_path / 'm.onnx', **option)


def test_operators_in_functions_and_branches_are_counted():
    from onnx import TensorProto, helper

    from mmfreq.export.onnx_file import operators_of

    value = helper.make_tensor_value_info('y', TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node('DFT', ['x'], ['y'])], 'then', [], [value])
    choice = helper.make_node('If', ['c'], ['y'], then_branch=branch, else_branch=branch)
    call = helper.make_node('Own', ['y'], ['z'], domain='own')
    function = helper.make_function('own', 'Own', ['a'], ['b'], [helper.make_node('Relu', ['a'], ['b'])], [])
    graph = helper.make_graph([choice, call], 'g', [], [value])
    proto = helper.make_model(graph, functions=[function])
    assert operators_of(proto) == {'If': 1, 'DFT': 2, 'Relu': 1}


@pytest.mark.slow
def test_verify_detects_a_file_of_another_model(exported):
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    differences = verify(exported.path, other, random_images(64, 32))
    assert not any(difference.within for difference in differences)
    assert 'ABOVE 0.0001' in str(differences[0])
