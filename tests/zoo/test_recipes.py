"""The recipe read from a config, for all the ways in which a config can state it."""

import pytest

from mmfreq.zoo.recipes import describe, recipe

CONFIG = """
model = dict(backbone=dict(drop_path_rate=0.3), test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-5, begin=0, end=101, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=[]))
test_dataloader = dict(dataset=dict(pipeline=[]))
"""
CHANGES = {
    "optim_wrapper.update(type='AmpOptimWrapper')": {'mixed precision': True},
    'optim_wrapper.update(accumulative_counts=4)': {'batch': 32},
    'optim_wrapper.update(clip_grad=dict(max_norm=0.1))': {'clip': 0.1},
    'optim_wrapper.update(paramwise_cfg=dict(norm_decay_mult=0.0))': {'undecayed': 'norms'},
    'optim_wrapper.update(paramwise_cfg=dict(norm_decay_mult=0.0, flat_decay_mult=0.0))': {'undecayed': 'vectors and biases'},
    "optim_wrapper.update(paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}))": {'layer decay': 'head x 10'},
    "optim_wrapper.update(constructor='mmfreq.LayerDecayOptimWrapperConstructor', "
    "paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6))": {
        'layer decay': 'stage_wise 0.9, 6 layers',
        'undecayed': 'vectors and biases',
    },
    "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)": {'duration': '12 epochs'},
    "param_scheduler.insert(0, dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=501))": {'warm-up': '500 iterations'},
    "param_scheduler.insert(0, dict(type='LinearLR', start_factor=0.1, end=6))": {'warm-up': '5 epochs'},
    "param_scheduler.insert(0, dict(type='LinearLR', start_factor=0.1, end=20, convert_to_iter_based=True))": {
        'warm-up': '20 epochs'
    },
    "param_scheduler = [dict(type='MultiStepLR', milestones=[8, 11])]": {'schedule': 'x 0.1 at 8, 11'},
    "param_scheduler = [dict(type='CosineAnnealingLR', eta_min=1e-6, begin=20, end=300)]": {
        'schedule': 'cosine to 1e-06, from 20 epochs on'
    },
    "param_scheduler = [dict(type='OneCycleLR', eta_max=1.0)]": {'schedule': 'OneCycleLR'},
    'param_scheduler = []': {'schedule': 'constant'},
    "custom_hooks = [dict(type='EMAHook', momentum=1e-4)]": {'averaged weights': 1e-4},
    "model['test_cfg'] = dict(mode='slide', crop_size=(512, 512), stride=(341, 341))": {'test images': 'slide 512x512 by 341x341'},
    "train_dataloader['dataset'] = dict(datasets=[dict(dataset=dict(pipeline=[dict(type='CenterCrop', crop_size=7)]))])": {
        'training images': 'center 7'
    },
}
DEFAULT = {
    'optimizer': 'AdamW',
    'lr': 1e-3,
    'weight decay': 0.05,
    'undecayed': 'nothing',
    'layer decay': 'none',
    'gpus': 4,
    'batch': 8,
    'duration': '100 iterations',
    'warm-up': 'none',
    'schedule': 'poly 0.9 to 1e-05',
    'clip': 'none',
    'mixed precision': False,
    'averaged weights': 'none',
    'drop path': 0.3,
    'training images': '',
    'test images': 'whole',
}


@pytest.mark.parametrize(('change', 'wanted'), [('', {}), *CHANGES.items()])
def test_recipe(change, wanted, tmp_path):
    path = tmp_path / 'arch_head_4xb2-100_data.py'
    path.write_text(CONFIG + change)
    assert recipe(path) == DEFAULT | wanted


def test_a_file_name_without_gpus_is_refused(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(CONFIG)
    with pytest.raises(ValueError, match=r'_<gpus>xb<images>-.*mine\.py'):
        recipe(path)


SIDES = [(side, 1333) for side in range(480, 801, 32)]


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([dict(type='LoadImageFromFile'), dict(type='PackSegInputs')], ''),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], 'within 1333x800'),
        ([dict(type='mmdet.Resize', scale=(320, 320), keep_ratio=False)], 'warp to 320x320'),
        ([dict(type='Resize', scale_factor=1.0)], 'x 1.0'),
        (
            [dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0)), dict(type='RandomCrop', crop_size=(512, 512))],
            'within 2048x512 x 0.5-2, crop 512x512',
        ),
        (
            [dict(type='RandomChoice', transforms=[[dict(type='RandomChoiceResize', scales=SIDES)], [dict(type='Unheard')]])],
            '(shorter side 480-800 step 32, longer to 1333) or (Unheard)',
        ),
        ([dict(type='RandomChoiceResize', scales=[(400, 1333), (600, 1333)])], 'shorter side 400/600, longer to 1333'),
        ([dict(type='RandomFlip', prob=[0.3, 0.3])], 'flip 0.3x0.3'),
        ([dict(type='mmfreq.ResizeDownToMultiple', size_divisor=16)], 'down to multiples of 16'),
        ([dict(type='Pad', size_divisor=32), dict(type='Pad', size=(512, 512))], 'pad to multiples of 32, pad to 512x512'),
    ],
)
def test_description_of_pipelines(steps, words):
    assert describe(steps) == words
