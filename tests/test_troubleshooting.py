"""docs/troubleshooting.md: its errors are reproduced, its messages are raised, and its fixes work.

Each heading of the page has one function, decorated with `@reproduces(heading)`. It returns two texts: the error without mmfreq
(None: it cannot be reproduced here, and the page must state that) and mmfreq's message (None: there is none, and the function has
tested that the operation or the fix works). Both are compared with the code blocks below the heading.
"""

import contextlib
import copy
import importlib
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import get_installed_path
from torch import nn

import mmfreq
from mmfreq.compat.stack import Facts, fix_command, judge

ROOT = Path(mmfreq.__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
ENTRY = re.compile(r'^### (?P<title>.+)\n(?P<body>(?:(?!^##).*\n?)*)', re.MULTILINE)
TEXT = re.compile(r'^```text\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NOT_HERE = 'not reproduced by the tests'
ON_A_GPU = 'Shown by the tests where there is a GPU'

ENTRIES = {found['title']: found['body'] for found in ENTRY.finditer(PAGE)}
REPRODUCED = {}  # title -> (function, marks)


def reproduces(title, *marks):
    """Decorator: the function reproduces the error and the message below a heading."""

    def register(function):
        assert title not in REPRODUCED, title
        REPRODUCED[title] = (function, marks)
        return function

    return register


def contains(text, line):
    """Whether a text contains a line of the page; white space is ignored, and `...` matches anything."""
    normalized = ' '.join(text.split())
    return re.search('.*?'.join(re.escape(' '.join(part.split())) for part in line.split('...')), normalized) is not None


def blocks_of(title):
    """(error, message) below a heading as lists of lines; the entries of the last section have no error."""
    blocks = [found.splitlines() for found in TEXT.findall(ENTRIES[title])]
    silent = PAGE.index(f'### {title}\n') > PAGE.index('## Wrong results')
    return ([[], *blocks] if silent else blocks) + [[]] * (2 - silent - len(blocks))


def error_of(function, *args, **kwargs):
    """The error of a function as Python prints it at the end of a traceback."""
    try:
        function(*args, **kwargs)
    except BaseException as error:
        cls = type(error)
        name = cls.__name__ if cls.__module__ in ('builtins', 'mmfreq.compat.mmcv_ops') else f'{cls.__module__}.{cls.__name__}'
        return f'{name}: {error}' if str(error) else name
    raise AssertionError('no error')


WITHOUT = {
    'ext': 'import mmcv.ops',
    'mmcv 2.2': "mmcv.__version__ = '2.2.0'\nimport mmseg",
    'base': "Config.fromfile(r'{folder}/inherits.py')",
    'load': "torch.load(r'{folder}/mmengine.pth')",
    'find_loader': 'import pkgutil\ndel pkgutil.find_loader\nfrom mmcv.utils.ext_loader import check_ops_exist\ncheck_ops_exist()',
    'pkg_resources': 'sys.meta_path.insert(0, NoPkgResources)\nsys.modules.pop("pkg_resources", None)\nis_installed("mmcv")',
}
PROCESS = """
import json, sys, warnings
warnings.simplefilter('ignore')
import mmcv, torch
from mmengine.config import Config
from mmengine.utils import is_installed

class NoPkgResources:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == 'pkg_resources':
            raise ModuleNotFoundError("No module named 'pkg_resources'")

errors = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        exec(code)
    except BaseException as error:
        cls = type(error)
        errors[name] = f'{cls.__module__}.'.replace('builtins.', '') + f'{cls.__name__}: {error}'
print(json.dumps(errors))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The folder of this module's files: toy data, configs, checkpoints."""
    from mmengine.logging import HistoryBuffer

    from mmfreq.datasets.toy import write_toy_ade20k, write_toy_coco
    from mmfreq.testing.toy_segmentation import write_toy_config

    folder = tmp_path_factory.mktemp('troubleshooting')
    write_toy_ade20k(folder / 'data', train=4, val=2, size=(64, 64))
    write_toy_coco(folder / 'coco', train=2, val=2)
    write_toy_config(folder / 'toy.py', folder / 'data')
    (folder / 'inherits.py').write_text("_base_ = 'mmfreq::seg/hornet/hornet-micro_upernet_1xb8-400_toy-128x128.py'\n")
    torch.save({'message_hub': {'loss': HistoryBuffer([1.0], [1])}, 'lr': np.float64(1)}, folder / 'mmengine.pth')
    torch.save({'layer1.0.conv1.weight': torch.ones(1)}, folder / 'resnet.pth')
    return folder


@pytest.fixture(scope='module')
def without_mmfreq(folder):
    """Name -> error of each entry of `WITHOUT`, in one fresh process that does not import mmfreq."""
    codes = {name: code.replace('{folder}', str(folder)) for name, code in WITHOUT.items()}
    command = [sys.executable, '-c', PROCESS, json.dumps(codes)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert errors.keys() == WITHOUT.keys()
    return errors


@pytest.fixture
def context(folder, without_mmfreq, tmp_path, monkeypatch):
    """The argument of the functions: files, errors without mmfreq, a config, and monkeypatch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')  # a device-side assert would break the GPU for later tests

    class Context:
        files = folder
        raw = without_mmfreq
        config = str(folder / 'toy.py')
        patch = monkeypatch

    return Context


def doctor_report(name, **facts):
    """The doctor's error and command for a package in an environment with these facts."""
    versions = {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmdet': '3.3.0', 'mmsegmentation': '1.2.2'} | facts.pop('versions', {})
    findings = judge(Facts(**{'python': '3.11.7', **facts}, versions={key: value for key, value in versions.items() if value}))
    (found,) = (finding for finding in findings if finding.name == name and finding.verdict == 'fail')
    return found.what, fix_command(findings)


def runner(config, **options):
    """mmengine's Runner for a config, without what mmfreq's tools add."""
    from mmengine.runner import Runner

    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'work_dir': 'raw', 'model.decode_head.norm_cfg.type': 'BN', **options})
    return Runner.from_cfg(cfg)


def train_error(config, **options):
    """mmfreq's message if training is started from Python."""
    from mmfreq.engine.launch import train

    return error_of(train, config, work_dir='work', cfg_options=options)


def in_one_process_group(function):
    """Call a function in a process group of one process on the CPU."""
    import torch.distributed as dist

    with contextlib.suppress(OSError):
        Path('group').unlink()
    dist.init_process_group('gloo', init_method=f'file://{Path("group").absolute()}', rank=0, world_size=1)
    try:
        return function()
    finally:
        dist.destroy_process_group()


@cache
def tool(name):
    sys.path.insert(0, str(ROOT / 'tools'))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / 'tools'))


