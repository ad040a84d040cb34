"""Heads of segmentors: channels, losses, ignored labels, and the evaluator."""

import re

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from mmfreq.errors import DataError
from mmfreq.preflight.seg_heads import check_heads
from mmfreq.testing.toy_segmentation import toy_segmentor

LOADERS = ('train_dataloader', 'val_dataloader')
CE = {'type': 'CrossEntropyLoss', 'loss_weight': 1.0}
SIGMOID = {**CE, 'use_sigmoid': True}
DICE, TVERSKY, LOVASZ = {'type': 'DiceLoss'}, {'type': 'TverskyLoss'}, {'type': 'LovaszLoss', 'reduction': 'none'}
OHEM = {'type': 'OHEMPixelSampler', 'min_kept': 100}
ONE_MAP = r"two classes, .*num_classes=2, out_channels=1, threshold=0\.5, .*'CrossEntropyLoss', use_sigmoid=True"


@pytest.fixture
def segmentor():
    """`segmentor(head, aux, ...)`: a config with a model of two classes and datasets that are not read."""

    def make(head=(), aux=None, evaluator=None, classes=('background', 'thing'), preprocessor=(), save_best=None):
        model = toy_segmentor(num_classes=2)
        model['decode_head'].update(head)
        model['data_preprocessor'].update(preprocessor)
        if aux is not None:
            model['auxiliary_head'] = {'type': 'FCNHead', 'num_classes': 2, 'loss_decode': CE, **aux}
        dataset = {'type': 'BaseSegDataset', **({'metainfo': {'classes': classes}} if classes else {})}
        return Config(
            {
                'default_scope': 'mmseg',
                'model': model,
                'val_evaluator': evaluator or {'type': 'IoUMetric'},
                'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'save_best': save_best}},
                **{loader: {'dataset': dataset} for loader in LOADERS},
            }
        )

    return make


REFUSED = {
    'one class': ({'num_classes': 1}, rf'num_classes=1, which mmseg trains.*IoUMetric.*{ONE_MAP}'),
    'one class, sigmoid': ({'num_classes': 1, 'loss_decode': SIGMOID}, ONE_MAP),
    'one class, one channel': ({'num_classes': 1, 'out_channels': 1, 'loss_decode': SIGMOID}, ONE_MAP),
    'other channels': ({'num_classes': 3, 'out_channels': 2}, r'num_classes=3 and out_channels=2; expected out_channels=3'),
    'three classes in one channel': ({'num_classes': 3, 'out_channels': 1, 'loss_decode': SIGMOID}, r'out_channels=1; expected'),
    'softmax of one channel': ({'out_channels': 1}, rf'CrossEntropyLoss of .* cannot be computed.*IndexError.*{ONE_MAP}'),
    'Dice of one channel': (
        {'out_channels': 1, 'loss_decode': DICE},
        rf'DiceLoss of .* is 0\.98 for right.*the opposite.*{ONE_MAP}',
    ),
    'Dice that outweighs the sigmoid of one channel': (
        {'out_channels': 1, 'loss_decode': [SIGMOID, {**DICE, 'loss_weight': 99.0}]},
        r'sum of the losses CrossEntropyLoss and DiceLoss of .* is .*the opposite',
    ),
    'Tversky of one channel': ({'out_channels': 1, 'loss_decode': TVERSKY}, r'TverskyLoss of .* is 0\.00 .*learn nothing'),
    'Lovasz of one channel': ({'out_channels': 1, 'loss_decode': LOVASZ}, r'LovaszLoss of .* cannot be computed.*ValueError'),
    'binary Lovasz of two channels': ({'loss_decode': {**LOVASZ, 'loss_type': 'binary'}}, r'LovaszLoss of .* cannot be computed'),
    'too many weights': (
        {'loss_decode': {**CE, 'class_weight': [1.0, 2.0, 3.0]}},
        r'expected 2 numbers, one for each class, in class_weight.*got 3',
    ),
    'one weight': ({'loss_decode': {**CE, 'class_weight': [1.0]}}, r'expected 2 numbers.*got 1'),
    'too many weights of Tversky': ({'loss_decode': {**TVERSKY, 'class_weight': [1.0] * 3}}, r'expected 2 numbers.*Tversky.*got 3'),
    'weights of classes, sigmoid': (
        {'loss_decode': {**SIGMOID, 'class_weight': [1.0, 2.0]}},
        r'expected one number, the weight of positive.*got 2',
    ),
    'weights in a file that is missing': (
        {'loss_decode': {**CE, 'class_weight': 'gone.npy'}},
        r'cannot be computed.*FileNotFoundError',
    ),
    'OHEM of one channel': (
        {'sampler': {**OHEM, 'thresh': 0.7}, 'out_channels': 1, 'loss_decode': SIGMOID},
        r'cannot be computed.*OHEMPixelSampler.*out of bounds.*`thresh`',
    ),
    'OHEM and Dice': (
        {'sampler': OHEM, 'loss_decode': DICE},
        r'DiceLoss of .* cannot be computed.*sampler OHEMPixelSampler.*Remove the sampler',
    ),
    'OHEM and two sigmoids': ({'sampler': OHEM, 'loss_decode': SIGMOID}, r'CrossEntropyLoss of .* cannot.*OHEMPixelSampler'),
    'a loss of other heads': (
        {'loss_decode': {'type': 'OhemCrossEntropy'}},
        r"OhemCrossEntropy of .* cannot be computed.*'weight'",
    ),
    'an unknown option': (
        {'loss_decode': {**DICE, 'class_weight': [1.0, 1.0]}},
        r"DiceLoss of .* cannot be computed.*'class_weight'",
    ),
}


