"""Counts equal manual computations, the counter of PyTorch, mmengine with handles, and the tables of the papers."""

from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, complexity_analysis, get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmfreq
from mmfreq.analysis.flops import Macs, build_for_counting, count, paper_macs
from mmfreq.analysis.mmengine_flops import fft_aware_mmengine, register_handles
from mmfreq.layers import AdaptiveFrequencyFilter, DynamicFilter, GlobalFilter
from mmfreq.ops import cost
from mmfreq.zoo.rows import load_rows

CONFIGS = Path(mmfreq.__file__).parents[1] / 'configs'
MICRO = [name for name in mmfreq.list_archs() if name.endswith('-micro')]
FAMILIES = ['hornet-micro', 'gfnet-h-micro', 'dfformer-micro', 'affnet-micro']

# conv + matmul GMACs of the reference implementations, without transforms; input 224
COMPUTED = {
    **{'hornet-tiny-7x7': 3.97, 'hornet-tiny-gf': 3.89, 'hornet-small-7x7': 8.81, 'hornet-small-gf': 8.69},
    **{'hornet-base-7x7': 15.57, 'hornet-base-gf': 15.41, 'hornet-large-7x7': 34.8, 'hornet-large-gf': 34.6},
    **{'hornet-base-gf-img384': 45.3, 'hornet-large-gf-img384': 101.6},
    **{'dfformer-s18': 3.80, 'dfformer-s36': 7.36, 'dfformer-m36': 12.46, 'dfformer-b36': 22.13},
    **{'cdfformer-s18': 3.89, 'cdfformer-s36': 7.53, 'cdfformer-m36': 12.72, 'cdfformer-b36': 22.46},
    **{'gfformer-s18': 3.79, 'dfformer-s18-k2': 3.80, 'dfformer-s18-d8': 3.80, 'dfformer-s18-gelu': 3.80},
    **{'dfformer-s18-relu': 3.80, 'dfformer-s18-afno': 4.45},
}
# GFLOPs in the tables of GFNet's README and paper, by input size
GFNET = {
    **{('gfnet-ti', 224): 1.3, ('gfnet-xs', 224): 2.8, ('gfnet-s', 224): 4.5, ('gfnet-b', 224): 7.9},
    **{('gfnet-xs', 384): 8.4, ('gfnet-s', 384): 13.2, ('gfnet-b', 384): 23.3},
    **{('gfnet-h-ti', 224): 2.0, ('gfnet-h-s', 224): 4.5, ('gfnet-h-b', 224): 8.4},
}
GFNET_QUICK = [('gfnet-ti', 224), ('gfnet-h-ti', 224)]
AFFNET = {'affnet-et': 0.362, 'affnet-t': 0.794, 'affnet': 1.462}  # GFLOPs by the official profiler
# UPerNet + HorNet, 512x2048 and for L 640x2560, as published; HorFPN: computed from the reference implementation
UPERNET = {
    **{'tiny-7x7_upernet': 926, 'tiny-gf_upernet': 924, 'small-7x7_upernet': 1030, 'small-gf_upernet': 1027},
    **{'base-7x7_upernet': 1174, 'base-gf_upernet': 1171, 'large-7x7_upernet': 2473, 'large-gf_upernet': 2465},
    **{'small-7x7_horfpn-7x7-upernet': 576.8, 'small-7x7_horfpn-gf-upernet': 574.5},
}
# Cascade Mask R-CNN + HorNet, 800x1280
CASCADE = {
    **{'tiny-7x7': 730, 'tiny-gf': 728, 'small-7x7': 830, 'small-gf': 827},
    **{'base-7x7': 969, 'base-gf': 965, 'large-7x7': 1363, 'large-gf': 1358},
}


# The entries of COMPUTED that are counted here. For the others the number in the metafiles is compared, which
# `tests/zoo/test_metafiles.py` counts.
COUNTED = ['hornet-tiny-7x7', 'hornet-large-7x7', *(arch for arch in COMPUTED if arch.startswith('hornet') and '-gf' in arch)]
COUNTED += ['dfformer-s18', 'cdfformer-s18', 'gfformer-s18', 'dfformer-s18-afno']


@cache
def rows():
    return load_rows()


def recorded(pattern):
    """Multiply-adds by the paper's counting in the metafile, for the only row of this config."""
    (path,) = CONFIGS.glob(pattern)
    (row,) = (row for row in rows() if row.config == path)
    return row.entry['Metadata']["FLOPs, paper's counting"]


