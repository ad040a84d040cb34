"""infer.py from images to files, with small models of random weights: the files hold the predictions of the model."""

import importlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import mmfreq  # noqa: F401  (first: it supplies mmcv._ext)
from mmfreq.datasets import TOY_COCO_METAINFO, TOY_METAINFO, write_toy_ade20k
from tests.broken_images import READABLE, UNREADABLE

BROKEN = {name: data for name, (data, _) in UNREADABLE.items()}
SEGMENTOR = """
default_scope = 'mmseg'
norm_cfg = dict(type='BN')
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='LoadAnnotations'),
                 dict(type='PackSegInputs')]
model = dict(
    type='EncoderDecoder',
    pretrained='https://example.invalid/never_fetched_either.pth',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.] * 3, std=[50.] * 3, bgr_to_rgb=True, size=(64, 64)),
    backbone=dict(type='UNet', base_channels=8, num_stages=3, strides=(1, 1, 1), enc_num_convs=(1, 1, 1), dec_num_convs=(1, 1),
                  downsamples=(True, True), enc_dilations=(1, 1, 1), dec_dilations=(1, 1), norm_cfg=norm_cfg,
                  init_cfg=dict(type='Pretrained', checkpoint='https://example.invalid/never_fetched.pth')),
    decode_head=dict(type='FCNHead', in_channels=8, in_index=2, channels=8, num_convs=1, num_classes=6, norm_cfg=norm_cfg),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
test_dataloader = dict(dataset=dict(
    type='mmfreq.ToyShapesDataset', data_root='nowhere', pipeline=test_pipeline,
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation')))
"""

DETECTOR = """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
default_scope = 'mmdet'
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True), dict(type='PackDetInputs')]
model = dict(
    backbone=dict(depth=18, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8), mask_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16, num_classes=5),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1, num_classes=5)),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=6)))
test_dataloader = dict(dataset=dict(
    type='CocoDataset', ann_file='none.json', data_prefix=dict(img=''), metainfo=METAINFO, pipeline=pipeline))
"""