@pytest.mark.parametrize('case', REFUSED)
@pytest.mark.parametrize('part', ['decode_head', 'auxiliary_head'])
def test_heads_that_mmseg_cannot_train_or_score(segmentor, report, case, part):
    head, pattern = REFUSED[case]
    cfg = segmentor(head) if part == 'decode_head' else segmentor(aux=head)
    with pytest.raises(DataError, match=pattern) as error:
        check_heads(cfg, report, LOADERS)
    assert f'model.{part}' in str(error.value)


class Custom(torch.nn.Module):
    """A loss that is not of mmseg, and that a trial on a few pixels cannot judge."""

    loss_name = 'loss_custom'


@MODELS.register_module()
class Flatness(Custom):
    def forward(self, logits, labels, weight=None, ignore_index=255):
        return logits.softmax(1).square().mean()  # lower for uncertain predictions


@MODELS.register_module()
class OfThisIteration(Custom):
    def forward(self, logits, labels, weight=None, ignore_index=255):
        return logits.mean() * MessageHub.get_current_instance().get_info('iter')


@MODELS.register_module()
class OfSize64(Custom):
    def forward(self, logits, labels, weight=None, ignore_index=255):
        return (logits * torch.ones(64, 64)).mean()


FINE = {
    'softmax': {},
    'three classes': {'num_classes': 3},
    'sigmoid of one channel': {'out_channels': 1, 'threshold': 0.5, 'loss_decode': SIGMOID},
    'sigmoid of one channel, weighted': {'out_channels': 1, 'threshold': 0.5, 'loss_decode': {**SIGMOID, 'class_weight': [3.0]}},
    'sigmoid of two channels': {'loss_decode': SIGMOID},
    'binary Lovasz of one channel': {'out_channels': 1, 'threshold': 0.5, 'loss_decode': {**LOVASZ, 'loss_type': 'binary'}},
    'several losses': {'loss_decode': [CE, DICE, TVERSKY, LOVASZ]},
    'a loss without weight': {'out_channels': 1, 'threshold': 0.5, 'loss_decode': [SIGMOID, {**DICE, 'loss_weight': 0}]},
    'weights of classes': {'loss_decode': {**CE, 'class_weight': [1.0, 0.0]}},
    'OHEM': {'sampler': {**OHEM, 'thresh': 0.7}},
    'OHEM by the loss, of one channel': {'sampler': OHEM, 'out_channels': 1, 'threshold': 0.5, 'loss_decode': SIGMOID},
    'averaged over the labeled pixels': {'loss_decode': {**CE, 'avg_non_ignore': True}},
    'FocalLoss without weight': {'loss_decode': [CE, {'type': 'FocalLoss', 'loss_weight': 0}]},
    'distances of edges': {'num_classes': 9, 'loss_decode': [CE, {'type': 'HuasdorffDisstanceLoss', 'loss_weight': 50.0}]},
    'a regularizer': {'loss_decode': [CE, {'type': 'Flatness'}]},
    'a loss of this iteration': {'loss_decode': [CE, {'type': 'OfThisIteration'}]},
    'a loss of a certain size': {'loss_decode': {'type': 'OfSize64'}},
    'a head with its own losses': {
        'type': 'Mask2FormerHead',
        'num_classes': 1,
        'loss_decode': {**CE, 'class_weight': [1.0, 1.0, 0.1]},
    },
}


