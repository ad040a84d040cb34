"""Parts of a model that mmengine would rewrite into something else are refused."""

import pytest
import torch
from torch import nn

from mmfreq.config.meta_model import build_model_on_meta
from mmfreq.engine.launch import prepare_train
from mmfreq.errors import UserError
from mmfreq.preflight.rewritten import check_rewritten_parts
from mmfreq.testing.toy_segmentation import write_toy_config

NECK = {'type': 'FPN', 'in_channels': [16, 32, 64, 128], 'out_channels': 16, 'num_outs': 4}


def use_affnet(cfg):
    cfg.model.backbone = {'type': 'mmfreq.AFFNet', 'arch': 'affnet-micro', 'img_size': 64}
    cfg.model.decode_head.in_channels = [16, 16, 24, 32]


BAD_PARTS = {
    'no such part': (
        lambda cfg: cfg.update(efficient_conv_bn_eval='back'),
        r"'back', which EncoderDecoder does not have; .*backbone",
    ),
    'no such part to checkpoint': (
        lambda cfg: cfg.update(activation_checkpointing=['head']),
        r"activation_checkpointing lists 'head', which EncoderDecoder does not have",
    ),
    'a backbone that would not be trained': (
        lambda cfg: cfg.update(efficient_conv_bn_eval=None, activation_checkpointing=['decode_head', 'backbone']),
        r"activation_checkpointing lists 'backbone', which reads images.*not be trained.*model\.backbone\.with_cp=True",
    ),
    'a stem that would not be trained': (
        lambda cfg: cfg.update(efficient_conv_bn_eval=None, activation_checkpointing='backbone.downsample_layers.0'),
        r"lists 'backbone\.downsample_layers\.0', which reads images.*Stem would get none",
    ),
    'no part of a part': (lambda cfg: cfg.update(efficient_conv_bn_eval=['backbone.x']), r"'backbone\.x', which EncoderDecoder"),
    'stochastic depth': (
        lambda cfg: cfg.model.backbone.update(drop_path_rate=0.25),
        r"'backbone', but HorNet has stochastic depth \(rates up to 0\.25\).*drop_path_rate=0",
    ),
    'checkpointing': (
        lambda cfg: cfg.model.backbone.update(with_cp=True),
        r"'backbone', but torch\.fx cannot trace HorNet \(symbolically .*\)\. Set its with_cp=False, or remove",
    ),
    'synchronized batch norms': (  # of mmengine; torch.fx traces into their code
        lambda cfg: cfg.update(efficient_conv_bn_eval=['decode_head']),
        r"'decode_head', but torch\.fx cannot trace UPerHead \(symbolically",
    ),
    'a neck with len()': (
        lambda cfg: cfg.update(efficient_conv_bn_eval=['backbone', 'neck']),
        r"'neck', but torch\.fx cannot trace FPN \('len' is not supported .*\)\. Remove it from the list\.",
    ),
}


@pytest.mark.parametrize('case', BAD_PARTS)
def test_error_names_the_part_and_the_reason(case, cfg, report):
    change, pattern = BAD_PARTS[case]
    cfg.efficient_conv_bn_eval = ['backbone']
    cfg.model.neck, cfg.model.decode_head.in_channels = NECK, [16] * 4
    change(cfg)
    with pytest.raises(UserError, match=pattern):
        check_rewritten_parts(cfg, report, build_model_on_meta(cfg))


def test_a_run_is_refused_before_it_starts(toy_root, tmp_path):
    config = write_toy_config(tmp_path / 'toy.py', toy_root, efficient_conv_bn_eval=['backbone', 'neck'])
    with pytest.raises(UserError, match=r"'neck', which EncoderDecoder does not have"):
        prepare_train(config, work_dir=tmp_path / 'w')


def test_drop_path_of_mmcv_is_recognized(report):
    from mmcv.cnn.bricks import DropPath

    model = nn.Module()
    for rate, part in ((0.0, 'without'), (0.1, 'with_drops')):
        setattr(model, part, nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), DropPath(rate)))
    check_rewritten_parts({'efficient_conv_bn_eval': 'without'}, report, model)
    with pytest.raises(UserError, match=r'rates up to 0\.1'):
        check_rewritten_parts({'efficient_conv_bn_eval': ['without', 'with_drops']}, report, model)


def test_valid_parts_pass_and_one_without_batch_norm_is_noted(cfg, report):
    check_rewritten_parts(cfg, report, None)
    cfg.model.decode_head.norm_cfg.type = 'BN'
    cfg.efficient_conv_bn_eval = ['backbone', 'decode_head']
    model = build_model_on_meta(cfg)
    cfg.activation_checkpointing = ['backbone.stages.1', 'decode_head']
    before = {name: (type(module), module.training) for name, module in model.named_modules()}
    check_rewritten_parts(cfg, report, model)
    assert {name: (type(module), module.training) for name, module in model.named_modules()} == before
    assert 'forward' not in vars(model.backbone)
    assert report.notes == ["efficient_conv_bn_eval has no effect on 'backbone': HorNet has no batch norm."]
    use_affnet(cfg)
    cfg.activation_checkpointing = None
    report.notes.clear()
    check_rewritten_parts(cfg, report, build_model_on_meta(cfg))
    assert not report.notes


def test_mmengine_would_leave_stochastic_depth_on():
    """Why it is refused: the scores of a validation would be random."""
    from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval_for_single_model

    import mmfreq

    model = mmfreq.build_backbone('affnet-micro', drop_path_rate=0.5)
    turn_on_efficient_conv_bn_eval_for_single_model(model)
    model.eval()
    x = torch.randn(4, 3, 64, 64)
    assert not all(torch.equal(a, b) for a, b in zip(model(x), model(x)))


def test_mmengine_would_not_train_a_checkpointed_backbone():
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing

    import mmfreq

    model = nn.Module()
    model.backbone = mmfreq.build_backbone('hornet-micro')
    turn_on_activation_checkpointing(model, ['backbone'])
    assert not any(out.requires_grad for out in model.backbone(torch.randn(1, 3, 64, 64)))
