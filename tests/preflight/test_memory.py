"""The lower bound of memory, compared with what a real training step saves and with devices."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.autograd.graph import saved_tensors_hooks

from mmfreq.config.meta_model import build_model_on_meta
from mmfreq.engine.launch import load_config
from mmfreq.preflight import resources
from mmfreq.preflight.resources import DeviceMemoryError, check_memory, least_bytes, saved_bytes, training_crop

ARCHS = {  # channels of the four stages
    'hornet-micro': ('HorNet', [16, 32, 64, 128]),
    'gfnet-h-micro': ('GFNetPyramid', None),
    'dfformer-micro': ('DFFormer', None),
    'cdfformer-micro': ('DFFormer', None),
    'affnet-micro': ('AFFNet', None),
}


def segmentor(cfg, arch):
    """The toy config's model with another backbone, and an auxiliary head."""
    from mmfreq.models._factory import build_backbone

    name, channels = ARCHS[arch]
    channels = channels or list(build_backbone(arch).out_channels)
    cfg.model.backbone = {'type': f'mmfreq.{name}', 'arch': arch}
    cfg.model.decode_head.update(in_channels=channels, norm_cfg={'type': 'BN'})
    cfg.model.auxiliary_head = {
        **{'type': 'FCNHead', 'in_channels': channels[2], 'in_index': 2, 'channels': 8, 'num_convs': 1, 'num_classes': 6},
        **{'norm_cfg': {'type': 'BN'}, 'align_corners': False, 'loss_decode': {'type': 'CrossEntropyLoss'}},
    }
    return cfg