@pytest.mark.parametrize('case', FINE)
def test_valid_heads_pass(segmentor, report, case):
    count = FINE[case].get('num_classes', 2)
    check_heads(segmentor(FINE[case], classes=tuple('abcdefghi')[: max(count, 2)]), report, LOADERS)
    assert not report.warnings and not report.notes


def test_one_of_several_losses_that_does_not_help_is_a_warning(segmentor, report):
    """In mmseg, Dice of a single channel is a constant, but the sigmoid loss next to it trains."""
    check_heads(segmentor({'out_channels': 1, 'threshold': 0.5, 'loss_decode': [SIGMOID, DICE]}), report, LOADERS)
    (warning,) = report.warnings
    assert 'DiceLoss of model.decode_head is' in warning and 'one of several losses' in warning


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_loss_for_a_gpu_is_a_warning_without_one(segmentor, report, monkeypatch, device):
    monkeypatch.setattr('mmfreq.preflight.seg_heads.get_device', lambda: device)
    check_heads(segmentor({'loss_decode': {'type': 'FocalLoss'}}), report, LOADERS)
    assert [bool(re.search(r'decode_head: mmseg computes FocalLoss on a GPU only', text)) for text in report.warnings] == [True] * (
        device == 'cpu'
    )


def test_one_class_is_left_to_another_metric(segmentor, report):
    cfg = segmentor({'num_classes': 1, 'out_channels': 1, 'loss_decode': SIGMOID}, evaluator={'type': 'MyMetric'})
    check_heads(cfg, report, LOADERS)
    assert len(report.warnings) == 1 and 'num_classes=1' in report.warnings[0]


def test_random_numbers_of_the_run_are_not_used(segmentor, report):
    state = torch.random.get_rng_state()
    check_heads(segmentor(), report, LOADERS)
    assert torch.equal(state, torch.random.get_rng_state())


WARNED = {  # head, other options -> what the warning says
    'the metric ignores another label': (
        {'ignore_index': 9},
        {'preprocessor': {'seg_pad_val': 9}},
        r'ignore_index=9, but val_evaluator 255',
    ),
    'the auxiliary head ignores another label': (
        {},
        {'aux': {'ignore_index': 0}},
        r'ignore_index=255, but model\.auxiliary_head 0',
    ),
    'a class is ignored': (
        {'ignore_index': 0},
        {'evaluator': {'type': 'IoUMetric', 'ignore_index': 0}, 'preprocessor': {'seg_pad_val': 0}},
        r'ignore_index=0, which is a class.*reduce_zero_label=True',
    ),
    'padding is trained': ({}, {'preprocessor': {'seg_pad_val': 0}}, r'seg_pad_val=0, but .*ignore_index=255.*seg_pad_val=255'),
}


@pytest.mark.parametrize('case', WARNED)
def test_ignored_labels_that_differ_are_a_warning(segmentor, report, case):
    head, options, pattern = WARNED[case]
    check_heads(segmentor(head, **options), report, LOADERS)
    assert len(report.warnings) == 1 and re.search(pattern, report.warnings[0])


def test_more_classes_than_the_data_and_a_missing_threshold_are_notes(segmentor, report):
    check_heads(segmentor({'num_classes': 150}), report, LOADERS)
    (note,) = report.notes
    assert 'train_dataloader.dataset has 2 classes' in note and 'num_classes=150' in note
    report.notes.clear()
    check_heads(segmentor({'out_channels': 1, 'loss_decode': SIGMOID}), report, LOADERS)
    assert len(report.notes) == 1 and '0.3' in report.notes[0]


