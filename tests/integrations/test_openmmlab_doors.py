"""The functions by which users of mmpretrain, mmseg, mmdet and mmengine open a config: they take those of this project.

`tests/compat/test_entrances.py` does the same in fresh processes, with checkpoints of training runs.
"""

import copy
import json
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.utils import get_installed_path

import mmfreq
from mmfreq.datasets.toy import TOY_COCO_METAINFO, TOY_METAINFO
from tests.integrations.toy_detection import add_validation, detection_config

ROOT = Path(mmfreq.__file__).parents[1]
CLASSIFIER = ROOT / 'configs/cls/gfnet/gfnet-ti_8xb128-300e_in1k.py'
SEGMENTOR = ROOT / 'configs/seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'
NAMES = [f'class {index}' for index in range(1000)]


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('image') / 'a.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8))
    return str(path)


def write_model(folder, cfg, model, **meta):
    """Config and checkpoint of a model as files."""
    cfg.dump(folder / 'config.py')
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': meta, 'cfg': cfg.pretty_text}}, folder / 'weights.pth')
    return str(folder / 'config.py'), str(folder / 'weights.pth')


class TestMmpretrain:
    @pytest.fixture(scope='class')
    def files(self, tmp_path_factory):
        from mmpretrain import get_model

        cfg = Config.fromfile(CLASSIFIER)
        cfg.model.arch = 'gfnet-micro'
        return write_model(tmp_path_factory.mktemp('classifier'), cfg, get_model(cfg), classes=NAMES)

    def test_a_published_config_and_the_list_of_names(self):
        from mmpretrain import get_model, list_models

        before = list_models()
        model = get_model(CLASSIFIER, pretrained=False, device='cpu')
        assert model.backbone.arch_name == 'gfnet-ti' and not model.training
        assert list_models() == before and not [name for name in before if 'gfnet' in name]

    def test_models_with_weights_and_other_arguments(self, files):
        from mmpretrain import get_model

        config, weights = files
        model = get_model(config, pretrained=weights, device='cpu')
        state = torch.load(weights, weights_only=True)['state_dict']
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert model._dataset_meta['classes'] == NAMES
        other = get_model(Config.fromfile(config), num_classes=7, drop_path_rate=0.5)
        assert other(torch.randn(1, 3, 224, 224)).shape == (1, 7)
        with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
            get_model(config, width=3)

    @pytest.mark.parametrize('loaded', [False, True])
    def test_inferencer(self, files, image, tmp_path, loaded):
        from mmpretrain import ImageClassificationInferencer, get_model

        config, weights = files
        model = get_model(config, pretrained=weights)
        inferencer = ImageClassificationInferencer(*([model] if loaded else [config, weights]), device='cpu')
        first, second = inferencer([image, cv2.imread(image)], batch_size=2, show_dir=str(tmp_path / 'drawn'))
        assert first['pred_class'] == NAMES[first['pred_label']] and len(list((tmp_path / 'drawn').iterdir())) == 2
        np.testing.assert_allclose(first['pred_scores'], second['pred_scores'], rtol=1e-5)
        np.testing.assert_allclose(first['pred_scores'].sum(), 1, rtol=1e-5)

    def test_features(self, files, image):
        from mmpretrain import FeatureExtractor

        extract = FeatureExtractor(*files, device='cpu')
        assert [extract(image, stage=stage)[0].shape for stage in ('neck', 'pre_logits')] == [(32, 14, 14), (32,)]
        assert extract(image, stage='backbone')[0][0].shape == (32, 14, 14)

    def test_without_an_import_of_mmfreq(self, files):
        """mmengine imports it for the config, after mmpretrain has tried to import mmcv's compiled ops."""
        code = 'import sys\nfrom mmpretrain import get_model\nprint(type(get_model(*sys.argv[1:])))'
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *files], capture_output=True, text=True, cwd=ROOT)
        assert 'FrequencyImageClassifier' in done.stdout, done.stderr[-2000:]


class TestMmseg:
    @pytest.fixture(scope='class')
    def files(self, tmp_path_factory):
        from mmseg.apis import init_model

        cfg = Config.fromfile(SEGMENTOR)
        return write_model(tmp_path_factory.mktemp('segmentor'), cfg, init_model(cfg, device='cpu'), **TOY_METAINFO)

    def test_inference_and_drawing(self, files, image, tmp_path):
        from mmseg.apis import inference_model, init_model, show_result_pyplot

        model = init_model(*files, device='cpu')
        assert model.dataset_meta['classes'] == TOY_METAINFO['classes']
        result, (other,) = inference_model(model, image), inference_model(model, [cv2.imread(image)])
        assert result.pred_sem_seg.data.shape == (1, 80, 96) and torch.equal(result.seg_logits.data, other.seg_logits.data)
        drawn = show_result_pyplot(model, image, result, show=False, out_file=str(tmp_path / 'drawn.png'))
        assert drawn.shape == (80, 96, 3) and (tmp_path / 'drawn.png').is_file()

    @pytest.mark.parametrize('config', ['file', 'in the checkpoint'])
    def test_inferencer(self, files, image, tmp_path, config):
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer(files[0] if config == 'file' else None, files[1], device='cpu')
        found = inferencer([image, image], batch_size=2, out_dir=str(tmp_path), img_out_dir='drawn', pred_out_dir='masks')
        assert len(found['predictions']) == 2 and found['predictions'][0].shape == (80, 96)
        assert {path.name for path in tmp_path.iterdir()} == {'drawn', 'masks'}


