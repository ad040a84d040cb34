"""Broken and unusual images and label maps in training: an error that names the file, or the right image."""

import os
import warnings
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

from mmfreq.apis.inference import id_dtype
from mmfreq.engine.evaluation import write_predictions
from mmfreq.engine.launch import build_runner, prepare_train, train
from mmfreq.engine.resume.data_order import iterate_batches
from mmfreq.errors import InputError, UserError, message_of
from mmfreq.preflight import samples
from mmfreq.preflight.samples import check_channels, check_labels, guard_samples
from mmfreq.testing.toy_segmentation import toy_segmentation_config, write_toy_config
from tests.broken_images import (
    ANIMATIONS,
    READABLE,
    UNREADABLE,
    by_pillow,
    encode,
    flipped,
    huge_png,
    ids,
    pixels,
    truncated,
    turned,
)

GOOD_IMAGE, GOOD_LABEL = encode(pixels(), '.jpg'), encode(ids())
EXIF = 'color_ignore_orientation'

# fault -> (image, label map, what the error says beside the file's name); the error names the first broken file
WRONG_IMAGES = {name: (data, GOOD_LABEL, pattern) for name, (data, pattern) in UNREADABLE.items()} | {
    'one pixel': (encode(pixels((1, 1))), encode(ids((1, 1))), 'one row or column'),
    'one row': (encode(pixels((1, 64))), encode(ids((1, 64))), 'one row or column'),
    'rotated by EXIF': (turned(6), GOOD_LABEL, EXIF),
}
WRONG_LABELS = {name: (GOOD_IMAGE, data, '(empty file|text|HTML|git-lfs|damaged)')
                for name, (data, _) in UNREADABLE.items()
                if name in ('empty file', 'text', 'HTML page', 'git-lfs pointer', 'truncated PNG', 'PNG with a flipped bit')} | {
    'colors': (GOOD_IMAGE, encode(pixels()), r'one channel of class ids.*3 channels'),
    'colors with alpha': (GOOD_IMAGE, by_pillow(pixels(), mode='RGBA'), '4 channels'),
    'ids with alpha': (GOOD_IMAGE, by_pillow(ids(), mode='LA'), '2 channels'),
    '16 bits beyond 255': (GOOD_IMAGE, encode(ids().astype(np.uint16) + 256), 'values up to 262'),
    '32 bits beyond 255': (GOOD_IMAGE, by_pillow(ids().astype(np.int32) * 1000, 'TIFF'), 'values up to 6000'),
    'floats': (GOOD_IMAGE, by_pillow(np.float32(ids()), 'TIFF'), 'real numbers'),
    'JPEG': (GOOD_IMAGE, encode(ids(), '.jpg'), 'a JPEG, which changes values'),
    'another size': (GOOD_IMAGE, encode(ids((32, 64))), r'\(32, 64\).*\(48, 64\)'),
    'rows and columns exchanged': (GOOD_IMAGE, encode(ids((64, 48))), 'of the size of their images'),
    'out of range': (GOOD_IMAGE, encode(np.full((48, 64), 9, np.uint8)), r'\b8\b.*\b3072 pixels'),
    'header of 60000 x 60000': (GOOD_IMAGE, huge_png(60000, 1), 'exceeds limit'),
}  # fmt: skip
RIGHT_LABELS = {
    'palette': by_pillow(ids(), mode='P'),
    '16 bits within 255': encode(ids().astype(np.uint16)),
    'one bit': by_pillow(np.ones((48, 64), np.uint8) * 255, mode='1'),
    'all ignored': encode(np.zeros((48, 64), np.uint8)),
}
CASES = {f'image: {name}': case for name, case in WRONG_IMAGES.items()} | {
    f'label map: {name}': case for name, case in WRONG_LABELS.items()
}
FINE = {f'image: {name}': (data, GOOD_LABEL) for name, data in READABLE.items()} | {
    f'label map: {name}': (GOOD_IMAGE, data) for name, data in RIGHT_LABELS.items()
}


@pytest.fixture
def root(tmp_path):
    for folder in ('images/training', 'annotations/training', 'images/validation', 'annotations/validation'):
        (tmp_path / 'data' / folder).mkdir(parents=True)
    return tmp_path / 'data'


def add(root, image, label, stem='an image'):
    (root / 'images/training' / f'{stem}.jpg').write_bytes(image)
    (root / 'annotations/training' / f'{stem}.png').write_bytes(label)


def loader_of(root, workers=0, load=None, **changes):
    """The training loader of the toy config, guarded as in a run, with one image a batch."""
    init_default_scope('mmseg')
    cfg = toy_segmentation_config(root)['train_dataloader']['dataset'] | changes
    cfg['pipeline'][0].update(load or {})
    loader = DataLoader(DATASETS.build(cfg), num_workers=workers, collate_fn=pseudo_collate)
    guard_samples(SimpleNamespace(_train_loop=SimpleNamespace(dataloader=loader), _val_loop=None))
    return loader