@reproduces('mmcv._ext is missing')
def missing_ext(context):
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401
    from mmcv.ops import nms

    assert len(nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.9, 0.8]), 0.5)[0]) == 1
    return context.raw['ext'], None


@reproduces('An operator of mmcv is missing')
def missing_operator(context):
    from mmcv.ops import carafe

    from mmfreq.compat.finder import using_fallback

    if not using_fallback():
        pytest.skip('a compiled mmcv is installed')
    return error_of(carafe, torch.zeros(1, 4, 2, 2), torch.zeros(1, 25, 4, 4), 5, 1, 2), None


@reproduces('MMCV is used but incompatible')
def wrong_mmcv(context):
    what, command = doctor_report('mmcv x mmdet', versions={'mmcv': '2.2.0', 'mmcv-lite': ''})
    assert 'uninstall -y mmcv ' in command and 'mmcv-lite==2.1.0' in command
    return context.raw['mmcv 2.2'], what


@reproduces('pkg_resources is missing')
def no_pkg_resources(context):
    what, command = doctor_report('setuptools', failures={'pkg_resources': 'ModuleNotFoundError'})
    assert '"setuptools<81"' in command
    return context.raw['pkg_resources'], what


@reproduces('torch and torchvision are of different builds')
def other_torchvision(context):
    failure = 'operator torchvision::nms does not exist'
    (Path.cwd() / 'torchvision.py').write_text(f'raise RuntimeError({failure!r})\n')
    code = f'import sys\nsys.path[:0] = [".", {str(ROOT)!r}]\nimport mmfreq, mmcv.ops'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert failure in done.stderr
    _, command = doctor_report('torchvision', versions={'torchvision': '0.29.2'}, failures={'torchvision': failure})
    assert '--force-reinstall' in command and all(name in command for name in ('torch>=', 'torchvision'))
    return None, done.stderr


@reproduces('Adafactor is already registered')
def adafactor(context):
    what, command = doctor_report('mmengine x torch', versions={'mmengine': '0.10.5', 'torch': '2.15.0'})
    assert 'mmengine==0.10.7' in command
    from mmengine.registry import OPTIMIZERS

    assert 'TorchAdafactor' in OPTIMIZERS  # the name that newer versions give PyTorch's
    return None, what


@reproduces('pkgutil has no find_loader')
def find_loader(context):
    return context.raw['find_loader'], doctor_report('python', python='3.14.0')[0]


