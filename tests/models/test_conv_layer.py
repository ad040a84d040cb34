"""`conv_cfg=dict(type='mmfreq.GnConv')` in mmcv's modules and in the heads of mmseg and mmdet that take a `conv_cfg`."""

import pytest
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmfreq.registry
from mmfreq.layers import GnConvLayer
from mmfreq.testing import naming

GNCONV = dict(type='mmfreq.GnConv', order=2, grid=None)
BN = dict(type='BN')
LEVELS = [(16, 24), (8, 12), (4, 6), (2, 3)]
SEG = dict(channels=32, num_classes=5, norm_cfg=BN, dropout_ratio=0.0)
FOUR = dict(in_channels=[32] * 4, in_index=[0, 1, 2, 3])


def build(scope, cfg):
    with DefaultScope.overwrite_default_scope(scope):
        module = MODELS.build(cfg)
        module.init_weights()
    return module


def maps(channels=32):
    return [torch.randn(2, channels, *size) for size in LEVELS]


def replaced(module):
    return [m for m in module.modules() if isinstance(m, GnConvLayer)]


@pytest.mark.parametrize('bias, norm', [('auto', None), ('auto', BN), (True, None)])
def test_conv_module_uses_gnconv(bias, norm):
    module = ConvModule(8, 12, 3, stride=2, padding=1, bias=bias, conv_cfg=GNCONV, norm_cfg=norm)
    assert type(module.conv) is GnConvLayer and (module.conv.proj_out.bias is None) == (norm is not None)
    assert module(torch.randn(1, 8, 9, 13)).shape == (1, 12, 5, 7)
    plain = ConvModule(8, 12, 3, stride=2, padding=1)
    assert all(
        getattr(module, name) == getattr(plain, name) for name in ('kernel_size', 'stride', 'dilation', 'groups', 'transposed')
    )


def test_pointwise_and_depthwise_convolutions_stay_conv2d():
    assert type(ConvModule(8, 12, 1, conv_cfg=GNCONV).conv) is nn.Conv2d
    module = DepthwiseSeparableConvModule(8, 12, 3, padding=1, conv_cfg=GNCONV)
    assert [type(m.conv) for m in (module.depthwise_conv, module.pointwise_conv)] == [nn.Conv2d, nn.Conv2d]
    with pytest.raises(ValueError, match=naming('groups=2', 8)):
        ConvModule(8, 12, 3, groups=2, conv_cfg=GNCONV)


def test_indivisible_channels_raise():
    with pytest.raises(ValueError, match=naming(4, 10, 8, 12)):
        ConvModule(8, 10, 3, conv_cfg=dict(type='mmfreq.GnConv', order=3))


def test_default_padding_keeps_the_size():
    layer = MODELS.build(dict(type='mmfreq.GnConv', in_channels=8, out_channels=16, order=3, grid=7))
    assert layer(torch.randn(1, 8, 9, 10)).shape == (1, 16, 9, 10)


def test_dtype_and_device_arguments():
    layer = mmfreq.registry.MODELS.build(
        dict(type='GnConv', in_channels=8, out_channels=8, kernel_size=3, device='meta', dtype=torch.bfloat16)
    )
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {('meta', torch.bfloat16)}


SEG_HEADS = {
    'FCNHead': dict(in_channels=32, in_index=0, num_convs=2, concat_input=True, dilation=2),
    'UPerHead': FOUR,
    'PSPHead': dict(in_channels=32, in_index=0, pool_scales=(1, 2)),
    'ASPPHead': dict(in_channels=32, in_index=0, dilations=(1, 2, 4)),
    'FPNHead': dict(FOUR, feature_strides=[4, 8, 16, 32]),
    'DepthwiseSeparableASPPHead': dict(in_channels=32, in_index=1, dilations=(1, 2), c1_in_channels=32, c1_channels=8),
}


@pytest.mark.parametrize('type_name', SEG_HEADS)
def test_segmentation_heads_train(type_name):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = dict(type=type_name, **SEG_HEADS[type_name], **SEG)
    head, stock = build('mmseg', dict(cfg, conv_cfg=GNCONV)), build('mmseg', cfg)
    wide = [m for m in stock.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) and m.groups == 1]
    assert len(replaced(head)) == len(wide) > 0
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 64, 96)))) for _ in range(2)]
    optimizer = build_optim_wrapper(head, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)))
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    loss = head.loss(maps(), samples, None)['loss_ce']
    assert torch.isfinite(loss)
    optimizer.update_params(loss)
    assert not [name for name, p in head.named_parameters() if torch.equal(p, before[name])]