def sizes_of(height, width):
    """Number of elements of a channel's map and of its half spectrum."""
    return height * width, height * (width // 2 + 1)


def test_count_of_a_global_filter():
    layer = GlobalFilter(3, 8)
    # a transform of 8 x 8 is 8 rows of 8 * 3 and 5 columns of 2 * 8 * 3; a product of 8 * 5 complex numbers is 160
    assert count(layer, 8).macs == Macs(conv_matmul=0, fft=3 * 2 * (8 * 24 + 5 * 48), spectral=3 * 160, other=0)
    assert count(layer, 8).macs.total == cost.global_filter_cost(3, 8, 8)
    assert count(layer, 8).published_fft == 3 * 2 * 64 * 6 == 2 * cost.published_fft_cost(8, 8, 3)


def test_count_of_a_global_filter_with_matmul_backend():
    report = count(GlobalFilter(3, 8, spectral='matmul'), 8)
    # each direction: (8, 8) x (8, 5) six times; the inverse also scales two bases of 5 x 8 by the columns' multiplicities
    assert report.macs == Macs(fft=3 * 2 * 6 * 8 * 8 * 5, spectral=3 * 160 + 2 * 5 * 8)
    assert report.macs.fft == 3 * 2 * cost.matmul_dft_cost(8, 8) and report.published_fft == 0


def test_resizing_of_a_filter_is_counted():
    # bilinear: four per element of the (3, 4, 3, 2) filter for a 4 x 4 map
    assert count(GlobalFilter(3, 8), 4).macs.other == 4 * 3 * 4 * 3 * 2


def test_count_of_a_dynamic_filter():
    layer = DynamicFilter(8, (6, 9))  # M 16, N 4, hidden 2
    full, half = sizes_of(6, 9)
    macs = count(layer, torch.zeros(1, 8, 6, 9)).macs
    assert macs.conv_matmul == 2 * full * 8 * 16 + (8 * 2 + 2 * 64) + half * 16 * 4 * 2
    assert macs.fft == round(16 * 2 * cost.rfft2_cost(6, 9)) and macs.spectral == 16 * 4 * half
    # StarReLU squares and scales, M per pixel and once on the hidden layer; softmax over N M; mean over C
    assert macs.other == 2 * 16 * full + 2 * 2 + 64 + 8 * full
    assert macs.total - macs.other == round(cost.dynamic_filter_cost(8, 2, 4, 16, 6, 9))


@pytest.mark.parametrize('backend', ['fft', 'matmul'])
def test_count_of_an_adaptive_frequency_filter(backend):
    macs = count(AdaptiveFrequencyFilter(16, spectral=backend), torch.zeros(2, 16, 5, 8)).macs  # batch 2, 8 blocks of 2 channels
    _, half = sizes_of(5, 8)
    assert macs.conv_matmul == 2 * (2 * 8 * 2 * 2 * 4 * half) == 2 * cost.block_mlp_cost(16, 8, 5, 8)
    assert macs.fft == round(2 * 16 * 2 * cost.transform_cost(5, 8, backend))
    bases = 2 * 5 * 8 if backend == 'matmul' else 0
    assert macs.spectral == 2 * 16 * (4 * half + 2 * half) + bases  # product with the mask; SiLU of both parts
    assert macs.other == 0


@pytest.mark.slow
@pytest.mark.parametrize('arch', MICRO)
def test_conv_and_matmul_equal_the_count_of_pytorch(arch):
    model = mmfreq.build_classifier(arch, spectral='fft').eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 96))
    macs = count(model, (64, 96)).macs
    assert macs.conv_matmul == counter.get_total_flops() / 2 and macs.fft > 0


@pytest.mark.slow
@pytest.mark.parametrize('arch', FAMILIES)
def test_backends_differ_only_in_the_spectral_parts(arch):
    fft, matmul = (count(mmfreq.build_classifier(arch, spectral=backend), 64) for backend in ('fft', 'matmul'))
    assert fft.params == matmul.params
    assert (fft.macs.conv_matmul, fft.macs.other) == (matmul.macs.conv_matmul, matmul.macs.other)
    assert fft.macs.fft < matmul.macs.fft