@reproduces('A module was compiled using NumPy 1.x')
def numpy_two(context):
    for name in ('mmcv.ops', 'mmdet.models', 'mmseg.models', 'pycocotools.mask', 'cv2', 'matplotlib'):
        importlib.import_module(name)
    return None, None


@reproduces('numpy has no attribute float')
def numpy_float(context):
    for name in ('mmcv/ops/pixel_group.py', 'mmdet/evaluation/functional/ytviseval.py'):
        library = Path(importlib.import_module(name.partition('/')[0]).__file__).parents[1]
        assert re.search(r'np\.float\b', (library / name).read_text()), name
    return error_of(getattr, np, 'float'), None


@reproduces('A class is not in the registry')
def not_in_the_registry(context):
    from mmseg.registry import MODELS as MMSEG_MODELS

    for scope in ('mmseg', 'mmdet', 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            assert type(MODELS.build(dict(type='mmfreq.HorNet', arch='hornet-micro'))).__name__ == 'HorNet'
            assert 'mmfreq.Hornet is not in the' in error_of(MODELS.build, dict(type='mmfreq.Hornet'))
    return error_of(MMSEG_MODELS.build, dict(type='HorNet')), None


@reproduces('mmengine does not support to load mmfreq config')
def config_by_name(context):
    import mmfreq.registry  # noqa: F401

    assert Config.fromfile(context.files / 'inherits.py').model.type == 'EncoderDecoder'
    return context.raw['base'], None


@reproduces('An unexpected keyword argument')
def keyword(context):
    from mmfreq.engine.launch import load_config

    path = Path('fpn.py')
    path.write_text("_base_ = 'mmseg::_base_/models/fpn_r50.py'\n")
    options = {'model.backbone.type': 'mmfreq.HorNet', 'model.backbone.arch': 'hornet-micro'}
    assert 'depth' not in load_config(path, options).model.backbone
    replaced = "model = dict(backbone=dict(_delete_=True, type='mmfreq.HorNet', arch='hornet-micro'))\n"
    Path('whole.py').write_text(path.read_text() + replaced)
    Path('merged.py').write_text(path.read_text() + replaced.replace('_delete_=True, ', ''))
    with DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(Config.fromfile('whole.py').model.backbone)
        return error_of(MODELS.build, Config.fromfile('merged.py').model.backbone), None


@reproduces('NotImplementedError without a message')
def layer_decay(context):
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
    from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor

    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0))
    (written,) = re.findall(r'^```python\n(.*?)^```$', ENTRIES['NotImplementedError without a message'], re.MULTILINE | re.DOTALL)
    exec(written, space := {})
    optim_wrapper = space['optim_wrapper']
    model = nn.Module()
    model.backbone = mmfreq.build_backbone('hornet-micro')
    built = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=optim_wrapper['constructor'], optim_wrapper_cfg=wrapper, paramwise_cfg=optim_wrapper['paramwise_cfg'])
    )(model)
    assert len({group['lr'] for group in built.optimizer.param_groups}) == 6  # stem, four stages, norms
    raw = error_of(LearningRateDecayOptimizerConstructor(wrapper, optim_wrapper['paramwise_cfg']), model)
    assert raw == 'NotImplementedError'  # without a message
    return raw, None


@reproduces('No available inferencer for the model')
def inference_of_a_config(context):
    import cv2
    from mmpretrain import ImageClassificationInferencer, get_model, inference_model

    cfg = Config.fromfile(ROOT / 'configs/cls/gfnet/gfnet-ti_8xb128-300e_in1k.py')
    model = get_model(cfg, arch='gfnet-micro')
    cv2.imwrite('image.png', np.zeros((40, 50, 3), np.uint8))
    assert len(ImageClassificationInferencer(model)('image.png')[0]['pred_scores']) == 1000
    of_stock = get_model(Config.fromfile(Path(get_installed_path('mmpretrain'), '.mim/configs/resnet/resnet18_8xb32_in1k.py')))
    raw = error_of(inference_model, of_stock, 'image.png')
    assert raw == error_of(inference_model, model, 'image.png')
    return raw, None


@reproduces('The data are not there')
def missing_data(context):
    where = {'train_dataloader.dataset.data_root': 'nowhere'}
    return error_of(runner(context.config, **where).train), train_error(context.config, **where)


def unshifted(context):
    """Options with which the labels of the toy set are 0..6 for a head of six classes."""
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    plain = dict(type='BaseSegDataset', img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=False, pipeline=load)
    return {f'train_dataloader.dataset.{key}': value for key, value in plain.items()} | {'train_dataloader.sampler.shuffle': False}