def loaded(root, **options):
    """The first batch, checked as before an iteration; raises what a run would raise."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        batch = next(iterate_batches(loader_of(root, **options)))
    image, sample = batch['inputs'][0], batch['data_samples'][0]
    check_channels(image, 3, sample.img_path)
    check_labels(sample.gt_sem_seg.data, 6, 255, sample.seg_map_path)
    return image, sample


def test_number_of_cases():
    assert len(CASES) >= 34 and len(CASES) + len(FINE) >= 48


@pytest.mark.parametrize('case', CASES)
def test_error_names_the_file(root, case):
    image, label, pattern = CASES[case]
    add(root, image, label)
    with pytest.raises(InputError, match=f'(?s){pattern}') as caught:
        loaded(root)
    name = 'an image.jpg' if case.startswith('image: ') and 'one ' not in case else 'an image.png'
    assert name in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize('case', ['image: truncated PNG', 'label map: colors', 'label map: another size'])
def test_data_worker_raises_the_same_message(root, case):
    image, label, _ = CASES[case]
    add(root, image, label)
    with pytest.raises(InputError) as here:
        loaded(root)
    with pytest.raises(InputError, match='Caught InputError in DataLoader worker') as there:
        loaded(root, workers=2)
    assert message_of(there.value) == str(here.value) == message_of(here.value)


@pytest.mark.parametrize('case', FINE)
def test_unusual_files_are_read(root, case):
    add(root, *FINE[case])
    image, sample = loaded(root)
    assert image.shape == (3, 48, 64) and image.dtype == torch.uint8
    assert sample.gt_sem_seg.data.shape == (1, 48, 64)
    if case.startswith('image: '):  # the same image, up to compression, palette, and upside down
        expected = torch.from_numpy(pixels()).permute(2, 0, 1).float()
        name = case.removeprefix('image: ')
        if name not in ('16 bits', 'JPEG with bytes after its end'):  # these were written by OpenCV, in BGR
            expected = expected.flip(0) if name not in ('BMP', 'gray', 'gray of 16 bits') else expected
        if 'upside' in name:
            expected = expected.flip(1, 2)
        difference = image.float() - expected
        gray = 'gray' in name
        assert (image[0] == image[2]).all() if gray else difference.abs().mean() < (25 if name in ('palette', 'CMYK JPEG') else 5)


@pytest.mark.parametrize('name', ANIMATIONS)
def test_animation_gives_its_first_frame_or_an_error(root, name):
    add(root, ANIMATIONS[name], GOOD_LABEL)
    try:
        image, _ = loaded(root)
    except InputError as error:
        assert 'an image.jpg' in str(error)  # OpenCV before 4.11
    else:
        expected = torch.from_numpy(pixels()).permute(2, 0, 1).flip(0).float()
        assert (image.float() - expected).abs().mean() < 12


@pytest.mark.parametrize('stem', ['with space', 'straße 漢字', 'two\nlines', '%s {0}', '-rf'])
def test_unusual_file_names(root, stem):
    add(root, GOOD_IMAGE, GOOD_LABEL, stem)
    loaded(root)
    add(root, b'', GOOD_LABEL, stem)
    with pytest.raises(InputError, match='an empty file') as caught:
        loaded(root)
    assert (repr(stem)[1:-1] if '\n' in stem else stem) in str(caught.value) and '\n' not in str(caught.value)


def test_missing_files_and_folders_in_their_place(root):
    add(root, GOOD_IMAGE, GOOD_LABEL)
    loader = loader_of(root)
    image, label = (next((root / folder / 'training').iterdir()) for folder in ('images', 'annotations'))
    label.unlink()
    with pytest.raises(InputError, match=r'label map .*an image\.png.* missing'):
        next(iter(loader))
    image.unlink()
    with pytest.raises(InputError, match=r'image .*an image\.jpg.* missing'):
        next(iter(loader))
    image.mkdir()
    with pytest.raises(InputError, match=r'image .*an image\.jpg.* folder'):
        next(iter(loader))


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='root may read every file')
def test_file_without_read_permission(root):
    add(root, GOOD_IMAGE, GOOD_LABEL)
    next((root / 'images/training').iterdir()).chmod(0)
    with pytest.raises(InputError, match='permission denied'):
        loaded(root)


def test_16_bit_images_need_to_float32(root):
    add(root, READABLE['16 bits'], GOOD_LABEL)
    with pytest.raises(InputError, match=r'8 bits.*uint16.*color_type="color".*to_float32'):
        loaded(root, load={'color_type': 'unchanged'})
    image, _ = loaded(root, load={'color_type': 'unchanged', 'to_float32': True})
    assert image.max() > 255


def test_float_images_must_be_finite(root):
    values = np.float32(pixels()[..., 0])
    options = {'load': {'color_type': 'unchanged', 'to_float32': True}}
    add(root, by_pillow(values, 'TIFF'), GOOD_LABEL)
    next(iter(loader_of(root, **options)))
    values[3, 4] = np.nan
    add(root, by_pillow(values, 'TIFF'), GOOD_LABEL)
    with pytest.raises(InputError, match='NaN or infinite'):
        next(iter(loader_of(root, **options)))


def test_fix_for_a_rotated_image_works(root):
    add(root, turned(6), GOOD_LABEL)
    image, _ = loaded(root, load={'color_type': EXIF})
    assert image.shape == (3, 48, 64)
    add(root, turned(6), encode(ids((64, 48))))  # labels drawn on the image as it is shown
    image, _ = loaded(root)
    assert image.shape == (3, 64, 48)


def test_warnings_are_logged_once(root, monkeypatch):
    messages = []
    monkeypatch.setattr(samples, 'print_log', lambda message, **options: messages.append(message))
    monkeypatch.setattr(samples, '_warned', set())
    for stem in ('one', 'two'):
        add(root, turned(3), GOOD_LABEL, stem)
        add(root, READABLE['16 bits'], GOOD_LABEL, f'{stem} of 16')
    list(loader_of(root))
    assert len(messages) == 2
    assert any('EXIF orientation 3' in each and EXIF in each for each in messages)
    assert any('16 bits' in each for each in messages)


def test_skipped_image_is_logged(root, monkeypatch):
    messages = []
    monkeypatch.setattr('mmfreq.preflight.samples.print_log', lambda message, **options: messages.append(message))
    add(root, b'', GOOD_LABEL, 'bad')
    add(root, GOOD_IMAGE, GOOD_LABEL, 'good')
    batches = list(loader_of(root, load={'ignore_empty': True}))
    assert [batch['data_samples'][0].img_path[-8:] for batch in batches] == ['good.jpg'] * 2
    assert messages and 'bad.jpg' in messages[0] and '(sample 1 ' in messages[0]
    with pytest.raises(InputError, match=r'bad\.jpg.*validation'):
        list(loader_of(root, load={'ignore_empty': True}, test_mode=True))


@pytest.mark.slow
def test_training_on_unusual_files_has_finite_losses(root, tmp_path):
    for number, case in enumerate(FINE):
        add(root, *FINE[case], f'{number:02}')
    config = write_toy_config(
        tmp_path / 'toy.py', root, max_iters=len(FINE) // 2, val_cfg=None, val_dataloader=None, val_evaluator=None
    )
    options = {'train_dataloader.sampler.shuffle': False, 'train_dataloader.num_workers': 2}
    runner = train(config, work_dir=tmp_path / 'w', cfg_options=options)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == len(FINE) // 2 >= 8 and np.isfinite(losses).all()


@pytest.mark.slow
def test_error_in_a_data_worker_stops_training(root, tmp_path):
    for stem in ('one', 'two'):
        add(root, GOOD_IMAGE, GOOD_LABEL, stem)
    config = write_toy_config(tmp_path / 'toy.py', root, val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg = prepare_train(config, work_dir=tmp_path / 'w', cfg_options={'train_dataloader.num_workers': 2})
    add(root, truncated(GOOD_IMAGE), GOOD_LABEL, 'two')  # after the checks before the run
    before = set(active_children())  # from earlier tests in this process
    with pytest.raises(InputError) as caught:
        build_runner(cfg).train()
    assert 'two.jpg' in message_of(caught.value) and 'Traceback' not in message_of(caught.value)
    assert not set(active_children()) - before  # leftover workers would keep the process from exiting


def test_flipped_bit_within_a_jpeg_is_not_detected(root):
    """A known limit."""
    add(root, flipped(GOOD_IMAGE, 0.9), GOOD_LABEL)
    loaded(root)


@pytest.mark.parametrize(('classes', 'dtype'), [(6, np.uint8), (256, np.uint8), (257, np.uint16), (3000, np.uint16)])
def test_id_dtype_holds_all_classes(classes, dtype):
    assert id_dtype(classes) is dtype and np.iinfo(dtype).max >= classes - 1


def test_written_label_maps_hold_at_most_256_classes(tmp_path):
    for classes, shifted, fits in ((256, False, True), (257, False, False), (256, True, False)):
        cfg = Config(toy_segmentation_config(tmp_path) | {'model': {'decode_head': {'num_classes': classes}}})
        cfg.test_dataloader.dataset.reduce_zero_label = shifted
        if fits:
            write_predictions(cfg, tmp_path)
        else:
            with pytest.raises(UserError, match=r'\b256\b.*\b257\b'):
                write_predictions(cfg, tmp_path)
