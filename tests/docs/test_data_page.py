"""The Python of docs/data.md runs as copied: configs of gray and multispectral images, and the measurement of mean and std."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

import mmfreq.registry  # noqa: F401

PAGE = (Path(__file__).resolve().parents[2] / 'docs' / 'data.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```python\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
CONFIGS = {5: next(b for b in BLOCKS if 'tifffile' in b and '_base_' in b), 1: next(b for b in BLOCKS if "'.png'" in b)}
SCRIPTS = [block for block in BLOCKS if '_base_' not in block]
SIZE = (40, 56)


def write_data(root, suffix, channels):
    """One image and its label map for training and validation, of 16 bits; returns the values of the training image."""
    values = np.random.default_rng(0).integers(0, 60_000, (*SIZE, channels)).astype(np.uint16)
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        if suffix == '.tif':
            import tifffile

            tifffile.imwrite(root / 'images' / split / 'a.tif', values, photometric='minisblack', planarconfig='contig')
        else:
            cv2.imwrite(str(root / 'images' / split / f'a{suffix}'), values[..., 0])
        cv2.imwrite(str(root / 'annotations' / split / 'a.png'), (values[..., 0] % 2).astype(np.uint8))
    return values


def test_every_block_is_tested():
    assert len(BLOCKS) == len(CONFIGS) + len(SCRIPTS) and len(SCRIPTS) == 1


@pytest.mark.parametrize('channels', CONFIGS)
def test_config_reads_its_files_and_its_model_takes_them(channels, tmp_path, monkeypatch):
    if channels == 5:
        pytest.importorskip('tifffile')
    monkeypatch.chdir(tmp_path)
    Path('config.py').write_text(CONFIGS[channels])
    cfg = Config.fromfile('config.py')
    first = cfg.train_dataloader.dataset
    values = write_data(Path(first.data_root), first.img_suffix, channels)
    with DefaultScope.overwrite_default_scope('mmseg'):
        read = {split: DATASETS.build(cfg[f'{split}_dataloader'].dataset)[0] for split in ('train', 'val', 'test')}
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
    for split in ('val', 'test'):
        assert (read[split]['inputs'].permute(1, 2, 0).numpy() == values).all(), split
    trained = read['train']
    assert sorted(trained['inputs'].flatten().tolist()) == sorted(values.ravel())
    assert set(trained['data_samples'].gt_sem_seg.data.unique().tolist()) == {0, 1}
    batch = preprocessor({'inputs': [read['val']['inputs']], 'data_samples': [trained['data_samples']]}, training=True)
    mean, std = cfg.data_preprocessor.mean[0], cfg.data_preprocessor.std[0]
    expected = (values.transpose(2, 0, 1) - mean) / std  # in the order of the file
    np.testing.assert_allclose(batch['inputs'][0, :, : SIZE[0], : SIZE[1]], expected, rtol=1e-4, atol=1e-4)
    assert len(model.backbone(batch['inputs'].to('meta'))) == 4 and model.decode_head.num_classes == 2


def test_mean_and_std_are_measured_in_the_units_of_the_file(tmp_path, monkeypatch, capsys):
    pytest.importorskip('tifffile')
    monkeypatch.chdir(tmp_path)
    values = write_data(Path('data/fields'), '.tif', 5).reshape(-1, 5).astype(float)
    exec(compile(SCRIPTS[0], 'data.md', 'exec'), {})
    found = np.array(re.findall(r'\d+\.\d+', capsys.readouterr().out), float).reshape(2, 5)
    np.testing.assert_allclose(found, [values.mean(axis=0), values.std(axis=0)], rtol=1e-9)
