import logging
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule, ModuleList

from mmfreq.apis.inference import load_predictor
from mmfreq.engine.launch import build_runner, evaluate, prepare_test, prepare_train, train
from mmfreq.errors import CheckpointMismatchError
from mmfreq.testing.toy_segmentation import write_toy_config
from mmfreq.weights.load import load_and_compare, load_checked


@pytest.fixture
def weights(trained):
    return torch.load(trained / 'iter_2.pth', weights_only=True)['state_dict']


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / 'changed.pth')
        return str(tmp_path / 'changed.pth')

    return save


def loaded_runner(config, checkpoint, work_dir, **changes):
    runner = build_runner(prepare_train(config, work_dir=work_dir, cfg_options={'load_from': checkpoint, **changes}))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.load_or_resume()
    return runner


class Block(BaseModule):
    def __init__(self):
        super().__init__()
        self.parts = ModuleList([torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)])


def test_every_tensor_is_filled_mismatched_or_missing():
    state = {
        'parts.0.weight': torch.ones(3, 2),
        'parts.0.bias': torch.ones(4),
        'parts.1.weight': torch.ones(3),
        'x': torch.ones(1),
    }
    fit = load_and_compare(Block(), state)
    assert fit.filled == ['parts.0.weight', 'parts.1.weight']
    assert fit.mismatched == ['parts.0.bias']
    assert fit.missing == ['parts.1.bias', 'parts.1.running_mean', 'parts.1.running_var']
    assert fit.unexpected == ['x']


def test_names_renamed_by_a_load_hook_count_as_filled():
    block = Block()

    def rename(state, prefix, *_):
        for name in [name for name in state if name.startswith(f'{prefix}old.')]:
            state[name.replace('old.', 'parts.', 1)] = state.pop(name)

    block._register_load_state_dict_pre_hook(rename)
    fit = load_and_compare(block, {f'old.{name.partition(".")[2]}': value for name, value in block.state_dict().items()})
    assert (fit.unfilled, fit.unexpected) == ([], [])


