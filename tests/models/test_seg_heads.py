"""GnUPerHead, GnFPNHead and AFFNetASPPHead: published numbers and names, differences from mmseg's heads."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import ASPPHead, FPNHead, UPerHead
from mmseg.structures import SegDataSample

import mmfreq
from mmfreq.models.affnet import ARCHS
from mmfreq.models.conv_layer import GnConvModule
from mmfreq.models.seg_heads import AFFNetASPPHead, GnFPNHead, GnUPerHead
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error
from mmfreq.weights.convert import to_mmfreq, to_published
from mmfreq.weights.load import load_checked

GNCONV_CFG = {'gnconv': dict(kernel_size=7), 'gngf': dict(grid=32)}
UPER_ARGS = dict(in_channels=[16, 32, 64, 128], in_index=[0, 1, 2, 3], channels=32, num_classes=5, norm_cfg=dict(type='BN'))


@pytest.mark.parametrize('name', GNCONV_CFG)
def test_golden_uper_head(name, golden_folder, within_limit):
    golden = read_golden(golden_folder, f'hornet__gnuperhead_{name}')
    kwargs = {k: v for k, v in golden['kwargs'].items() if k != 'conv_cfg'}
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmfreq.GnUPerHead', gnconv_cfg=GNCONV_CFG[name], **kwargs)).eval()
    assert sum(p.numel() for p in head.parameters()) == golden['num_params']
    head.load_state_dict(golden_state(golden['state_dict']), strict=True)
    for case in golden['cases']:
        levels = golden_inputs(case)
        with torch.no_grad():
            within_limit('hornet outputs', *worst_error([head._forward_feature(levels), head(levels)], case['outputs']))


def test_only_the_fusion_differs_from_mmsegs_uper_head():
    stock, head = UPerHead(**UPER_ARGS), GnUPerHead(**UPER_ARGS)
    differing = {n.split('.')[0] for n in stock.state_dict().keys() ^ head.state_dict().keys()}
    assert differing == {'fpn_bottleneck'}
    assert type(head.fpn_bottleneck) is GnConvModule and head.fpn_bottleneck.dwconv.kernel_size == (7, 7)


def test_published_number_of_parameters_of_the_fusion():
    """2048 to 512 channels: 9.438M parameters plain, 2.532M with a 7x7 gnConv, 2.918M with a global-local filter."""
    sizes = []
    for cfg in GNCONV_CFG.values():
        with torch.device('meta'):
            module = GnConvModule(2048, 512, cfg, dict(type='BN'), dict(type='ReLU'))
        sizes.append(round(sum(p.numel() for p in module.parameters()) / 1e6, 3))
    assert sizes == [2.532, 2.918]


FPN_ARGS = dict(
    in_channels=[16, 16, 16, 16],
    in_index=[0, 1, 2, 3],
    feature_strides=[4, 8, 16, 32],
    channels=32,
    num_classes=5,
    norm_cfg=dict(type='BN'),
)


def test_shapes_are_those_of_mmsegs_fpn_head_and_every_parameter_has_a_gradient():
    with DefaultScope.overwrite_default_scope('mmseg'):
        head = MODELS.build(dict(type='mmfreq.GnFPNHead', gnconv_cfg=dict(order=3), **FPN_ARGS))
    levels = [torch.randn(2, 16, *size) for size in ((16, 24), (8, 12), (4, 6), (2, 3))]
    out = head(levels)
    assert out.shape == FPNHead(**FPN_ARGS)(levels).shape == (2, 5, 16, 24)
    out.square().mean().backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]


def test_only_the_3x3_convolutions_differ_from_mmsegs_fpn_head():
    stock, head = FPNHead(**FPN_ARGS), GnFPNHead(**FPN_ARGS)
    assert {n.split('.')[0] for n in stock.state_dict().keys() ^ head.state_dict().keys()} == {'scale_heads'}
    modules = [m for m in head.modules() if type(m) is GnConvModule]
    assert len(modules) == 1 + 1 + 2 + 3 and modules[0].dims == [16, 32]
    assert not [m for m in head.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]


GOLDEN = 'affnet__affnet_et_deeplabv3'
AUXILIARY = {
    'seg_head.aux_head.0.block.conv.weight',
    *(f'seg_head.aux_head.0.block.norm.{n}' for n in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')),
    'seg_head.aux_head.2.block.conv.weight',
    'seg_head.aux_head.2.block.conv.bias',
}


def segmentor(arch, num_classes, auxiliary=False, **head):
    channels = ARCHS[arch].channels
    cfg = dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True, size_divisor=1),
        backbone=dict(type='mmfreq.AFFNet', arch=arch, output_stride=16, out_indices=(2, 3) if auxiliary else (3,)),
        decode_head=dict(type='mmfreq.AFFNetASPPHead', in_channels=channels[3], num_classes=num_classes, **head),
        test_cfg=dict(mode='whole'),
    )
    if auxiliary:  # as in the docstring of the head
        cfg['auxiliary_head'] = dict(
            type='FCNHead', in_channels=channels[2], in_index=0, channels=max(channels[2] // 4, 128), num_convs=1,
            concat_input=False, num_classes=num_classes, norm_cfg=dict(type='BN'), align_corners=True,
            loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
        )  # fmt: skip
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(ConfigDict(cfg))


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_golden_segmentor(golden_folder, within_limit):
    golden = read_golden(golden_folder, GOLDEN)
    model = segmentor('affnet-et', 150).eval()
    assert count(model) == golden['num_params'] and count(model.backbone) == golden['num_params_backbone']
    report = mmfreq.load_weights(model, golden_state(golden['state_dict']))
    assert report.layout == 'CVNets DeepLabv3' and report.loaded == len(golden['state_dict']) and not report.fresh
    branches = []
    model.decode_head.bottleneck.register_forward_pre_hook(lambda module, args: branches.extend(args[0].chunk(5, 1)))
    (case,) = golden['cases']
    (image,) = golden_inputs(case)
    with torch.no_grad():
        logits = model.encode_decode(image, [dict(img_shape=tuple(image.shape[2:]))])
        in_order = tuple(branches)
        maps = model.backbone(image)
        outputs = [*maps, *in_order, model.decode_head._forward_feature(maps), model.decode_head(maps), logits]
    within_limit('affnet decoders', *worst_error(outputs, case['outputs']))


def test_published_names_round_trip(golden_folder):
    state = golden_state(read_golden(golden_folder, GOLDEN)['state_dict'])
    model = segmentor('affnet-et', 150)
    mmfreq.load_weights(model, state)
    assert to_mmfreq(state).checkpoint['state_dict'].keys() == model.state_dict().keys()
    back = to_published({'state_dict': model.state_dict()}).checkpoint
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())


def test_names_of_the_auxiliary_head():
    model = segmentor('affnet-micro', 5, auxiliary=True, channels=16)
    official = to_published({'state_dict': golden_state({n: p.shape for n, p in model.state_dict().items()})}).checkpoint
    assert {name for name in official if '.aux_head.' in name} == AUXILIARY
    load_checked(model, {'model_state_dict': official}, 'a file', strict=True)
    back = to_published({'state_dict': model.state_dict()}).checkpoint
    assert back.keys() == official.keys() and all(torch.equal(back[name], value) for name, value in official.items())


@pytest.mark.parametrize(
    ('num_classes', 'published'),
    [
        (150, {'affnet-et': 2.214, 'affnet-t': 3.531, 'affnet': 7.044}),
        (21, {'affnet-et': 2.180, 'affnet-t': 3.498, 'affnet': 7.010}),
    ],
)
def test_published_numbers_of_parameters(num_classes, published):
    with torch.device('meta'):
        sizes = {arch: round(count(segmentor(arch, num_classes)) / 1e6, 3) for arch in published}
    assert sizes == published


def test_mmsegs_aspp_head_is_equal_with_rearranged_weights():
    """With the pooled branch first and the 1x1 kernel of the bottleneck in the middle of a 3x3 kernel."""
    args = dict(in_channels=8, channels=6, num_classes=5, norm_cfg=dict(type='BN'), align_corners=True)
    head, stock = AFFNetASPPHead(**args).eval(), ASPPHead(**args).eval()
    state = golden_state({name: value.shape for name, value in head.state_dict().items()})
    head.load_state_dict(state)
    kernel = state['bottleneck.conv.weight'].roll(6, 1)
    stock.load_state_dict(state | {'bottleneck.conv.weight': torch.nn.functional.pad(kernel, (1, 1, 1, 1))})
    x = torch.randn(2, 8, 11, 7)
    with torch.no_grad():
        assert torch.allclose(head([x]), stock([x]), rtol=1e-5, atol=1e-6)
        stock.bottleneck.conv.weight.copy_(stock.bottleneck.conv.weight.roll(-6, 1))
        assert not torch.allclose(head([x]), stock([x]), atol=1e-2)


def batch(sizes, num_classes):
    samples = []
    for size in sizes:
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, num_classes, (1, *size))))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes], data_samples=samples)


def test_training_step_reaches_every_parameter():
    model = segmentor('affnet-micro', 5, auxiliary=True, channels=16).train()
    data = batch([(65, 97)] * 3, 5)
    with DefaultScope.overwrite_default_scope('mmseg'):
        losses = model(**model.data_preprocessor(data, training=True), mode='loss')
        assert {name for name in losses if 'loss' in name} == {'decode.loss_ce', 'aux.loss_ce'}
        model.parse_losses(losses)[0].backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in model.parameters())
        wrapper = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)))
        assert all(torch.isfinite(value) for value in model.train_step(data, wrapper).values())


@pytest.mark.parametrize('size', [(32, 32), (33, 71), (50, 96)])
def test_predictions_have_the_size_of_the_image(size):
    model = segmentor('affnet-micro', 5, channels=16).eval()
    (result,) = model.test_step(batch([size], 5))
    assert result.pred_sem_seg.data.shape == (1, *size) and result.seg_logits.data.shape == (5, *size)
    assert torch.isfinite(result.seg_logits.data).all()