def measured_bytes(model, run, images):
    """Bytes of the storages that autograd saves while a real model computes its losses."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = run()
    assert losses
    own = {tensor.untyped_storage().data_ptr() for tensor in [images, *model.parameters(), *model.buffers()]}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in own)


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'batch'), [*((arch, 3) for arch in ARCHS), ('hornet-micro', 1)])
def test_saved_bytes_of_segmentors(cfg, arch, batch):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg, size = segmentor(cfg, arch), (96, 64)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(copy.deepcopy(cfg.model)).train()
    if batch == 1:  # a norm of a map of one pixel would fail
        model.decode_head.eval()
    images = torch.rand(batch, 3, *size)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 6, (1, *size))))
    sample.set_metainfo({'img_shape': size})
    real = measured_bytes(model, lambda: model.loss(images, [sample] * batch), images)
    estimated = saved_bytes(build_model_on_meta(cfg), batch, size)
    print(f'{arch}, batch {batch}: {estimated / real:.3f} of {real} bytes')
    assert 0.8 * real < estimated <= 1.02 * real


def test_saved_bytes_of_a_detector_is_a_lower_bound():
    from mmdet.testing import demo_mm_inputs

    cfg = load_config('configs/det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(cfg.model)).train()
        data = demo_mm_inputs(2, image_shapes=[(3, 160, 192)] * 2, num_classes=5, with_mask=True)
        data = model.data_preprocessor(data, training=True)
    real = measured_bytes(model, lambda: model.loss(data['inputs'], data['data_samples']), data['inputs'])
    estimated = saved_bytes(build_model_on_meta(cfg), 2, (160, 192))
    print(f'mask r-cnn: {estimated / real:.3f} of {real} bytes')
    assert 0.3 * real < estimated < real  # the second stage is not counted


def test_saved_bytes_of_a_classifier():
    from mmpretrain.structures import DataSample

    model = {'type': 'mmfreq.FrequencyImageClassifier', 'arch': 'hornet-micro', 'num_classes': 10}
    cfg = Config({'default_scope': 'mmpretrain', 'model': model})
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        real_model = MODELS.build(copy.deepcopy(cfg.model)).train()
    images = torch.rand(4, 3, 64, 64)
    samples = [DataSample().set_gt_label(1)] * 4
    real = measured_bytes(real_model, lambda: real_model.loss(images, samples), images)
    estimated = saved_bytes(build_model_on_meta(cfg), 4, (64, 64))
    print(f'classifier: {estimated / real:.3f} of {real} bytes')
    assert 0.9 * real < estimated <= real


def test_least_bytes_is_the_sum_of_its_parts(cfg):
    model = build_model_on_meta(cfg)
    kept = saved_bytes(model, 2, (64, 64))
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    gradients = sum(parameter.nbytes for parameter in model.parameters())
    assert least_bytes(cfg, model) == weights + 3 * gradients + kept  # AdamW
    cfg.optim_wrapper = {'type': 'AmpOptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    assert least_bytes(cfg, model) == weights + gradients + kept // 2
    cfg.custom_hooks = [{'type': 'EMAHook'}]
    assert least_bytes(cfg, model) == 2 * weights + gradients + kept // 2
    model.backbone.memory_efficient = True
    assert least_bytes(cfg, model) == 2 * weights + gradients + int(kept // 2 * resources.MEMORY_EFFICIENT)


def test_more_memory_than_the_device_has_is_refused(cfg, report, monkeypatch):
    model = build_model_on_meta(cfg)
    needed = least_bytes(cfg, model)
    monkeypatch.setattr(resources, 'device_memory', lambda: (needed, needed, 'cuda:0 (A card)'))
    check_memory(cfg, report, model)
    assert not report.warnings and 'for a batch of 2 at 64x64; cuda:0 (A card)' in report.facts['memory']
    monkeypatch.setattr(resources, 'device_memory', lambda: (needed, needed - 1, 'cuda:0 (A card)'))
    check_memory(cfg, report, model)
    assert 'free' in report.warnings[0]
    monkeypatch.setattr(resources, 'device_memory', lambda: (needed - 1, needed - 1, 'cuda:0 (A card)'))
    with pytest.raises(DeviceMemoryError) as error:
        check_memory(cfg, report, model)
    message = str(error.value)
    assert 'batch of 2 at 64x64' in message and 'at least' in message
    assert 'train_dataloader.batch_size' in message and 'memory_efficient=True' in message and 'with_cp=True' in message


def test_processes_share_the_memory_of_the_computer(cfg, report, monkeypatch):
    model = build_model_on_meta(cfg)
    needed = least_bytes(cfg, model)
    monkeypatch.setattr(resources, 'device_memory', lambda: (2 * needed - 1, None, 'this computer'))
    check_memory(cfg, report, model)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(DeviceMemoryError, match='2 processes'):
        check_memory(cfg, report, model)


def test_a_model_that_reads_values_is_skipped(cfg, report):
    class ReadsValues(torch.nn.Module):
        def forward(self, images, mode):
            return torch.nonzero(images).numpy()

    check_memory(cfg, report, ReadsValues())
    assert 'model' in report.facts['memory']
    del cfg.model.data_preprocessor['size']
    check_memory(cfg, report, build_model_on_meta(cfg))
    assert 'pipeline' in report.facts['memory']


@pytest.mark.gpu
def test_memory_of_a_gpu():
    total, free, name = resources.device_memory()
    assert 2**30 < free <= total and name.startswith('cuda:0')


@pytest.mark.parametrize(
    ('pipeline', 'size'),
    [
        ([{'type': 'RandomCrop', 'crop_size': (480, 640)}], (480, 640)),
        ([{'type': 'Resize', 'scale': (640, 480)}, {'type': 'RandomFlip'}], (480, 640)),
        ([{'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True}], (800, 800)),
        ([{'type': 'RandomChoiceResize', 'scales': [(480, 1333), (800, 1333)], 'keep_ratio': True}], (480, 480)),
        ([{'type': 'RandomResizedCrop', 'scale': 224}], (224, 224)),
        (
            [{'type': 'RandomResize', 'scale': (2048, 512), 'ratio_range': (0.5, 2.0)}, {'type': 'RandomCrop', 'crop_size': 512}],
            (512, 512),
        ),
        (
            [{'type': 'RandomChoice', 'transforms': [[{'type': 'Resize', 'scale': 96}], [{'type': 'Resize', 'scale': 64}]]}],
            (64, 64),
        ),
        ([{'type': 'RandomFlip'}], None),
        ([{'type': 'Resize', 'scale_factor': 1.0}], None),
    ],
)
def test_training_crop(pipeline, size):
    dataset = {
        'type': 'RepeatDataset',
        'times': 2,
        'dataset': {'type': 'D', 'pipeline': [{'type': 'LoadImageFromFile'}, *pipeline]},
    }
    cfg = Config({'model': {}, 'train_dataloader': {'dataset': dataset}})
    assert training_crop(cfg) == size
    cfg.model.data_preprocessor = {'size': (32, 64)}
    assert training_crop(cfg) == (32, 64)


@pytest.mark.slow
def test_bound_of_a_published_config():
    cfg = load_config('configs/seg/dfformer/dfformer-s18_fpn_8xb4-40k_ade20k-512x512.py')
    assert 1 < math.log2(least_bytes(cfg, build_model_on_meta(cfg)) / 2**29) < 4