@reproduces('A target is out of bounds')
def wrong_labels(context):
    return error_of(runner(context.config, **unshifted(context)).train), train_error(context.config, **unshifted(context))


@reproduces('The dataset has more classes than the head')
def few_classes(context):
    few = {'model.decode_head.num_classes': 4, 'train_dataloader.sampler.shuffle': False}
    return error_of(runner(context.config, **few).train), train_error(context.config, **few)


@reproduces('Images of other channels')
def channels(context):
    four = torch.zeros(2, 4, 64, 64)
    message = error_of(mmfreq.build_backbone('hornet-micro'), four)
    four_values = {'model.data_preprocessor.mean': [0.0] * 4, 'model.data_preprocessor.std': [1.0] * 4}
    guard = train_error(context.config, **{'model.backbone.in_channels': 4}, **four_values)
    assert re.search(r'train_\d+\.jpg has 3 channels, but the model takes in_channels=4', guard)
    return error_of(nn.Conv2d(3, 8, 3), four[:, :, :9, :9]), message


def changed_data(context, change):
    """Options for a copy of the data, after `change(image file, label file)` of each training pair."""
    shutil.copytree(context.files / 'data', 'data')
    for image in sorted(Path('data/images/training').iterdir()):
        change(image, Path('data/annotations/training', f'{image.stem}.png'))
    return {'train_dataloader.dataset.data_root': 'data', 'train_dataloader.sampler.shuffle': False}


@reproduces('An image cannot be loaded')
def unreadable(context):
    options = changed_data(context, lambda image, labels: image.write_text('a note'))
    raw = error_of(runner(context.config, **options).train)
    for image in Path('data/images/training').iterdir():
        image.write_bytes(b'')
    return raw, train_error(context.config, **options)


@reproduces('Label maps in colors')
def colored_labels(context):
    from PIL import Image

    palette = np.random.default_rng(0).permutation(256)[:8, None] + np.arange(3)  # (8, 3), without doubles

    def paint(image, labels):
        Image.fromarray(palette.astype(np.uint8)[np.array(Image.open(labels))]).save(labels)

    original = np.array(Image.open(next((context.files / 'data/annotations/training').iterdir())))
    options = changed_data(context, paint)
    label = palette.astype(np.uint8)[original]
    space = {'np': np, 'label': label, 'palette': palette.astype(np.uint8)}
    code = re.search(r'```python\n(.*?)```', ENTRIES['Label maps in colors'], re.DOTALL)[1]
    exec(code, space)
    assert (space['ids'] == original).all()
    return error_of(runner(context.config, **options).train), train_error(context.config, **options)


@reproduces('Nothing to concatenate')
def no_images(context):
    from mmdet.datasets import CocoDataset

    folder = context.files / 'coco'
    table = json.loads((folder / 'annotations/instances_train2017.json').read_text())
    names = tuple(category['name'] for category in table['categories'])
    data = dict(
        ann_file=str(folder / 'annotations/instances_train2017.json'),
        data_prefix=dict(img=str(folder / 'train2017/')),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[],
    )
    assert len(CocoDataset(**data, metainfo=dict(classes=names))) == 2
    return error_of(CocoDataset, **data), check_coco_classes(context, classes=('date', 'fig', 'hazelnut'))[0]


def check_coco_classes(context, **metainfo):
    """(error or None, warnings) of the checks of a detection config whose dataset has these classes."""
    from mmengine.registry import init_default_scope

    from mmfreq.preflight import Report
    from mmfreq.preflight.coco import check_coco

    init_default_scope('mmdet')
    leaf = dict(type='CocoDataset', data_root=str(context.files / 'coco'), metainfo=metainfo, data_prefix=dict(img='train2017'))
    leaf['ann_file'] = 'annotations/instances_train2017.json'
    cfg, report = Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=leaf))), Report()
    try:
        check_coco(cfg, report, ('train_dataloader',))
    except ValueError as error:
        return str(error), report.warnings
    return None, report.warnings


