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


def test_which_weights_are_the_averaged_ones(classifier, tmp_path):
    """mmengine's EMAHook stores the averaged ones as `state_dict`; the authors' scripts beside it."""
    state = classifier.state_dict()
    other = {name: value + 1 for name, value in state.items()}
    files = {
        'mmengine': dict(meta={'iter': 5}, message_hub={}, state_dict=other, ema_state_dict=averaged_model(state)),
        'cvnets': dict(model_state_dict=state, ema_state_dict=other),
        'timm': dict(state_dict=state, state_dict_ema=other),
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f'{name}.pth')
        for ema in (False, True):
            folder = publish(tmp_path / f'{name}.pth', tmp_path / f'{name}-{ema}', arch='hornet-micro', ema=ema)
            averaged = ema or name == 'mmengine'
            found = read_checkpoint(folder / 'model.safetensors')['head.weight']
            assert torch.equal(found, (other if averaged else state)['head.weight']), (name, ema)
            assert ('averaged weights' in (folder / 'README.md').read_text()) == averaged


def averaged_model(state):
    return {'steps': torch.tensor(5), **{f'module.{name}': value for name, value in state.items()}}


@pytest.mark.parametrize('arch', ['hornet-micro', 'affnet-micro', 'gfnet-micro'])
def test_a_model_of_other_images(arch, tmp_path):
    """timm builds it with the channels, the size and the normalization of the run."""
    model = mmfreq.build_classifier(arch, num_classes=5, in_channels=4, img_size=64).eval()
    backbone = dict(type='mmfreq.FrequencyImageClassifier', arch=arch, num_classes=5, in_channels=4, img_size=64)
    preprocessor = dict(mean=[51.0] * 4, std=[25.5] * 4)
    Config(dict(model=backbone | dict(data_preprocessor=preprocessor))).dump(tmp_path / 'run.py')
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    folder = publish(tmp_path / 'a.pth', tmp_path / 'out', config=tmp_path / 'run.py')
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x = torch.randn(1, 4, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert tuple(loaded.pretrained_cfg['input_size']) == (4, 64, 64) and list(loaded.pretrained_cfg['mean']) == [0.2] * 4
    assert json.loads((folder / 'config.json').read_text())['num_features'] == loaded.num_features


def test_a_backbone_with_one_output(tmp_path):
    torch.save(mmfreq.build_backbone('hornet-micro', out_indices=(3,), in_channels=4).state_dict(), tmp_path / 'a.pth')
    folder = publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro')
    model = mmfreq.build_backbone('hornet-micro', out_indices=(3,), in_channels=4)
    assert mmfreq.load_weights(model, folder).loaded == len(model.state_dict())


def test_the_hash_is_that_of_the_content(classifier, tmp_path):
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=classifier.state_dict(), meta=meta), tmp_path / 'a.pth')
    assert len({publish(tmp_path / 'a.pth', tmp_path / str(i), arch='hornet-micro').name for i in range(8)}) == 1


@pytest.mark.parametrize('name', ['../escaped', 'a/b', '.'])
def test_names_are_no_paths(classifier, tmp_path, name):
    torch.save(classifier.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='Expected a name of letters, digits and'):
        publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro', name=name)
    assert not (tmp_path / 'out').exists()


def test_a_file_in_the_place_of_the_folder_is_named(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / 'a.pth')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be created as a folder'):
        publish(tmp_path / 'a.pth', tmp_path / 'file', arch='hornet-micro')


def test_weights_that_are_not_numbers_are_refused(classifier, tmp_path):
    torch.save({name: value * float('nan') for name, value in classifier.state_dict().items()}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='NaN or infinite'):
        publish(tmp_path / 'a.pth', tmp_path / 'out', arch='hornet-micro')
    assert not (tmp_path / 'out').exists()


def test_a_run_starts_from_the_folder(published):
    from mmfreq.engine.resume.start import check_pretrained

    init_cfg = dict(type='Pretrained', checkpoint=str(published))
    check_pretrained(dict(backbone=dict(type='mmfreq.HorNet', init_cfg=init_cfg)))
    backbone = mmfreq.build_backbone('hornet-micro', init_cfg=init_cfg)
    backbone.init_weights()
    assert load_checkpoint(mmfreq.build_classifier('hornet-micro', num_classes=5), str(published)).keys() > set()