class TestMmdet:
    @pytest.fixture(scope='class')
    def files(self, coco, tmp_path_factory):
        from mmdet.apis import init_detector

        cfg = detection_config(coco)
        add_validation(cfg, coco)
        return write_model(tmp_path_factory.mktemp('detector'), cfg, init_detector(cfg, device='cpu'), **TOY_COCO_METAINFO)

    def test_inference(self, files, image):
        from mmdet.apis import inference_detector, init_detector

        model = init_detector(Config.fromfile(files[0]), files[1], device='cpu')
        assert tuple(model.dataset_meta['classes']) == TOY_COCO_METAINFO['classes']
        result, (other,) = inference_detector(model, image), inference_detector(model, [cv2.imread(image)])
        assert len(result.pred_instances) and result.pred_instances.bboxes.isfinite().all()
        assert torch.equal(result.pred_instances.scores, other.pred_instances.scores)

    @pytest.mark.parametrize('config', ['file', 'in the checkpoint'])
    def test_inferencer(self, files, image, tmp_path, config):
        from mmdet.apis import DetInferencer

        inferencer = DetInferencer(files[0] if config == 'file' else None, files[1], device='cpu')
        (found,) = inferencer(image, out_dir=str(tmp_path), no_save_pred=False)['predictions']
        assert found['bboxes'] and max(found['scores']) <= 1 and list((tmp_path / 'vis').iterdir())
        assert json.loads((tmp_path / 'preds/a.json').read_text())['labels'] == found['labels']


CONFIGS = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)


@pytest.mark.parametrize('config', CONFIGS[:: len(CONFIGS) // 6], ids=lambda path: path.stem)
def test_copies_of_a_config_are_equal(config, tmp_path):
    cfg = Config.fromfile(config)
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert twin.pretty_text == cfg.pretty_text
    cfg.dump(tmp_path / 'config.py')
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == cfg.to_dict()
    for suffix in ('json', 'yaml'):  # these have no tuples
        cfg.dump(tmp_path / f'config.{suffix}')
        found = Config.fromfile(tmp_path / f'config.{suffix}').to_dict()
        assert json.dumps(found, sort_keys=True) == json.dumps(cfg.to_dict(), sort_keys=True)


def test_complexity_of_a_segmentor():
    from mmseg.apis import init_model

    info = get_model_complexity_info(init_model(str(SEGMENTOR), device='cpu'), (3, 128, 128), show_table=False, show_arch=False)
    assert info['params'] > 5e5 and info['flops'] > 5e7  # without Fourier transforms: docs/troubleshooting.md


@pytest.fixture
def segmentation(toy_root, tmp_path):
    """The path of a config that inherits this project's toy config, for one iteration."""
    options = 'num_workers=0, persistent_workers=False'
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {str(SEGMENTOR)!r}\n'
        "custom_imports = dict(imports=['mmfreq'])\n"
        'train_cfg = dict(max_iters=1, val_interval=1)\n'
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
        f'train_dataloader = dict(batch_size=2, {options}, dataset=dict(data_root={str(toy_root)!r}))\n'
        f'val_dataloader = dict({options}, dataset=dict(data_root={str(toy_root)!r}))\n'
        f'test_dataloader = val_dataloader\nwork_dir = {str(tmp_path / "work")!r}\n'
    )
    return tmp_path / 'mine.py'


def test_runner_of_mmengine(segmentation, tmp_path):
    Runner.from_cfg(Config.fromfile(segmentation)).train()
    DefaultScope._instance_dict.clear()
    cfg = Config.fromfile(segmentation)
    cfg.load_from = str(tmp_path / 'work/iter_1.pth')
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100


def test_tool_of_mmseg(segmentation, tmp_path, monkeypatch):
    """What `mim train mmseg` and `mim test mmseg` start."""
    tools = Path(get_installed_path('mmseg')) / '.mim/tools'
    monkeypatch.setattr(sys, 'argv', ['train.py', str(segmentation)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(tools / 'train.py'), run_name='__main__')
    DefaultScope._instance_dict.clear()
    monkeypatch.setattr(
        sys, 'argv', ['test.py', str(segmentation), str(tmp_path / 'work/iter_1.pth'), '--out', str(tmp_path / 'out')]
    )
    runpy.run_path(str(tools / 'test.py'), run_name='__main__')
    assert len(list((tmp_path / 'out').iterdir())) == 2


@pytest.mark.slow
def test_tool_of_mmseg_in_a_process_of_its_own(segmentation, tmp_path):
    """`custom_imports` supplies mmcv's ops, which the tool does not import before it reads the config."""
    tool = Path(get_installed_path('mmseg')) / '.mim/tools/train.py'
    done = subprocess.run([sys.executable, '-W', 'ignore', tool, segmentation], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and (tmp_path / 'work/iter_1.pth').is_file(), done.stderr[-2000:]