@reproduces('A COCO file exported by a tool')
def exported_coco(context):
    from mmdet.evaluation import CocoMetric  # noqa: F401  (installs the aliases that pycocotools needs)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def score(path):
        truth = COCO(path)
        found = [{key: row[key] for key in ('image_id', 'category_id', 'bbox')} | {'score': 1.0} for row in truth.anns.values()]
        scores = COCOeval(truth, truth.loadRes(found), 'bbox')
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
        return scores.stats[0]

    def written(change):
        table = copy.deepcopy(original)
        for row in table['annotations']:
            change(row)
        Path('exported.json').write_text(json.dumps(table))
        return check_scored_coco(context, 'exported.json')

    def corners(row):
        x, y, width, height = row['bbox']
        row['bbox'] = [x, y, x + width, y + height]

    original = json.loads((context.files / 'coco/annotations/instances_train2017.json').read_text())
    for number, row in enumerate(original['annotations'], 1):
        row['id'] = number
    messages = [
        written(lambda row: row.pop('iscrowd')),
        written(lambda row: row.update(id=row['id'] - 1)),
        written(corners),
    ]

    def spoil(row):
        corners(row)
        row.pop('iscrowd')
        row['id'] -= 1

    written(spoil)
    raw = error_of(score, 'exported.json')
    code = re.search(r'```python\n(.*?)```', ENTRIES['A COCO file exported by a tool'], re.DOTALL)[1]
    exec(code, {'json': json, 'Path': Path})
    assert json.loads(Path('repaired.json').read_text()) == original
    assert score('repaired.json') == 1 and not check_scored_coco(context, 'repaired.json')
    return raw, '\n'.join(messages)


def check_scored_coco(context, path):
    """The error or the warnings about a file that is scored."""
    from mmengine.registry import init_default_scope

    from mmfreq.preflight import Report
    from mmfreq.preflight.coco import check_coco

    init_default_scope('mmdet')
    names = [category['name'] for category in json.loads(Path(path).read_text())['categories']]
    leaf = dict(
        type='CocoDataset', ann_file=str(Path(path).absolute()), data_prefix=dict(img=str(context.files / 'coco/train2017'))
    )
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    leaf |= dict(test_mode=True, metainfo=dict(classes=names), pipeline=load)
    model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead')))
    evaluator = dict(type='CocoMetric', ann_file=leaf['ann_file'], metric=['bbox', 'segm'])
    cfg = Config(dict(default_scope='mmdet', model=model, val_dataloader=dict(dataset=leaf), val_evaluator=evaluator))
    report = Report()
    try:
        check_coco(cfg, report, ('val_dataloader',))
    except ValueError as error:
        return str(error)
    return '\n'.join(report.warnings)


@reproduces("Images of another size than the model's")
def sizes(context):
    with torch.no_grad():
        for arch in (arch for arch in mmfreq.list_archs() if 'micro' in arch):
            for size in ((256, 256), (32, 45)):
                assert mmfreq.build_backbone(arch).eval()(torch.zeros(1, 3, *size))
    return None, None


@reproduces('Weights only load failed, for a checkpoint of mmengine')
def own_checkpoint(context):
    import mmfreq.registry  # noqa: F401

    assert torch.load(context.files / 'mmengine.pth', weights_only=True)['message_hub']['loss'].current() == 1
    return context.raw['load'], None


class OfAProject:
    """A class that no list allows."""


@reproduces('Weights only load failed, for another file')
def foreign_checkpoint(context):
    torch.save({'state_dict': {}, 'options': OfAProject()}, 'foreign.pth')
    message = error_of(mmfreq.load_weights, mmfreq.build_backbone('hornet-micro'), 'foreign.pth')
    assert f'{OfAProject.__module__}.OfAProject' in message
    return error_of(torch.load, 'foreign.pth', weights_only=True), message