def det_head(type_name, conv_cfg):
    """A small version of a head in mmdet's configs."""
    from mmengine.hub import get_config

    if type_name == 'RetinaHead':
        cfg = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').model
        head = dict(cfg.bbox_head, num_classes=5, in_channels=32, feat_channels=32, train_cfg=cfg.train_cfg, test_cfg=cfg.test_cfg)
    else:
        cfg = get_config('mmdet::rpn/rpn_r50_fpn_1x_coco.py').model
        head = dict(cfg.rpn_head, in_channels=32, feat_channels=32, train_cfg=cfg.train_cfg.rpn, test_cfg=cfg.test_cfg.rpn)
        head.update(type='mmfreq.RPNHead', num_convs=int(type_name[-1]))
    return build('mmdet', head | (dict(conv_cfg=conv_cfg) if conv_cfg else {}))


@pytest.mark.parametrize('type_name, count', [('RetinaHead', 8), ('RPNHead1', 1), ('RPNHead2', 2)])
def test_detection_heads_train(type_name, count):
    from mmdet.testing import demo_mm_inputs

    head, stock = det_head(type_name, GNCONV), det_head(type_name, None)
    assert len(replaced(head)) == count and not replaced(stock)
    samples = demo_mm_inputs(2, [[3, 64, 96]] * 2, num_items=[3, 3], num_classes=5)['data_samples']
    for sample in samples:
        sample.set_metainfo(dict(pad_shape=(64, 96), batch_input_shape=(64, 96)))
        if type_name.startswith('RPN'):
            sample.gt_instances.labels.zero_()
    levels = maps()[: len(head.prior_generator.strides)] + [torch.randn(2, 32, 1, 2)]
    losses = head.loss(levels, samples)
    total = sum(sum(value) if isinstance(value, list) else value for value in losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize('num_convs', [1, 2])
def test_rpn_head_without_conv_cfg_is_mmdets(num_convs):
    from mmdet.models.dense_heads import RPNHead

    head = det_head(f'RPNHead{num_convs}', None)
    args = dict(in_channels=32, feat_channels=32, num_convs=num_convs)
    assert head.state_dict().keys() == RPNHead(anchor_generator=stock_anchors(), **args).state_dict().keys()


def stock_anchors():
    from mmengine.hub import get_config

    return get_config('mmdet::rpn/rpn_r50_fpn_1x_coco.py').model.rpn_head.anchor_generator


def test_fpn_uses_gnconv():
    cfg = dict(type='FPN', in_channels=[32] * 4, out_channels=16, num_outs=5, conv_cfg=GNCONV)
    for extra in (False, 'on_output'):
        neck = build('mmdet', dict(cfg, add_extra_convs=extra))
        assert len(replaced(neck)) == 4 + bool(extra)
        assert [tuple(out.shape[2:]) for out in neck(maps())] == [*LEVELS, (1, 2)]


def gflops(head, levels):
    with FlopCounterMode(display=False) as counter:
        head(levels)
    return counter.get_total_flops() / 2e9  # multiply-adds


def test_uper_head_costs_less():
    """The paper reports about half the operations of a whole UPerNet; this is the head for HorNet-S at 512x512."""
    cfg = dict(type='UPerHead', in_channels=[96, 192, 384, 768], in_index=[0, 1, 2, 3], channels=512, num_classes=150, norm_cfg=BN)
    with torch.device('meta'):
        levels = [torch.empty(1, c, s, s) for c, s in zip(cfg['in_channels'], (128, 64, 32, 16))]
        stock, only_fusion, everywhere = (
            gflops(build_meta(head), levels)
            for head in (cfg, dict(cfg, type='mmfreq.GnUPerHead'), dict(cfg, conv_cfg=dict(GNCONV, dw_kernel_size=7)))
        )
    assert only_fusion < 0.55 * stock and everywhere < 0.33 * stock, (stock, only_fusion, everywhere)


def build_meta(cfg):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg).eval()
