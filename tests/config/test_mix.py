"""`mix`: the written leaf is the config, how necks and heads are wired, and error messages."""

import importlib

import pytest
import torch
from mmdet.models.dense_heads import SSDHead
from mmengine.config import Config

from mmfreq.config.mix import SSD_REPAIR, mix
from mmfreq.engine.launch import train
from mmfreq.engine.layer_decay import read_paramwise_cfg
from mmfreq.errors import UserError

UPERNET = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'
FPN = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
PSPNET = 'mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py'
CONVNEXT = 'mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
BEIT = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
MLA = 'mmseg::setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py'
MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
FCOS = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
YOLO = 'mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py'
C4 = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'
SSD = 'mmdet::ssd/ssd300_coco.py'


def types(node, path='model'):
    """{dotted path: type} of a nested config, without the backbone."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    found = {path: node['type']} if isinstance(node, dict) and 'type' in node else {}
    for key, child in children:
        found |= {} if key == 'backbone' else types(child, f'{path}.{key}')
    return found


def note(mixed, words):
    (found,) = (each for each in mixed.notes if words in each)
    return found


@pytest.mark.parametrize(
    ('base', 'arch'), [(UPERNET, 'dfformer-s18'), (RETINANET, 'gfnet-s'), (BEIT, 'gfnet-micro'), (SSD, 'hornet-micro')]
)
def test_the_written_leaf_is_the_config(tmp_path, base, arch):
    mixed = mix(base, arch)
    (tmp_path / 'new.py').write_text(mixed.text)
    assert Config.fromfile(tmp_path / 'new.py').to_dict() == mixed.config.to_dict()


def test_the_text_of_a_leaf():
    assert (
        mix(UPERNET, 'dfformer-s18').text
        == f"""# dfformer-s18 in {UPERNET}; written by tools/mix.py.
_base_ = '{UPERNET}'
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmfreq.DFFormer',
        arch='dfformer-s18',
        img_size=224,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
"""
    )


def test_the_lines_of_the_difference():
    assert mix(MASK_RCNN, 'hornet-tiny-gf').difference == [
        "model.backbone.type: 'ResNet' -> 'mmfreq.HorNet'",
        'model.backbone.depth: 50 -> (none)',
        'model.backbone.num_stages: 4 -> (none)',
        'model.backbone.frozen_stages: 1 -> (none)',
        "model.backbone.norm_cfg: dict(type='BN', requires_grad=True) -> (none)",
        'model.backbone.norm_eval: True -> (none)',
        "model.backbone.style: 'pytorch' -> (none)",
        "model.backbone.init_cfg: dict(type='Pretrained', checkpoint='torchvision://resnet50') -> (none)",
        "model.backbone.arch: (none) -> 'hornet-tiny-gf'",
        'model.backbone.img_size: (none) -> 224',
        'model.backbone.drop_path_rate: (none) -> 0.0',
        'model.neck.in_channels: [256, 512, 1024, 2048] -> [64, 128, 256, 512]',
    ]


@pytest.mark.parametrize('base', [UPERNET, MASK_RCNN, FCOS, SSD])
def test_only_the_backbone_changes_its_type(base):
    stock = types(Config.fromstring(f'_base_ = {base!r}', '.py').model.to_dict())
    assert len(stock) > 3 and types(mix(base, 'hornet-micro').config.model.to_dict()) == stock


def test_only_the_stages_that_are_read_are_returned():
    detector, segmentor = mix(RETINANET, 'cdfformer-s18').config.model, mix(PSPNET, 'hornet-micro').config.model
    assert detector.backbone.out_indices == (1, 2, 3)
    assert (detector.neck.in_channels, detector.neck.start_level) == ([128, 320, 512], 0)
    assert segmentor.backbone.out_indices == (2, 3)
    assert [(head.in_channels, head.in_index) for head in (segmentor.auxiliary_head, segmentor.decode_head)] == [(64, 0), (128, 1)]


def test_isotropic_maps_are_resized_to_the_strides_of_the_base():
    mixed = mix(RETINANET, 'gfnet-s')
    rescaler, fpn = mixed.config.model.neck
    assert rescaler == {'type': 'mmseg.MultiLevelNeck', 'in_channels': [384] * 3, 'out_channels': 384, 'scales': [2, 1, 0.5]}
    assert (fpn.type, fpn.in_channels, fpn.start_level) == ('FPN', [384] * 3, 0)
    assert 'MultiLevelNeck resizes them to 8, 16, 32.' in note(mixed, 'gfnet-s gives maps of stride 16 only')


def test_a_rescaling_neck_of_the_base_is_replaced_or_removed():
    """BEiT's own neck makes a pyramid of maps of one stride."""
    assert mix(BEIT, 'gfnet-micro').config.model.neck == {
        'type': 'MultiLevelNeck',
        'in_channels': [32] * 4,
        'out_channels': 32,
        'scales': [4, 2, 1, 0.5],
    }
    model = mix(BEIT, 'hornet-micro').config.model
    assert model.neck is None and model.decode_head.in_channels == [16, 32, 64, 128]