def test_count_does_not_change_the_model():
    model = mmfreq.build_classifier('hornet-micro', spectral='matmul').train()
    model.stages[0].eval()
    image = torch.rand(1, 3, 64, 64)
    modes, before = [m.training for m in model.modules()], model(image)
    first = count(model, 64)
    assert [m.training for m in model.modules()] == modes and not any(m._forward_hooks for m in model.modules())
    assert torch.equal(model(image), before)
    with torch.no_grad():
        assert torch.isfinite(model.eval()(image)).all()
        assert count(model, 64) == first
    with torch.device('meta'):
        assert count(mmfreq.build_classifier('hornet-micro', spectral='matmul'), 64) == first


def test_counts_of_modules_sum_to_the_total():
    report = count(mmfreq.build_backbone('gfnet-h-micro'), 64)
    top = dict(report.rows(1))
    for part in ('conv_matmul', 'fft', 'spectral'):
        assert sum(getattr(m.macs, part) for m in top.values()) == pytest.approx(getattr(report.macs, part), abs=len(top))
    filters = [m for name, m in report.modules.items() if name.endswith('.filter')]
    assert len(filters) > 2 and sum(m.macs.fft for m in filters) == pytest.approx(report.macs.fft, abs=len(filters))


def test_invalid_sizes_are_rejected():
    for size in (0, (8, -8), (3, 8, 8)):
        with pytest.raises(ValueError, match=r'side of an image, its \(H, W\), or tensors'):
            count(nn.Identity(), size)


@pytest.mark.slow
@pytest.mark.parametrize('arch', COUNTED)
def test_conv_and_matmul_equal_the_reference_implementation(arch):
    model, size = build_for_counting(arch)
    assert count(model, size).macs.conv_matmul / 1e9 == pytest.approx(COMPUTED[arch], rel=0.01)


def test_metafiles_have_the_counts_without_transforms():
    """DFFormer, whose authors did not count transforms, and HorNet with 7x7 convolutions, which has none."""
    archs = [arch for arch in COMPUTED if 'former' in arch or arch.endswith('7x7')]
    archs.remove('hornet-large-7x7')  # its config is for 384x384 images
    found = {arch: recorded(f'cls/*/{arch}_*') / 1e9 for arch in archs}
    assert len(archs) == 17 and set(archs) | set(COUNTED) == set(COMPUTED)
    assert found == {arch: pytest.approx(COMPUTED[arch], rel=0.01) for arch in archs}


@pytest.mark.parametrize(
    ('arch', 'side'), [pytest.param(*key, marks=() if key in GFNET_QUICK else pytest.mark.slow) for key in GFNET]
)
def test_counts_equal_the_tables_of_gfnet(arch, side):
    """They include transforms by the published formula; those of the pyramids exclude the convolutions between stages."""
    with torch.device('meta'):
        model = mmfreq.build_classifier(arch, img_size=side)
    report = count(model, side)
    between = [report.modules[f'patch_embed.{i}'].macs.conv_matmul for i in (1, 2, 3)] if '-h-' in arch else []
    assert round((report.published - sum(between)) / 1e9, 1) == GFNET[arch, side]


@pytest.mark.slow
def test_counts_equal_the_profiler_of_affnet():
    model, size = build_for_counting('affnet-et')
    report = count(model, size)
    mixers = [(name, m) for name, m in model.named_modules() if isinstance(m, AdaptiveFrequencyFilter)]
    assert len(mixers) == 9
    for name, mixer in mixers:
        side = size[0] // 2 ** int(name.split('.')[0].removeprefix('layer_'))
        blocks, width = mixer.w1.shape[1:3]
        assert report.modules[name].macs.conv_matmul == cost.block_mlp_cost(blocks * width, blocks, side, side)
    assert round(paper_macs(model, report, 'affnet', classifier=True) / 1e9, 3) == AFFNET['affnet-et']
    assert {arch: round(recorded(f'cls/affnet/{arch}_*') / 1e9, 3) for arch in AFFNET} == AFFNET


@pytest.mark.slow
@pytest.mark.parametrize('name', ['tiny-gf_upernet', 'large-gf_upernet', 'small-7x7_horfpn-gf-upernet'])
def test_upernet_has_the_published_count(name):
    (path,) = (CONFIGS / 'seg/hornet').glob(f'hornet-{name}_8xb2-160k_ade20k-*.py')
    model, size = build_for_counting(str(path))
    assert size == ((640, 2560) if 'large' in name else (512, 2048))
    report = count(model, size)
    assert report.macs.conv_matmul / 1e9 == pytest.approx(UPERNET[name], rel=0.002) and not report.uncounted