@reproduces('A truncated file')
def truncated(context):
    whole = (context.files / 'resnet.pth').read_bytes()
    raw = []
    for length in (len(whole) // 2, 0):
        Path('short.pth').write_bytes(whole[:length])
        raw.append(error_of(torch.load, 'short.pth', weights_only=False))
        message = error_of(mmfreq.load_weights, mmfreq.build_backbone('hornet-micro'), 'short.pth')
        assert f'({length} bytes)' in message
    return '\n'.join(raw), message


@reproduces('The model and loaded state dict do not match exactly')
def another_network(context):
    from mmengine.runner import load_checkpoint

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        load_checkpoint(nn.Conv2d(1, 1, 1), str(context.files / 'resnet.pth'), logger=None)
    return printed.getvalue(), train_error(context.config, load_from=str(context.files / 'resnet.pth'))


@reproduces('Size mismatch of a filter')
def other_grid(context):
    from mmpretrain.models.backbones.hornet import GlobalLocalFilter

    small, large = (mmfreq.build_backbone('hornet-micro', img_size=size) for size in (224, 384))
    report = mmfreq.load_weights(large, small.state_dict())
    assert report.resized and 'resized stages.2.0.gnconv.dwconv.complex_weight' in str(report)
    large.load_state_dict(small.state_dict())
    stock = GlobalLocalFilter(8, h=24, w=13)
    return error_of(stock.load_state_dict, GlobalLocalFilter(8, h=14, w=8).state_dict()), None


@reproduces('No checkpoint to resume')
def nothing_to_resume(context):
    from mmengine.runner import find_latest_checkpoint

    from mmfreq.engine.launch import prepare_train

    Path('work').mkdir()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert find_latest_checkpoint('work') is None
    return printed.getvalue(), error_of(prepare_train, context.config, work_dir='work', resume='latest')


@reproduces('SyncBatchNorm wants a GPU')
def sync_norm(context):
    from mmfreq.engine.launch import prepare_train

    raw = in_one_process_group(lambda: error_of(nn.SyncBatchNorm(3), torch.zeros(2, 3, 4, 4)))
    assert Config.fromfile(context.config).model.decode_head.norm_cfg.type == 'SyncBN'
    assert prepare_train(context.config, work_dir='work').model.decode_head.norm_cfg.type == 'BN'
    return raw, None


@reproduces('Mixed precision wants a GPU')
def amp(context):
    from mmengine.optim import AmpOptimWrapper

    from mmfreq.engine.launch import prepare_train

    context.patch.setattr('mmfreq.engine.processes.has_amp_device', lambda: False)
    for name in ('cuda', 'npu', 'mlu', 'musa'):
        context.patch.setattr(f'mmengine.optim.optimizer.amp_optimizer_wrapper.is_{name}_available', lambda: False)
    cfg = prepare_train(context.config, work_dir='work', cfg_options={'optim_wrapper.type': 'AmpOptimWrapper'})
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    raw = error_of(AmpOptimWrapper, optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1))
    return raw, error_of(prepare_train, context.config, work_dir='work', amp=True)


@reproduces('DistributedDataParallel and device ids')
def device_ids(context):
    from mmfreq.engine.processes import fit_processes

    context.patch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config.fromfile(context.config)
    fit_processes(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg.device_ids is None and cfg.env_cfg.dist_cfg.backend == 'gloo'
    return in_one_process_group(lambda: error_of(nn.parallel.DistributedDataParallel, nn.Linear(1, 1), device_ids=[0])), None


@reproduces('persistent_workers')
def workers(context):
    from mmfreq.engine.launch import prepare_train

    options = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': True}
    assert not prepare_train(context.config, work_dir='work', cfg_options=options).train_dataloader.persistent_workers
    return error_of(torch.utils.data.DataLoader, [1], persistent_workers=True), None


@reproduces('Expected to have finished reduction')
def unused(context):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x):
            return self.used(x)

    def two_steps(model, x):
        model = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            out = model(x)
            (out if torch.is_tensor(out) else out[-1] + out[0].mean()).sum().backward()

    backbone = mmfreq.build_backbone('hornet-micro', out_indices=(0, 2))
    in_one_process_group(lambda: two_steps(backbone, torch.rand(1, 3, 64, 64)))
    return in_one_process_group(lambda: error_of(two_steps, Unused(), torch.ones(1, 1))), None


@reproduces('Connection closed by peer')
def contact(context):
    from mmengine.logging import MMLogger

    from mmfreq.engine import failure_log

    context.patch.setattr(MMLogger, '_instance_dict', {})
    context.patch.setattr(failure_log, '_has_peers', lambda: True)
    context.patch.setattr(failure_log, 'GRACE', 0.0)
    for rank, error in ((1, LookupError('planted')), (0, RuntimeError('gloo/transport/tcp/pair.cc:1] Connection closed by peer'))):
        context.patch.setenv('RANK', str(rank))
        with contextlib.suppress(type(error)), failure_log.failures_logged():
            MMLogger.get_instance(f'rank {rank}', log_file=None if rank else 'run.log')._log_file = 'run.log'
            raise error
    return None, Path('run.log').read_text()