@pytest.mark.slow
def test_tested_weights_are_the_trained_ones(weights, trained, toy_config, tmp_path):
    runner = build_runner(prepare_test(toy_config, trained / 'iter_2.pth', work_dir=tmp_path / 'w', tta=True))
    runner.load_or_resume()
    assert all(torch.equal(value, weights[name]) for name, value in runner.model.module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize('resume', [False, True])
def test_checkpoint_of_another_family_is_refused_before_training(toy_config, tmp_path, saved, snapshot, resume):
    foreign = {f'layer1.0.conv1.{name}': torch.ones(2) for name in ('weight', 'bias')}
    path = saved({'state_dict': foreign, 'meta': {'epoch': 0, 'iter': 1}, 'message_hub': {}, 'optimizer': {}})
    before = Path(path).read_bytes()
    with pytest.raises(CheckpointMismatchError) as error:
        if resume:
            train(toy_config, work_dir=tmp_path / 'w', resume=path)
        else:
            train(toy_config, work_dir=tmp_path / 'w', cfg_options={'load_from': path})
    assert path in str(error.value) and 'ResNet' in str(error.value) and 'layer1.0.conv1.weight' in str(error.value)
    assert Path(path).read_bytes() == before and not list((tmp_path / 'w').glob('*.pth'))


def test_stock_backbones_are_checked_too(toy_root, tmp_path, saved):
    config = write_toy_config(tmp_path / 'stock.py', toy_root)
    unet = {'_delete_': True, 'type': 'UNet', 'base_channels': 4, 'num_stages': 2, 'strides': (1, 1), 'enc_num_convs': (1, 1)}
    unet |= {'dec_num_convs': (1,), 'downsamples': (True,), 'enc_dilations': (1, 1), 'dec_dilations': (1,)}
    head = {'in_channels': [8, 4], 'in_index': [0, 1]}
    changes = {'model.backbone': unet, **{f'model.decode_head.{key}': value for key, value in head.items()}}
    with pytest.raises(CheckpointMismatchError) as error:
        loaded_runner(config, saved({'blocks.0.attn.qkv.weight': torch.ones(3)}), tmp_path / 'w', **changes)
    message = str(error.value)
    assert 'in the model, not in the file: backbone.encoder.0' in message
    assert 'blocks.0.attn.qkv.weight' in message and 'a vision transformer' in message


def test_unfilled_tensor_of_the_backbone_is_an_error(weights, toy_config, tmp_path, saved):
    name = next(name for name in weights if name.startswith('backbone.stages') and name.endswith('weight'))
    del weights[name]
    with pytest.raises(CheckpointMismatchError, match=rf'1 in the model, not in the file: {name}'):
        loaded_runner(toy_config, saved({'state_dict': weights}), tmp_path / 'w')


@pytest.mark.slow
def test_head_for_other_classes_is_a_warning_in_training_and_an_error_in_testing(
    weights, toy_config, tmp_path, saved, caplog, monkeypatch
):
    name = 'decode_head.conv_seg.weight'
    weights[name] = torch.zeros(7, *weights[name].shape[1:])
    path = saved({'state_dict': weights})
    messages = []
    monkeypatch.setattr('mmfreq.weights.load.print_log', lambda text, logger, level: messages.append((level, text)))
    loaded_runner(toy_config, path, tmp_path / 'w')
    assert {level for level, _ in messages} == {logging.WARNING} and all(name in text for _, text in messages)
    with pytest.raises(CheckpointMismatchError, match=rf'1 of another shape: {name}'):
        evaluate(toy_config, path, work_dir=tmp_path / 'v')


def test_training_can_start_from_backbone_weights(weights, toy_config, tmp_path, saved):
    bare = {name.removeprefix('backbone.'): value + 1 for name, value in weights.items() if name.startswith('backbone.')}
    runner = loaded_runner(toy_config, saved({'model': bare}), tmp_path / 'w')
    held = runner.model.backbone.state_dict()
    assert bare and all(torch.equal(held[name], value) for name, value in bare.items())
    state_for_hooks = runner.load_checkpoint(runner._load_from)['state_dict']  # EMAHook copies from it, by the model's names
    assert all(torch.equal(state_for_hooks[f'backbone.{name}'], value) for name, value in bare.items())


def test_resuming_needs_every_tensor(trained, toy_config, tmp_path, saved):
    whole = torch.load(trained / 'iter_2.pth', weights_only=True)
    del whole['state_dict']['decode_head.conv_seg.weight']
    with pytest.raises(CheckpointMismatchError, match=r'1 in the model, not in the file: decode_head\.conv_seg\.weight'):
        train(toy_config, work_dir=tmp_path / 'w', resume=saved(whole))


@pytest.mark.slow
@pytest.mark.parametrize('meta', [{}, {'meta': {'mmfreq': {'version': 1}}}], ids=['weights only', 'converted'])
def test_weights_without_an_iteration_cannot_be_resumed(meta, weights, toy_config, tmp_path, saved):
    path = saved({'state_dict': weights, **meta})
    with pytest.raises(CheckpointMismatchError, match='cannot be resumed'):
        train(toy_config, work_dir=tmp_path / 'w', resume=path)


@pytest.mark.slow
def test_nan_weights_are_an_error_in_testing_and_a_warning_in_training(weights, toy_config, tmp_path, saved, monkeypatch):
    name = 'backbone.stages.0.0.norm1.weight'
    weights[name] = torch.full_like(weights[name], float('nan'))
    path = saved({'state_dict': weights})
    messages = []
    monkeypatch.setattr('mmfreq.weights.load.print_log', lambda text, logger, level: messages.append((level, text)))
    loaded_runner(toy_config, path, tmp_path / 'w')
    assert {level for level, _ in messages} == {logging.WARNING} and 'NaN' in messages[0][1] and name in messages[0][1]
    with pytest.raises(CheckpointMismatchError, match=f'NaN.*{name}'):
        evaluate(toy_config, path, work_dir=tmp_path / 'v')


def test_buffers_of_minus_infinity_are_accepted(tmp_path):
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.register_buffer('mask', torch.full((2, 2), -float('inf')))

    model = Masked()
    load_checked(model, {'state_dict': model.state_dict()}, 'a.pth', strict=True)


def test_integer_weights_are_refused(weights, toy_config, tmp_path, saved):
    name = 'decode_head.conv_seg.weight'
    weights[name] = weights[name].to(torch.int8)
    for run in (loaded_runner, lambda config, path, folder: evaluate(config, path, work_dir=folder)):
        with pytest.raises(CheckpointMismatchError, match=rf'{name} \(int8'):
            run(toy_config, saved({'state_dict': weights}), tmp_path / 'w')


@pytest.mark.slow
@pytest.mark.parametrize('meta', [None, [], 'text', {'iter': 'x', 'dataset_meta': ['a']}])
def test_unusual_meta_does_not_crash(weights, toy_config, tmp_path, saved, meta):
    path = saved({'state_dict': weights, 'meta': meta})
    assert load_predictor(toy_config, path).classes
    if not isinstance(meta, dict):
        with pytest.raises(CheckpointMismatchError, match='iteration'):
            train(toy_config, work_dir=tmp_path / 'w', resume=path)