def test_cascade_mask_rcnn_has_the_published_count():
    (path,) = (CONFIGS / 'det/hornet').glob('hornet-tiny-gf_cascade-mask-rcnn_*_coco.py')
    model, size = build_for_counting(str(path))
    assert size == (800, 1280)
    report = count(model, size)
    assert report.macs.conv_matmul / 1e9 == pytest.approx(CASCADE['tiny-gf'], rel=0.002) and not report.uncounted


def test_metafiles_have_the_published_counts_of_dense_models():
    found = {name: recorded(f'seg/hornet/hornet-{name}_8xb2-160k_ade20k-*.py') / 1e9 for name in UPERNET}
    assert found == {name: pytest.approx(gmacs, rel=0.002) for name, gmacs in UPERNET.items()}
    found = {name: recorded(f'det/hornet/hornet-{name}_cascade-mask-rcnn_*_coco.py') / 1e9 for name in CASCADE}
    assert found == {name: pytest.approx(gmacs, rel=0.002) for name, gmacs in CASCADE.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'size'),
    [('affnet/affnet-et_ssdlite_8xb16-200e_coco-320x320.py', (320, 320)), ('dfformer/*s18_retinanet*', (800, 1280))],
)
def test_one_stage_detectors_are_counted_in_all_parts(config, size):
    model, found = build_for_counting(str(next((CONFIGS / 'det').glob(config))))
    macs = count(model, found).modules
    assert found == size
    assert macs['bbox_head'].macs.conv_matmul + macs['backbone'].macs.conv_matmul <= macs[''].macs.conv_matmul
    assert min(macs[part].macs.conv_matmul for part in ('backbone', 'neck', 'bbox_head')) > 0


@pytest.mark.slow
def test_model_that_cannot_be_built_on_meta_is_built_on_the_cpu(tmp_path):
    config = tmp_path / 'swin.py'
    config.write_text("_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'")
    model, size = build_for_counting(str(config))
    assert next(model.parameters()).device.type == 'cpu'
    assert count(model, size).macs.conv_matmul / 1e9 == pytest.approx(267, rel=0.01)  # as in the repository of Swin


@pytest.mark.slow
@pytest.mark.parametrize('arch', FAMILIES)
@pytest.mark.parametrize('backend', ['fft', 'matmul'])
def test_mmengine_with_handles_has_the_same_count(arch, backend):
    model, image = mmfreq.build_classifier(arch, spectral=backend).eval(), torch.zeros(1, 3, 64, 64)
    analyzer = register_handles(FlopAnalyzer(model, image))
    found = analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none').by_operator()
    macs = count(model, 64).macs
    seen = sum(n for op, n in found.items() if op in ('conv', 'linear', 'matmul', 'einsum') or op.startswith('fft_'))
    assert seen == pytest.approx(macs.conv_matmul + macs.fft, rel=1e-5)  # numpy prints an einsum's cost with four digits
    assert any(op.startswith('fft_') for op in found) == (backend == 'fft')


def test_context_restores_mmengine():
    before = dict(complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS)
    model = GlobalFilter(3, 8, spectral='fft').eval()
    with fft_aware_mmengine():
        inside = get_model_complexity_info(model, (3, 8, 8), show_table=False, show_arch=False)
    assert inside['flops'] == cost.global_filter_cost(3, 8, 8)
    assert before == complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS and 'aten::fft_rfft2' not in before
    assert get_model_complexity_info(model, (3, 8, 8), show_table=False, show_arch=False)['flops'] == 0


@pytest.mark.parametrize('name', ['rfft', 'rfftn', 'irfft', 'irfft2', 'fft', 'fft2', 'ifft', 'ifftn'])
def test_other_transforms_are_counted_by_both_counters(name):
    class Transform(nn.Module):
        def forward(self, x):
            return getattr(torch.fft, name)(x).abs()

    x = torch.zeros(2, 3, 8, 4, dtype=torch.float32 if name.startswith('r') else torch.complex64)
    macs = count(Transform(), x).macs
    found = register_handles(FlopAnalyzer(Transform(), x)).unsupported_ops_warnings(False).total()
    assert found == pytest.approx(macs.fft, abs=1) and macs.fft > 0