@reproduces('Grad strides do not match bucket view strides')
def strides(context):
    x = torch.rand(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    plain = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    plain(x).sum().backward()
    grad, own = plain.weight.grad, plain.weight.stride()
    assert grad.stride() != own and torch.equal(grad.as_strided(grad.shape, own), grad)

    def step():
        model = nn.parallel.DistributedDataParallel(nn.Conv2d(8, 8, 3, padding=1, groups=8))
        model(x).sum().backward()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        before = torch.is_warn_always_enabled()
        torch.set_warn_always(True)  # it warns once a process, and another test may have had it
        try:
            in_one_process_group(step)
        finally:
            torch.set_warn_always(before)
    return '\n'.join(f'{each.category.__name__}: {each.message}' for each in caught), None


@reproduces('cuFFT in half precision', pytest.mark.gpu)
def cufft(context):
    from mmfreq.layers import GlobalFilter

    layer = GlobalFilter(8, 7).cuda()
    x = torch.rand(1, 8, 7, 7, device='cuda')
    for value in (layer.half()(x.half()), layer.bfloat16()(x.bfloat16())):
        assert value.isfinite().all()
    return error_of(torch.fft.rfft2, x.half()), None


@reproduces('Unsupported dtype in a Fourier transform')
def dtypes(context):
    raw = []
    for dtype in (torch.half, torch.bfloat16):
        model = mmfreq.build_backbone('hornet-micro').eval().to(dtype)
        with torch.no_grad():
            assert all(out.dtype == dtype and out.isfinite().all() for out in model(torch.rand(1, 3, 64, 64, dtype=dtype)))
        raw.append(error_of(torch.fft.rfft2, torch.zeros(1, 1, 8, 8, dtype=dtype)))
    return '\n'.join(raw), None


@reproduces('The loss is NaN')
def not_a_number(context):
    from mmdet.engine.hooks import CheckInvalidLossHook

    from mmfreq.layers import GlobalFilter

    class Runner:
        iter = 0
        logger = logging.getLogger('troubles')

    printed = io.StringIO()
    Runner.logger.addHandler(handler := logging.StreamHandler(printed))
    Runner.logger.setLevel(logging.INFO)
    error_of(CheckInvalidLossHook(1).after_train_iter, Runner, 0, outputs=dict(loss=torch.tensor(float('nan'))))
    Runner.logger.removeHandler(handler)
    x = torch.full((1, 4, 64, 64), 100.0)
    assert torch.view_as_real(torch.fft.rfft2(x)).half().isinf().any()
    layer = GlobalFilter(4, 64)
    with torch.autocast('cpu', torch.float16):
        assert layer(x.half()).isfinite().all()
    for named in ('configs/_base_/datasets/fruits_nuts.py', 'configs/seg/hornet/hornet-small-7x7_horfpn-gf-upernet*.py'):
        text = next(ROOT.glob(named)).read_text()
        assert ('FilterAnnotations' if 'fruits' in named else 'clip_grad') in text
    return printed.getvalue(), error_of(guard_against_nan)


def guard_against_nan():
    from types import SimpleNamespace

    from mmfreq.engine import LossGuardHook

    runner = SimpleNamespace(
        iter=9, message_hub=SimpleNamespace(log_scalars={}), optim_wrapper=SimpleNamespace(get_lr=lambda: {'lr': [1e-3]})
    )
    LossGuardHook(patience=1).after_train_iter(runner, 9, outputs={'loss': float('nan'), 'decode.loss_ce': float('nan')})


@reproduces('Out of memory', pytest.mark.gpu)
def out_of_memory(context):
    return error_of(torch.empty, 2**50, device='cuda'), None


@reproduces('ONNX has no rfft2')
def onnx(context):
    from mmfreq.layers import GlobalFilter

    def export(spectral, **options):
        layer = GlobalFilter(4, 8, spectral=spectral).eval()
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            return torch.onnx.export(layer, (torch.zeros(1, 4, 8, 8),), **options)

    pytest.importorskip('onnxscript')
    operators = [{node.op_type for node in export(spectral, dynamo=True).model.graph} for spectral in ('fft', 'matmul')]
    assert 'DFT' in operators[0] and 'DFT' not in operators[1] and 'MatMul' in operators[1]
    return error_of(export, 'fft', f=io.BytesIO(), opset_version=17, dynamo=False), None


@reproduces('torch.compile and complex numbers', pytest.mark.slow)
def compiled(context):
    from mmfreq.layers import GlobalFilter

    if not shutil.which('g++') and not shutil.which('clang++'):
        pytest.skip('no C++ compiler for torch.compile')
    raw, x = [], torch.rand(1, 4, 8, 8)
    context.patch.setattr(torch._inductor.config, 'force_disable_caches', True)  # what is cached is not warned of again
    for spectral in ('fft', 'matmul'):
        layer = GlobalFilter(4, 8, spectral=spectral).eval()
        torch._dynamo.reset()
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter('always')
            torch.testing.assert_close(torch.compile(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
        raw.append('\n'.join(str(each.message) for each in caught))
    assert 'complex operators' not in raw[1]
    return raw[0], None


@reproduces('Classes in another order than in the COCO file')
def order_of_classes(context):
    table = json.loads((context.files / 'coco' / 'annotations/instances_train2017.json').read_text())
    names = [category['name'] for category in table['categories']]
    assert check_coco_classes(context, classes=names) == (None, [])
    refused, (warning,) = check_coco_classes(context, classes=names[::-1])
    assert refused is None
    return None, warning


@reproduces('Fewer GPUs than the config is for')
def fewer_gpus(context):
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
        tool('few_gpus').main([str(ROOT / 'configs/upernet_hornet_ade20k.py'), '2', '--images', '1'])
    return None, printed.getvalue()


@reproduces('Weights that are not on this machine')
def missing_weights(context):
    from mmfreq.preflight.report import Report
    from mmfreq.preflight.run import check_weights

    context.patch.setenv('https_proxy', 'http://127.0.0.1:9')  # refuses every connection
    context.patch.setenv('TORCH_HOME', str(context.files))
    with pytest.raises(ValueError) as error:
        check_weights(Config.fromfile(ROOT / 'configs/upernet_hornet_ade20k.py'), Report())
    return None, str(error.value)


@reproduces('Parts that mmengine rewrites')
def rewritten_parts(context):
    messages = [
        train_error(context.config, activation_checkpointing=['backbone']),
        train_error(context.config, efficient_conv_bn_eval=['backbone'], **{'model.backbone.drop_path_rate': 0.2}),
    ]
    trained = runner(context.config, activation_checkpointing=['backbone'], work_dir='trained', **{'train_cfg.max_iters': 1})
    trained.train()
    assert not any(parameter.grad is not None for parameter in trained.model.backbone.parameters())
    return None, '\n'.join(messages)


@reproduces('Too few FLOPs')
def flops(context):
    from mmengine.analysis import get_model_complexity_info

    from mmfreq.analysis.flops import count

    class Transforms(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return torch.fft.irfft2(torch.fft.rfft2(self.conv(x)), s=x.shape[-2:])

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        info = get_model_complexity_info(Transforms(), (1, 8, 8), show_table=False, show_arch=False)
    assert info['flops'] == 64 < count(Transforms(), torch.zeros(1, 1, 8, 8)).macs.total
    return None, None


@reproduces('Images rotated by EXIF')
def rotated_images(context):
    from PIL import Image

    from mmfreq.datasets.toy import write_toy_ade20k

    write_toy_ade20k('data', train=4, val=2, size=(48, 64))
    exif = Image.Exif()
    exif[274] = 6
    for image in Path('data/images/training').iterdir():
        Image.open(image).copy().save(image, exif=exif)
    options = {f'{split}_dataloader.dataset.data_root': 'data' for split in ('train', 'val')}
    runner(context.config, **options).train()  # no error
    message = train_error(context.config, **options)
    upright = {'train_dataloader.dataset.pipeline.0.color_type': 'color_ignore_orientation'}
    from mmfreq.engine.launch import train

    assert train(context.config, work_dir='upright', cfg_options=options | upright).iter == 2
    return None, message


def test_every_entry_is_reproduced():
    assert list(REPRODUCED) == list(ENTRIES) and len(ENTRIES) > 30
    for title, body in ENTRIES.items():
        error, message, *more = blocks_of(title)
        assert not more and body.count('```text') == bool(error) + bool(message), title


@pytest.mark.slow
@pytest.mark.parametrize('title', [pytest.param(title, marks=marks, id=title) for title, (_, marks) in REPRODUCED.items()])
def test_error_and_message_are_those_of_the_page(title, context):
    error, message = blocks_of(title)
    raw, raised = REPRODUCED[title][0](context)
    if raw is not None:
        assert any(contains(raw, line) for line in error), f'on the page: {error}\nwithout mmfreq: {raw}'
    else:
        assert not error or NOT_HERE in ENTRIES[title], f'{title}: the page must state that its error is {NOT_HERE}'
    assert bool(message) == (raised is not None)
    for line in message:
        assert contains(raised, line), f'on the page: {line}\nraised: {raised}'


def test_entries_that_need_a_gpu_have_a_note():
    on_a_gpu = {title for title, (_, marks) in REPRODUCED.items() if pytest.mark.gpu in marks}
    assert on_a_gpu == {title for title, body in ENTRIES.items() if ON_A_GPU in ' '.join(body.split())} and on_a_gpu


def test_links_within_the_page_are_valid():
    anchors = {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in ENTRIES}
    found = re.findall(r'\]\(#([\w-]+)\)', PAGE)
    assert found and set(found) <= anchors


def test_contains():
    assert contains("x\nKeyError: 'a is  not'", "KeyError: 'a is not'") and contains('looked at here now', 'looked at ... now')
    assert not contains("KeyError: 'a is'", "KeyError: 'a is not'")