def test_other_strides_give_a_note():
    mixed = mix(PSPNET, 'affnet-t')
    assert 'maps of strides 8, 8 and get 16, 32' in note(mixed, 'The heads were made for')
    assert note(mixed, '--set model.backbone.output_stride=8')
    finer = mix(PSPNET, 'affnet-t', options={'model.backbone.output_stride': 8})
    assert finer.config.model.backbone.output_stride == 8 and not any('The heads were made' in each for each in finer.notes)


def test_preprocessing_is_that_of_the_published_weights():
    caffe = mix(FCOS, 'hornet-micro')
    assert caffe.config.model.data_preprocessor.to_dict() == {
        'type': 'DetDataPreprocessor',
        'mean': [123.675, 116.28, 103.53],
        'std': [58.395, 57.12, 57.375],
        'bgr_to_rgb': True,
        'pad_size_divisor': 32,
    }
    assert note(caffe, 'data_preprocessor: mean, std, bgr_to_rgb as in the training of hornet-micro.')
    unscaled = mix(MASK_RCNN, 'affnet-micro').config.model.data_preprocessor
    assert (unscaled.mean, unscaled.std) == ([0.0] * 3, [255.0] * 3)


def test_options_have_priority():
    options = {
        'model': {'backbone': {'drop_path_rate': 0.3, 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x.pth'}}},
        'model.backbone.with_cp': True,
        'model.data_preprocessor.mean': [1.0, 2.0, 3.0],
        'model.neck.num_outs': 6,
        'optim_wrapper.optimizer': {'_delete_': True, 'type': 'AdamW', 'lr': 1e-4},
    }
    mixed = mix(MASK_RCNN, 'affnet-micro', img_size=128, options=options)
    assert mixed.config.model.backbone.to_dict() == {
        'type': 'mmfreq.AFFNet',
        'arch': 'affnet-micro',
        'img_size': 128,
        'drop_path_rate': 0.3,
        'out_indices': (0, 1, 2, 3),
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x.pth'},
        'with_cp': True,
    }
    preprocessor = mixed.config.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std) == ([1.0, 2.0, 3.0], [255.0] * 3)
    assert mixed.config.model.neck.num_outs == 6 and mixed.config.optim_wrapper.optimizer == {'type': 'AdamW', 'lr': 1e-4}
    assert not any('random weights' in each or 'optimizer' in each for each in mixed.notes)


def test_an_unsupported_neck_can_be_wired_manually():
    """YOLOv3's neck counts its maps from the last; the error names the key to set."""
    with pytest.raises(UserError, match=r'Set model\.neck\.in_channels to a list') as error:
        mix(YOLO, 'hornet-micro')
    assert 'model.neck (YOLOV3Neck) has in_channels=[1024, 512, 256]' in str(error.value)
    model = mix(YOLO, 'hornet-micro', options={'model.neck.in_channels': [128, 64, 32]}).config.model
    assert model.backbone.out_indices == (1, 2, 3) and model.neck.in_channels == [128, 64, 32]


@pytest.mark.parametrize('path', ['model.decode_head', 'model.decode_head.in_channels'])
def test_given_keys_of_a_head_are_not_changed(path):
    value = {'in_channels': [7] * 4} if path == 'model.decode_head' else [7] * 4
    model = mix(UPERNET, 'hornet-micro', options={path: value}).config.model
    assert model.decode_head.in_channels == [7] * 4 and model.auxiliary_head.in_channels == 64


def test_layer_decay_is_that_of_the_new_backbone():
    stage_wise, layer_wise = mix(CONVNEXT, 'hornet-micro'), mix(BEIT, 'gfnet-micro')
    for mixed in (stage_wise, layer_wise):
        assert mixed.config.optim_wrapper.constructor == 'mmfreq.LayerDecayOptimWrapperConstructor'
        assert note(mixed, "mmfreq's constructor replaces them")
    assert read_paramwise_cfg(stage_wise.config.optim_wrapper.paramwise_cfg) == (0.9, 6, 'stage_wise')
    assert read_paramwise_cfg(layer_wise.config.optim_wrapper.paramwise_cfg) == (0.9, 12, 'layer_wise')
    assert stage_wise.config.model.backbone.drop_path_rate == 0.4  # the base's


def test_weights_of_the_whole_base_are_not_loaded(tmp_path):
    (tmp_path / 'base.py').write_text(f"_base_ = '{RETINANET}'\nload_from = 'retinanet_r50.pth'\n")
    mixed = mix(tmp_path / 'base.py', 'hornet-micro')
    assert mixed.config.load_from is None and note(mixed, 'load_from is off')
    assert "load_from: 'retinanet_r50.pth' -> None" in mixed.difference


def test_notes_on_weights_and_optimizer():
    mixed = mix(RETINANET, 'cdfformer-s18')
    assert 'model.backbone.init_cfg.checkpoint=mmfreq://cdfformer-s18' in note(mixed, 'random weights')
    assert 'SGD with lr 0.01; recipes for this family, with AdamW, are in configs/det/dfformer/' in note(mixed, 'optimizer')


def test_a_relative_base(tmp_path, monkeypatch):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    (tmp_path / 'a' / 'base.py').write_text(f"_base_ = '{FPN}'\n")
    monkeypatch.chdir(tmp_path)
    beside = mix('a/base.py', 'hornet-micro', folder='b')
    assert "_base_ = '../a/base.py'" in beside.text and beside.text.startswith('# hornet-micro in base.py;')
    (tmp_path / 'b' / 'new.py').write_text(beside.text)
    assert Config.fromfile('b/new.py').to_dict() == beside.config.to_dict()
    assert f"_base_ = '{tmp_path.resolve().as_posix()}/a/base.py'" in mix('a/base.py', 'hornet-micro').text
    assert f"_base_ = '{FPN}'" in mix(FPN, 'hornet-micro', folder='b').text


@pytest.mark.slow
def test_a_mixed_config_trains(toy_config, tmp_path):
    """The base can be a config of mmfreq: the micro HorNet's segmentor with an AFFNet."""
    mixed = mix(toy_config, 'affnet-micro', img_size=64, folder=tmp_path)
    (tmp_path / 'new.py').write_text(mixed.text)
    assert "_base_ = 'toy.py'" in mixed.text
    runner = train(str(tmp_path / 'new.py'), work_dir=tmp_path / 'work')
    assert runner.iter == 2 and type(runner.model.backbone).__name__ == 'AFFNet'
    loaded = torch.load(tmp_path / 'work' / 'iter_2.pth', weights_only=True)['state_dict']
    assert any(name.startswith('backbone.layer_5.') for name in loaded)


def test_ssd_can_predict_with_the_repair(monkeypatch):
    """It adds the attribute that mmdet 3.3.0's head reads, and does not change a head that has it."""
    assert SSD_REPAIR in mix(SSD, 'hornet-micro').config.custom_imports.imports
    repair = importlib.import_module(SSD_REPAIR)
    monkeypatch.delattr(SSDHead, 'loss_cls')
    importlib.reload(repair)
    assert SSDHead.loss_cls is None
    monkeypatch.setattr(SSDHead, 'loss_cls', 'its own')
    importlib.reload(repair)
    assert SSDHead.loss_cls == 'its own'


def test_custom_imports_of_the_base_stay(tmp_path):
    (tmp_path / 'base.py').write_text(
        f"_base_ = '{SSD}'\ncustom_imports = dict(imports='mmfreq.ops', allow_failed_imports=False)\n"
    )
    imports = mix(tmp_path / 'base.py', 'hornet-micro').config.custom_imports
    assert imports == {'imports': ['mmfreq.ops', SSD_REPAIR], 'allow_failed_imports': False}


@pytest.mark.parametrize(
    ('base', 'arch', 'options', 'facts'),  # options of the backbone
    [
        (FPN, 'hornet-tinny-gf', {}, ("'hornet-tinny-gf'", ' hornet-tiny-gf')),
        (FPN, 'hornet-micro', {'depth': 50}, ('mmfreq.HorNet', ' depth', 'arch, in_channels, out_indices')),
        (FPN, 'hornet-micro', {'spectral': 'fast'}, ("spectral 'fast'", ' auto')),
        (FPN, 'hornet-micro', {'arch': 'x'}, ('model.backbone.arch',)),
        (FPN, 'hornet-micro', {'out_indices': [2, 3]}, ('4 maps', 'model.backbone.out_indices=[2, 3]')),
        (FPN, 'hornet-micro', {'out_indices': 3}, ('mmfreq.HorNet', 'out_indices')),
        (MLA, 'hornet-micro', {}, ('MLANeck', 'stride', '[4, 8, 16, 32]')),
        (C4, 'hornet-micro', {}, ('FPN',)),
        (
            'mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py',
            'hornet-micro',
            {},
            ('[2, 1]', '[4, 8, 16, 32]'),
        ),
        (
            'mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py',
            'gfnet-h-micro',
            {},
            ('[2, 4, 8]',),
        ),
        (
            'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
            'hornet-micro',
            {},
            ('model.backbone', 'model.detector'),
        ),
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x.py',
            'hornet-micro',
            {},
            ("'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x.py'", MASK_RCNN),
        ),
        ('mmdet::mask-rcnn_r50_fpn_1x_coco.py', 'hornet-micro', {}, (MASK_RCNN,)),
        ('mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py', 'hornet-micro', {}, ('path',)),
        ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'hornet-micro', {}, ("'mmpretrain'", 'mmseg::')),
        ('no/such.py', 'hornet-micro', {}, ("'no/such.py'", ' /')),
    ],
)
def test_refused(base, arch, options, facts):
    with pytest.raises((UserError, ValueError)) as error:
        mix(base, arch, options={f'model.backbone.{key}': value for key, value in options.items()})
    assert all(fact in str(error.value) for fact in facts), error.value


