"""mmengine's `efficient_conv_bn_eval` and `activation_checkpointing`: the models compute the same with them."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model.efficient_conv_bn_eval import efficient_conv_bn_eval_control, turn_on_efficient_conv_bn_eval
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmfreq
from mmfreq.engine.launch import train
from mmfreq.testing.backbone_contract import randomize_scales_and_filters
from mmfreq.testing.toy_segmentation import toy_segmentation_config

MICRO = [arch for arch in mmfreq.list_archs() if 'micro' in arch]


def randomized(model):
    """With scales, filters and batch statistics that matter."""
    randomize_scales_and_filters(model)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model


def folded_norms(part):
    """Batch norms in the graph of a part, and those of them that follow a convolution."""
    graph = part.forward.__self__.graph
    folded = [node for node in graph.nodes if node.target is efficient_conv_bn_eval_control]
    modules = dict(part.named_modules())
    other = [node for node in graph.nodes if node.op == 'call_module' and isinstance(modules[node.target], _BatchNorm)]
    return len(folded) + len(other), len(folded)


@pytest.mark.parametrize('arch', MICRO)
@pytest.mark.parametrize('options', [{}, {'frozen_stages': 1}, {'memory_efficient': True}], ids=str)
def test_backbones_compute_the_same(arch, options):
    model = nn.Module()
    model.backbone = randomized(mmfreq.build_backbone(arch, **options)).double()  # batch norms of few values amplify rounding
    traced = copy.deepcopy(model.train())
    turn_on_efficient_conv_bn_eval(traced, ['backbone'])  # in training mode, as the Runner does
    if arch == 'affnet-micro':
        assert folded_norms(traced.backbone) == (37, 37)
    for training in (False, True, False):
        model.train(training), traced.train(training)
        for size in ((64, 96), (96, 64)):
            x = torch.randn(2, 3, *size, dtype=torch.float64)
            for got, wanted in zip(traced.backbone(x), model.backbone(x), strict=True):
                assert (got - wanted).abs().max() < 1e-9 * wanted.abs().max()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grads = []
    for each in (model, traced):
        each.train()
        sum(out.square().mean() for out in each.backbone(x)).backward()
        grads.append({name: p.grad for name, p in each.backbone.named_parameters() if p.requires_grad})
    assert grads[0].keys() == grads[1].keys() and all(grad is not None for grad in grads[1].values())
    if not options:
        assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())


def affnet_config(root, **fields):
    cfg = Config(toy_segmentation_config(root, **fields))
    cfg.model.backbone = {'type': 'mmfreq.AFFNet', 'arch': 'affnet-micro', 'img_size': 64}
    cfg.model.decode_head.in_channels = [16, 16, 24, 32]
    return cfg


def test_a_run_has_the_losses_and_scores_of_one_without_it(toy_root, tmp_path):
    results = []
    for name, fields in (('without', {}), ('with', {'efficient_conv_bn_eval': ['backbone', 'decode_head']})):
        affnet_config(toy_root, **fields).dump(tmp_path / f'{name}.py')
        runner = train(tmp_path / f'{name}.py', work_dir=tmp_path / name)
        if fields:
            assert all(sum(folded_norms(part)) > 4 for part in (runner.model.backbone, runner.model.decode_head))
        scalars = runner.message_hub.log_scalars
        state = torch.load(tmp_path / name / 'iter_2.pth', weights_only=True)['state_dict']
        x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = runner.model.eval()(x, mode='tensor')
        results.append((state, scalars['train/loss']._log_history.tolist(), scalars['val/mIoU'].current(), logits))
    (state, losses, score, logits), (other_state, other_losses, other_score, other_logits) = results
    assert losses == other_losses and len(losses) == 2
    assert state.keys() == other_state.keys() and all(torch.equal(value, other_state[name]) for name, value in state.items())
    assert other_score == pytest.approx(score, abs=0.1)
    torch.testing.assert_close(other_logits, logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(other_logits, logits)  # another order of operations: it was on


def test_checkpointed_parts_are_trained_as_others(toy_root, tmp_path):
    states = []
    for name, fields in (('without', {}), ('with', {'activation_checkpointing': ['backbone.stages.1', 'backbone.stages.2.0']})):
        cfg = Config(toy_segmentation_config(toy_root, val_dataloader=None, val_cfg=None, val_evaluator=None, **fields))
        cfg.model.backbone.drop_path_rate = 0.3
        cfg.dump(tmp_path / f'{name}.py')
        train(tmp_path / f'{name}.py', work_dir=tmp_path / name)
        states.append(torch.load(tmp_path / name / 'iter_2.pth', weights_only=True)['state_dict'])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