@pytest.fixture
def infer(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools'))
    return importlib.import_module('infer').main


def _make(folder, text, scope):
    """Writes a config and a checkpoint of random weights for it; returns both paths."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    torch.manual_seed(0)
    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    config.write_text(text)
    init_default_scope(scope)
    cfg = Config.fromfile(config).model
    cfg.pop('pretrained', None)
    torch.save({'state_dict': MODELS.build(cfg).state_dict(), 'meta': {}}, checkpoint)
    return config, checkpoint


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    return _make(tmp_path_factory.mktemp('seg'), SEGMENTOR, 'mmseg')


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp('toy') / 'set'
    write_toy_ade20k(root, train=1, val=2, size=(48, 64))
    return root


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_predictions_equal_those_of_mmseg(infer, segmentor, toy, tmp_path, capsys):
    from mmseg.apis import inference_model, init_model

    from mmfreq.analysis.drawing import overlay

    config, checkpoint = segmentor
    images, truth = toy / 'images/validation', toy / 'annotations/validation'
    infer([str(config), str(checkpoint), str(images), '--truth', str(truth), '--out', str(tmp_path), '--device', 'cpu'])
    stems = ['val_00000', 'val_00001']
    assert _names(tmp_path) == sorted(stem + end for stem in stems for end in ('.png', '_overlay.png', '_panel.png'))
    out = capsys.readouterr().out
    assert str(tmp_path) in out and '_panel.png' in out
    model = init_model(str(config), str(checkpoint), device='cpu')
    for stem in stems:
        expected = inference_model(model, str(images / f'{stem}.jpg')).pred_sem_seg.data[0].numpy()
        mask = Image.open(tmp_path / f'{stem}.png')
        assert mask.mode == 'P' and len(np.unique(expected)) > 1
        np.testing.assert_array_equal(np.array(mask), expected)
        palette = np.array(TOY_METAINFO['palette'])
        np.testing.assert_array_equal(np.array(mask.convert('RGB')), palette[expected])
        image = np.array(Image.open(images / f'{stem}.jpg'))
        drawn = np.array(Image.open(tmp_path / f'{stem}_overlay.png'))
        np.testing.assert_allclose(drawn.astype(int), overlay(image, expected, palette).astype(int), atol=3)  # JPEG decoders


def test_label_maps_are_read_as_the_config_defines(segmentor, toy, tmp_path):
    from mmfreq.apis import load_predictor

    folder = toy / 'annotations/validation'
    written = np.array(Image.open(folder / 'val_00000.png')).astype(int)
    labels = load_predictor(*segmentor).load_label_map(folder, 'val_00000')
    np.testing.assert_array_equal(labels, np.where(written == 0, 255, written - 1))
    kept = load_predictor(*segmentor, cfg_options={'test_dataloader.dataset.reduce_zero_label': False})
    np.testing.assert_array_equal(kept.load_label_map(folder, 'val_00000'), written)


def test_incomplete_checkpoint_is_an_error_that_lists_the_tensors(infer, segmentor, toy, tmp_path, capsys):
    config, checkpoint = segmentor
    loaded = torch.load(checkpoint)
    name = 'decode_head.conv_seg.bias'
    for broken, pattern in (({}, '1 in the model, not in the file: '), ({name: torch.zeros(7)}, '1 of another shape: ')):
        rest = {key: value for key, value in loaded['state_dict'].items() if key != name}
        torch.save({'state_dict': rest | broken}, tmp_path / 'broken.pth')
        with pytest.raises(SystemExit) as ended:
            infer([str(config), str(tmp_path / 'broken.pth'), str(toy / 'images/validation'), '--out', str(tmp_path / 'out')])
        assert ended.value.code == 2
        assert re.search(f'{pattern}.*{name}', capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_image_types_are_read_and_broken_files_are_skipped(infer, segmentor, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    color = rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / 'color.png'), color)
    cv2.imwrite(str(folder / 'alpha.png'), np.dstack([color, color[..., 0]]))
    cv2.imwrite(str(folder / 'deep.png'), color.astype(np.uint16) * 256)
    cv2.imwrite(str(folder / 'gray.png'), color[..., 0])
    (folder / 'broken.jpg').write_bytes(b'no image')
    (folder / 'empty.jpg').write_bytes(b'')
    config, checkpoint = segmentor
    with pytest.raises(SystemExit) as ended:
        infer([str(config), str(checkpoint), str(folder), '--out', str(out), '--device', 'cpu'])
    assert 'broken.jpg' in ended.value.code and 'empty.jpg' in ended.value.code and '2 of 6' in ended.value.code
    assert len(_names(out)) == 8 and '4 of 6 images done' in capsys.readouterr().out
    masks = {name: np.array(Image.open(out / f'{name}.png')) for name in ('color', 'alpha', 'deep', 'gray')}
    assert all(mask.shape == (40, 56) for mask in masks.values())
    assert (masks['alpha'] == masks['color']).all() and (masks['deep'] == masks['color']).all()
    assert np.array(Image.open(out / 'gray_overlay.png')).shape == (40, 56, 3)


def test_broken_images_give_errors_and_unusual_ones_masks(infer, segmentor, tmp_path, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    files = {f'{prefix} {number:02}.jpg': data for prefix, table in (('bad', BROKEN), ('good', READABLE)) for number, data in
             enumerate(table.values())}  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / 'bad\nname.jpg').write_bytes(b'')
    config, checkpoint = segmentor
    with pytest.raises(SystemExit) as ended:
        infer([str(config), str(checkpoint), str(folder), '--out', str(out), '--device', 'cpu'])
    message = ended.value.code
    assert f'{len(BROKEN) + 1} of {len(files) + 1} ' in message and r'bad\nname.jpg' in message
    assert all(name in message for name in files if name.startswith('bad'))
    assert not any(name in message for name in files if name.startswith('good'))
    assert 'Traceback' not in message + capsys.readouterr().err
    assert len(list(out.glob('good ??.png'))) == len(READABLE)


def test_missing_label_map_is_reported_and_the_mask_still_written(infer, segmentor, toy, tmp_path):
    config, checkpoint = segmentor
    (tmp_path / 'truth').mkdir()
    image, out = toy / 'images/validation/val_00000.jpg', tmp_path / 'out'
    with pytest.raises(SystemExit, match=r'truth.*val_00000'):
        infer([str(config), str(checkpoint), str(image), '--truth', str(tmp_path / 'truth'), '--out', str(out)])
    assert _names(out) == ['val_00000.png', 'val_00000_overlay.png']


def test_detections_are_drawn_and_listed_by_score(infer, tmp_path):
    from pycocotools import mask as coco_mask

    config, checkpoint = _make(tmp_path, DETECTOR.replace('METAINFO', repr(TOY_COCO_METAINFO)), 'mmdet')
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'photo.png'), rng.integers(0, 256, (90, 120, 3)).astype(np.uint8))
    args = [str(config), str(checkpoint), str(tmp_path / 'photo.png'), '--out', str(tmp_path / 'out'), '--device', 'cpu']
    infer([*args, '--score-thr', '0'])
    assert _names(tmp_path / 'out') == ['photo.json', 'photo_overlay.png']
    report = json.loads((tmp_path / 'out/photo.json').read_text())
    count = len(report['boxes'])
    assert count == 6 and report['size'] == [90, 120]
    assert all(len(report[key]) == count for key in ('labels', 'names', 'scores', 'masks'))
    assert report['scores'] == sorted(report['scores'], reverse=True)
    assert report['names'] == [TOY_COCO_METAINFO['classes'][label] for label in report['labels']]
    assert np.array(report['boxes'])[:, 2].max() <= 120 and np.array(report['boxes'])[:, 3].max() <= 90
    assert all(coco_mask.decode(code).shape == (90, 120) for code in report['masks'])
    drawn = np.array(Image.open(tmp_path / 'out/photo_overlay.png'))
    assert drawn.shape == (90, 120, 3) and (drawn != cv2.imread(str(tmp_path / 'photo.png'))[..., ::-1]).any()
    infer([*args, '--score-thr', '1'])
    bare = np.array(Image.open(tmp_path / 'out/photo_overlay.png'))
    np.testing.assert_array_equal(bare, cv2.imread(str(tmp_path / 'photo.png'))[..., ::-1])


@pytest.fixture
def tree(toy, tmp_path):
    """Three images in three folders, a video of two frames, and other files."""
    images = sorted((toy / 'images/validation').iterdir())
    for number, name in enumerate(('top.jpg', 'a/same.jpg', 'a/b/same.jpg')):
        (tmp_path / 'in' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'in' / name).write_bytes(images[number % 2].read_bytes())
    (tmp_path / 'in/notes.txt').write_text('')
    writer = cv2.VideoWriter(str(tmp_path / 'in/a/clip.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, (64, 48))
    for image in images:
        writer.write(cv2.imread(str(image)))
    writer.release()
    return tmp_path / 'in'


def test_trees_with_videos_are_mirrored_and_counted(infer, segmentor, tree, tmp_path, capsys):
    args = [*map(str, segmentor), str(tree), '--device', 'cpu']
    infer([*args, '--out', str(tmp_path / 'out')])
    expected = [f'{stem}{suffix}' for stem in ('top', 'a/same', 'a/b/same') for suffix in ('.png', '_overlay.png')]
    files = {str(path.relative_to(tmp_path / 'out')): path for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    assert sorted(files) == sorted([*expected, 'a/clip_overlay.mp4'])
    out = capsys.readouterr().out
    assert '3 of 3 images and 1 of 1 videos done' in out and 'skipped: 1 of other types (.txt)' in out
    assert re.search(r'5 images and frames in \d+\.\d s \(\d\.\d{3} s each, with reading and writing\); peak: \d+ MiB of RAM', out)
    infer([*args, '--out', str(tmp_path / 'batches'), '--batch-size', '4'])
    for name in expected:
        same = np.array(Image.open(files[name])) == np.array(Image.open(tmp_path / 'batches' / name))
        assert same.mean() > 0.999, name


def test_results_beside_the_inputs(infer, segmentor, tree):
    args = [*map(str, segmentor), str(tree), '--device', 'cpu', '--beside', '--save', 'mask', 'json']
    for _ in range(2):
        infer(args)
    written = {path.name for path in (tree / 'a').iterdir()}
    results = {'same_pred.png', 'same_pred.json', 'clip_pred.jsonl', 'clip_pred_frames'}
    assert written == {'same.jpg', 'b', 'clip.mp4'} | results
    report = json.loads((tree / 'a/same_pred.json').read_text())
    ids = np.array(Image.open(tree / 'a/same_pred.png'))
    assert report['labels'][0] == np.bincount(ids.ravel()).argmax() and sum(report['pixels']) == 48 * 64
    lines = (tree / 'a/clip_pred.jsonl').read_text().splitlines()
    assert len(lines) == len(list((tree / 'a/clip_pred_frames').iterdir())) == 2


def test_windows_equal_the_slide_mode_of_the_config(infer, segmentor, toy, tmp_path):
    args = [*map(str, segmentor), str(toy / 'images/validation/val_00000.jpg'), '--device', 'cpu', '--plain']
    slide = ['model.test_cfg.mode=slide', 'model.test_cfg.crop_size=(32,32)', 'model.test_cfg.stride=(20,20)']
    same_size = 'test_dataloader.dataset.pipeline.1.scale=(64,48)'
    infer([*args, '--out', str(tmp_path / 'a'), '--slide', '32', '20'])
    infer([*args, '--out', str(tmp_path / 'b'), '--cfg-options', *slide, same_size])
    infer([*args, '--out', str(tmp_path / 'c'), '--slide', '--cfg-options', *slide])
    infer([*args, '--out', str(tmp_path / 'd')])
    a, b, c, d = (np.array(Image.open(tmp_path / name / 'val_00000.png')) for name in 'abcd')
    assert (a == b).all() and (a == c).all() and (a != d).any()


def test_windows_of_a_detector_are_refused(infer, tmp_path, capsys):
    config, checkpoint = _make(tmp_path, DETECTOR.replace('METAINFO', repr(TOY_COCO_METAINFO)), 'mmdet')
    cv2.imwrite(str(tmp_path / 'photo.png'), np.zeros((90, 120, 3), np.uint8))
    with pytest.raises(SystemExit) as ended:
        infer([str(config), str(checkpoint), str(tmp_path / 'photo.png'), '--slide', '64'])
    assert ended.value.code == 2 and 'segmentors of mmseg' in capsys.readouterr().err


def test_broken_videos_are_named_and_the_others_written(infer, segmentor, tree, tmp_path):
    (tree / 'broken.mp4').write_bytes((tree / 'a/clip.mp4').read_bytes()[:-200])
    with pytest.raises(SystemExit, match=r'1 of 5 files has a problem:\n.*broken\.mp4 cannot be read as a video'):
        infer([*map(str, segmentor), str(tree), '--out', str(tmp_path / 'out'), '--device', 'cpu'])
    assert (tmp_path / 'out/a/clip_overlay.mp4').is_file() and not list((tmp_path / 'out').glob('*broken*'))


INVALID = {  # arguments -> message
    'a classification config': (['--cfg-options', 'default_scope=mmpretrain'], "'mmpretrain'"),
    'opacity in percent': (['--opacity', '50'], '50'),
    'a missing folder of label maps': (['--truth', 'no_such_folder'], 'no_such_folder'),
    'a missing image': (['no_such_picture.jpg'], 'no_such_picture.jpg'),
    'a batch size of 0': (['--batch-size', '0'], 'at least 1'),
    'unknown results': (['--save', 'gif'], "invalid choice: 'gif'"),
    'two places': (['--beside'], 'not allowed with argument'),
    'label maps without panels': (['--truth', '.', '--save', 'mask'], 'Add panel'),
    'windows without overlap': (['--slide', '64', '100'], 'stride from 1 to their size'),
    'windows of three numbers': (['--slide', '64', '32', '16'], 'got 3 numbers'),
    'windows that are no numbers': (['--slide', 'large'], "invalid int value: 'large'"),
}


@pytest.mark.parametrize('case', INVALID)
def test_invalid_arguments_give_a_short_message(infer, segmentor, toy, tmp_path, capsys, case):
    more, message = INVALID[case]
    with pytest.raises(SystemExit) as ended:
        infer([*map(str, segmentor), str(toy / 'images/validation'), *more, '--out', str(tmp_path)])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and message in err and 'Traceback' not in err


def test_the_python_example_of_the_page(segmentor, toy):
    page = (Path(__file__).parents[2] / 'docs/tools.md').read_text(encoding='utf-8')
    (example,) = re.findall(r'^```python\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    space = {}
    exec(example, space)
    counts = space['areas'](*segmentor, sorted((toy / 'images/validation').iterdir()))
    assert len(counts) == 2 and all(0 <= count <= 48 * 64 for count in counts)
