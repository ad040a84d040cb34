"""The checkpoint that a run starts from, compared with the model on the meta device."""

import pytest
import torch

import mmfreq
from mmfreq.compat.safe_load import CheckpointError
from mmfreq.config.meta_model import build_model_on_meta
from mmfreq.errors import CheckpointMismatchError
from mmfreq.preflight.run import check_checkpoint


def start_from(cfg, path, resume=False):
    cfg.load_from, cfg.resume = str(path), resume
    return cfg


@pytest.mark.slow
def test_a_matching_checkpoint_is_reported_and_not_copied(cfg, trained, report, recwarn):
    model = build_model_on_meta(cfg)
    check_checkpoint(start_from(cfg, trained / 'iter_2.pth', resume=True), report, model)
    assert report.facts['starts from'] == f'{trained / "iter_2.pth"}, resumed: fits the model'
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}
    assert not [warning for warning in recwarn if 'meta parameter' in str(warning.message)]


def test_checkpoint_of_another_family(cfg, report, tmp_path):
    torch.save({'state_dict': {'layer1.0.conv1.weight': torch.ones(1)}}, tmp_path / 'resnet.pth')
    with pytest.raises(CheckpointMismatchError, match=r'resnet\.pth.*ResNet.*layer1\.0\.conv1\.weight'):
        check_checkpoint(start_from(cfg, tmp_path / 'resnet.pth'), report, build_model_on_meta(cfg))


def test_checkpoint_with_other_shapes(cfg, trained, report):
    cfg.model.decode_head.channels = 8
    check_checkpoint(start_from(cfg, trained / 'iter_2.pth'), report, build_model_on_meta(cfg))  # a head may be initialized
    with pytest.raises(CheckpointMismatchError, match=r'shape.*decode_head'):
        check_checkpoint(start_from(cfg, trained / 'iter_2.pth', resume=True), report, build_model_on_meta(cfg))
    cfg.model.backbone.arch = 'hornet-tiny-gf'
    cfg.model.decode_head.in_channels = [64, 128, 256, 512]
    with pytest.raises(CheckpointMismatchError, match=r'shape.*backbone'):
        check_checkpoint(start_from(cfg, trained / 'iter_2.pth'), report, build_model_on_meta(cfg))


def test_pretrained_files_of_backbones(cfg, report, tmp_path):
    torch.save(mmfreq.build_classifier('hornet-micro').state_dict(), tmp_path / 'own.pth')
    torch.save(mmfreq.build_classifier('gfnet-h-micro').state_dict(), tmp_path / 'other.pth')
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'own.pth')}
    check_checkpoint(cfg, report, build_model_on_meta(cfg))
    assert report.facts['starts from'] == f'{tmp_path / "own.pth"}: fits HorNet'
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'other\.pth.*look like GFNet-H'):
        check_checkpoint(cfg, report, build_model_on_meta(cfg))
