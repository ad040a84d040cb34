"""A published folder loads in every way, with the same weights; what is wrong is refused."""

import json
import shutil

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from mmengine.config import Config
from mmengine.runner import load_checkpoint

import mmfreq
import mmfreq.integrations.timm
from mmfreq.compat.safe_load import CheckpointError, read_checkpoint
from mmfreq.errors import UserError
from mmfreq.testing.toy_segmentation import write_toy_config
from mmfreq.zoo.publish import publish

CLASSES = ('wall', 'sky', 'road')


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return mmfreq.build_classifier('hornet-micro', num_classes=5).eval()


@pytest.fixture
def published(classifier, tmp_path):
    state = {name: value.t().contiguous().t() if value.dim() == 2 else value for name, value in classifier.state_dict().items()}
    torch.save({'model': state, 'model_ema': {name: value + 1 for name, value in state.items()}, 'epoch': 3}, tmp_path / 'a.pth')
    return publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro', metrics={'top1': 71.5}, license='mit')


def test_a_classifier_loads_in_every_way(classifier, published):
    import timm

    import mmfreq.integrations.timm

    file = published / 'model.safetensors'
    x = torch.randn(2, 3, 64, 64)
    want = classifier(x)
    plain = mmfreq.build_classifier('hornet-micro', num_classes=5).eval()
    mmfreq.load_weights(plain, published)
    by_timm = timm.create_model(f'local-dir:{published}', pretrained=True).eval()
    built = mmfreq.build_classifier('hornet-micro', num_classes=5, pretrained=str(file)).eval()
    assert all(torch.equal(model(x), want) for model in (plain, by_timm, built))
    backbone = mmfreq.build_backbone('hornet-micro', init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    backbone.init_weights()
    assert torch.equal(backbone.state_dict()['stages.0.0.gamma1'], classifier.state_dict()['stages.0.0.gamma1'])
    tensors = load_checkpoint(mmfreq.build_classifier('hornet-micro', num_classes=5), str(file))
    assert tensors.keys() == classifier.state_dict().keys()


def test_the_folder(published):
    assert sorted(path.name for path in published.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert published.name.startswith('hornet-micro-') and len(published.name) == len('hornet-micro-') + 8
    config = json.loads((published / 'config.json').read_text())
    assert config['architecture'] == 'hornet_micro' and config['num_classes'] == 5 and config['num_features'] == 128
    card = ModelCard.load(published / 'README.md')
    assert card.data.license == 'mit' and card.data.eval_results[0].metric_value == 71.5
    assert (published / 'model.safetensors').stat().st_mode & 0o777 == (published / 'config.json').stat().st_mode & 0o777
    assert 'top1 | 71.5' in card.text and f'local-dir:{published.name}' in card.text


def test_the_averaged_weights_on_request(classifier, published, tmp_path):
    name = 'head.weight'
    assert torch.equal(read_checkpoint(published / 'model.safetensors')[name], classifier.state_dict()[name])
    folder = publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro', ema=True)
    assert torch.equal(read_checkpoint(folder / 'model.safetensors')[name], classifier.state_dict()[name] + 1)
    torch.save(classifier.state_dict(), tmp_path / 'raw.pth')
    with pytest.raises(UserError, match='--ema needs averaged weights'):
        publish(tmp_path / 'raw.pth', tmp_path / 'out', arch='hornet-micro', ema=True)


@pytest.mark.slow
def test_a_segmentor_of_a_training_run(tmp_path):
    from mmfreq.apis import load_predictor

    config = write_toy_config(tmp_path / 'toy.py', tmp_path / 'data')
    cfg = Config.fromfile(config)
    import mmseg.models  # noqa: F401
    from mmengine.registry import init_default_scope

    from mmfreq.registry import MODELS

    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    meta = dict(
        cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES, palette=[[1, 2, 3]] * 3), experiment_name='toy_20261129_000000'
    )
    logs = tmp_path / '20261129_000000' / 'vis_data'
    logs.mkdir(parents=True)
    records = [dict(loss=0.5, iter=2, step=2), dict(mIoU=40.0, time=0.1, step=1), dict(mIoU=71.25, time=0.1, step=2)]
    (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n{"mIoU": 1')
    meta['iter'] = 2
    torch.save({'state_dict': model.state_dict(), 'meta': meta, 'optimizer': {'big': torch.zeros(9)}}, tmp_path / 'iter_2.pth')
    folder = publish(tmp_path / 'iter_2.pth', tmp_path / 'out')
    assert folder.name.startswith('toy-')
    content = read_checkpoint(folder / 'model.safetensors')
    assert content['meta']['dataset_meta']['classes'] == list(CLASSES) and 'optimizer' not in content
    assert all(torch.equal(value, content['state_dict'][name]) for name, value in model.state_dict().items())
    predictor = load_predictor(str(folder / 'config.py'), str(folder / 'model.safetensors'), 'cpu', None, True)
    assert tuple(predictor.classes) == CLASSES
    mmfreq.load_weights(MODELS.build(cfg.model), folder)
    card = (folder / 'README.md').read_text()
    assert '| mIoU | 71.25 |' in card and '| time |' not in card
    assert 'tools/infer.py' in card and 'AdamW' in card and 'wall, sky, road' in card
    features = timm.create_model(f'local-dir:{folder}', pretrained=True, features_only=True).eval()
    name = 'stages.0.0.gamma1'
    assert torch.equal(features.state_dict()[f'model.{name}'], model.backbone.state_dict()[name])


def test_what_is_refused(published, classifier, tmp_path):
    with pytest.raises(UserError, match='Remove it, or give'):
        publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro')
    with pytest.raises(UserError, match="arch 'hornet-nano' is unknown"):
        publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-nano')
    with pytest.raises(CheckpointError, match='GFNet'):
        publish(tmp_path / 'a.pth', tmp_path / 'out', arch='gfnet-micro')
    torch.save({'w': torch.ones(1)}, tmp_path / 'b.pth')
    with pytest.raises(UserError, match='Give --name'):
        publish(tmp_path / 'b.pth', tmp_path / 'out')
    assert not [path for path in (tmp_path / 'out').iterdir() if path != published]
    shutil.rmtree(published)
    assert publish(tmp_path / 'a.pth', tmp_path / 'out').name == published.name  # the arch is found by its shapes
