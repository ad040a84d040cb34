"""AFFNet's DeepLabv3 in mmseg's terms: the published numbers, names and sizes, and what of the head is not mmseg's."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import ASPPHead
from mmseg.structures import SegDataSample

import mmfreq
from mmfreq.models.affnet import ARCHS
from mmfreq.models.seg_heads import AFFNetASPPHead
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error
from mmfreq.weights.convert import to_mmfreq, to_published
from mmfreq.weights.load import load_checked

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


def test_names_go_there_and_back(golden_folder):
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
def test_sizes_as_published(num_classes, published):
    with torch.device('meta'):
        sizes = {arch: round(count(segmentor(arch, num_classes)) / 1e6, 3) for arch in published}
    assert sizes == published


def test_the_stock_head_computes_the_same_with_rearranged_weights():
    """The bottleneck's input channels with the pooled branch first, its 1x1 kernel in the middle of a 3x3 one."""
    args = dict(in_channels=8, channels=6, num_classes=5, norm_cfg=dict(type='BN'), align_corners=True)
    ours, stock = AFFNetASPPHead(**args).eval(), ASPPHead(**args).eval()
    state = golden_state({name: value.shape for name, value in ours.state_dict().items()})
    ours.load_state_dict(state)
    kernel = state['bottleneck.conv.weight'].roll(6, 1)
    stock.load_state_dict(state | {'bottleneck.conv.weight': torch.nn.functional.pad(kernel, (1, 1, 1, 1))})
    x = torch.randn(2, 8, 11, 7)
    with torch.no_grad():
        assert torch.allclose(ours([x]), stock([x]), rtol=1e-5, atol=1e-6)
        stock.bottleneck.conv.weight.copy_(stock.bottleneck.conv.weight.roll(-6, 1))
        assert not torch.allclose(ours([x]), stock([x]), atol=1e-2)


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
def test_predictions_have_the_images_size(size):
    model = segmentor('affnet-micro', 5, channels=16).eval()
    (result,) = model.test_step(batch([size], 5))
    assert result.pred_sem_seg.data.shape == (1, *size) and result.seg_logits.data.shape == (5, *size)
    assert torch.isfinite(result.seg_logits.data).all()