EVALUATORS = {
    'unknown score': ({'evaluator': {'type': 'IoUMetric', 'iou_metrics': ['IoU']}}, r"mIoU, mDice, mFscore, got 'IoU'"),
    'unknown score as a string': ({'evaluator': {'type': 'mmseg.IoUMetric', 'iou_metrics': 'iou'}}, r"got 'iou'"),
    'best by a score that is not computed': ({'save_best': 'mDice'}, r"save_best='mDice'.*aAcc, mIoU, mAcc"),
    'best by a score without its prefix': (
        {'save_best': 'mIoU', 'evaluator': [{'type': 'IoUMetric', 'prefix': 'a'}]},
        r"save_best='mIoU'.*a/mIoU",
    ),
    'no names': ({'classes': None}, r'val_dataloader\.dataset \(BaseSegDataset\) names no classes'),
    'one name': ({'classes': ('thing',)}, rf"val_dataloader\.dataset has one class, 'thing'.*{ONE_MAP}"),
}


@pytest.mark.parametrize('case', EVALUATORS)
def test_evaluators_that_fail_after_the_first_epoch(segmentor, report, case):
    options, pattern = EVALUATORS[case]
    with pytest.raises(DataError, match=pattern):
        check_heads(segmentor(**options), report, LOADERS)


@pytest.mark.parametrize(
    'options',
    [
        {'save_best': 'mIoU'},
        {'save_best': 'auto'},
        {'save_best': ['aAcc', 'mFscore'], 'evaluator': {'type': 'IoUMetric', 'iou_metrics': ['mIoU', 'mFscore']}},
        {'save_best': 'mine', 'evaluator': [{'type': 'IoUMetric'}, {'type': 'MyMetric'}]},
    ],
)
def test_valid_evaluators_pass(segmentor, report, options):
    check_heads(segmentor(**options), report, LOADERS)


@pytest.mark.parametrize('threshold', [0.5, 0.9999])
def test_the_form_for_one_sigmoid_map_trains_and_is_scored_rightly(threshold):
    """mmseg itself: two classes, `out_channels=1`; the threshold decides what is the object."""
    model, scores = train({'out_channels': 1, 'threshold': threshold, 'loss_decode': SIGMOID})
    assert model.decode_head.conv_seg.out_channels == 1
    assert (scores['mIoU'] > 90) == (threshold == 0.5) and (scores['mIoU'] == 25) == (threshold > 0.5)


def test_dice_loss_of_one_channel_learns_the_opposite():
    from mmseg.models.losses import DiceLoss

    labels = torch.tensor([[[0, 1, 1, 0]]])
    right = labels[:, None] * 8.0 - 4
    assert DiceLoss()(right, labels) > 0.9 and DiceLoss()(-right, labels) < 0.1


def train(head):
    """A small segmentor after 60 iterations on images whose right half is the object, and its scores."""
    from mmengine.structures import PixelData
    from mmseg.evaluation import IoUMetric
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    labels = torch.zeros(4, 1, 64, 64, dtype=torch.long)
    labels[..., 32:] = 1
    cfg = ConfigDict(toy_segmentor(norm='BN', num_classes=2))
    cfg.decode_head.update(head)
    model = MODELS.build(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)

    def batch():
        images = labels.expand(4, 3, 64, 64) * 200 + torch.rand(4, 3, 64, 64) * 20
        samples = [SegDataSample(metainfo={'img_shape': (64, 64), 'ori_shape': (64, 64)}) for _ in labels]
        for sample, label in zip(samples, labels, strict=True):
            sample.gt_sem_seg = PixelData(data=label)
        return {'inputs': list(images.byte()), 'data_samples': samples}

    for _ in range(60):
        loss, _ = model.parse_losses(model(**model.data_preprocessor(batch(), True), mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    metric = IoUMetric()
    metric.dataset_meta = {'classes': ('background', 'thing')}
    metric.process({}, [sample.to_dict() for sample in model.test_step(batch())])
    return model, {key: round(float(value), 1) for key, value in metric.evaluate(4).items()}