@pytest.mark.parametrize(
    ('text', 'facts'),
    [
        (
            "default_scope = 'mmpretrain'\nmodel = dict(backbone=dict(type='ResNet'))",
            ("default_scope 'mmpretrain'", 'mmseg', 'mmdet'),
        ),
        (
            "default_scope = 'mmseg'\nmodel = dict(type='X')",
            ('model.backbone',),
        ),
        (
            "default_scope = 'mmseg'\nmodel = dict(backbone=dict(type='ResNet', depth=18))",
            ('neck', 'head', 'in_channels'),
        ),
        (
            "default_scope = 'mmseg'\nmodel = dict(backbone=dict(type='NoSuchNet'))",
            ('NoSuchNet',),
        ),
        (
            f"_base_ = '{FPN}'\nmodel = dict(neck=dict(in_channels=[1, 2, 3, 4]))",
            ('model.neck', 'FPN', 'in_channels=[1, 2, 3, 4]', '[256, 512, 1024, 2048]'),
        ),
        (
            f"_base_ = '{UPERNET}'\nmodel = dict(auxiliary_head=dict(in_channels=5))",
            ('model.auxiliary_head', 'FCNHead', 'in_channels=5', '[1024]'),
        ),
        (
            f"_base_ = '{UPERNET}'\nmodel = dict(auxiliary_head=dict(in_index=9))",
            ('model.auxiliary_head.in_index', '9', '4 maps'),
        ),
    ],
)
def test_a_base_that_cannot_be_mixed(tmp_path, text, facts):
    (tmp_path / 'base.py').write_text(text)
    with pytest.raises(UserError) as error:
        mix(tmp_path / 'base.py', 'hornet-micro')
    assert all(fact in str(error.value) for fact in facts), error.value


def test_number_of_layer_groups_is_that_of_the_backbones():
    from mmfreq.config import mix as module
    from mmfreq.models import _base

    assert module.LAYER_GROUPS == _base.LAYER_GROUPS
