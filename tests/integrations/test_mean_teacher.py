"""mmdet's SoftTeacher with a backbone of mmfreq: semi-supervised training, with its sampler, hook and validation loop."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch

from mmfreq.apis import load_model, load_predictor
from mmfreq.engine.dry_run import dry_run
from mmfreq.engine.launch import evaluate, train
from mmfreq.weights.in_configs import describe_start
from tests.integrations.toy_detection import LOAD, PACK, PACK_FLIPPED, RESIZE, add_validation, detection_config, source

BRANCHES = ['sup', 'unsup_teacher', 'unsup_student']
MOMENTUM = 0.25
FLIP = {'type': 'RandomFlip', 'prob': 0.5}
LABELED = [*LOAD, RESIZE, FLIP, {'type': 'MultiBranch', 'branch_field': BRANCHES, 'sup': PACK}]
WEAK = [RESIZE, FLIP, PACK_FLIPPED]
STRONG = [RESIZE, FLIP, {'type': 'PhotoMetricDistortion'}, PACK_FLIPPED]
UNLABELED = [
    LOAD[0],
    {'type': 'LoadEmptyAnnotations'},
    {'type': 'MultiBranch', 'branch_field': BRANCHES, 'unsup_teacher': WEAK, 'unsup_student': STRONG},
]


def semi_supervised_config(root, iterations=4, **fields):
    """The Config; thresholds of 0, so that the predictions of an untrained teacher are used."""
    labeled = source(root, 'labeled', LABELED)
    unlabeled = source(root, 'unlabeled', UNLABELED, filter_cfg={'filter_empty_gt': False})
    cfg = detection_config(root, {'type': 'ConcatDataset', 'datasets': [labeled, unlabeled]}, iterations=iterations)
    cfg.train_dataloader.sampler = {'type': 'GroupMultiSourceSampler', 'batch_size': 2, 'source_ratio': [1, 1]}
    detector, preprocessor = copy.deepcopy(cfg.model), copy.deepcopy(cfg.model.data_preprocessor)
    cfg.pop('model')
    cfg.model = {
        'type': 'SoftTeacher',
        'detector': detector,
        'data_preprocessor': {'type': 'MultiBranchDataPreprocessor', 'data_preprocessor': preprocessor},
        'semi_train_cfg': {
            'freeze_teacher': True, 'sup_weight': 1.0, 'unsup_weight': 4.0, 'min_pseudo_bbox_wh': (0.01, 0.01),
            'pseudo_label_initial_score_thr': 0.0, 'rpn_pseudo_thr': 0.0, 'cls_pseudo_thr': 0.0, 'reg_pseudo_thr': 100.0,
            'jitter_times': 2, 'jitter_scale': 0.06,
        },
        'semi_test_cfg': {'predict_on': 'teacher'},
    }  # fmt: skip
    cfg.custom_hooks = [{'type': 'MeanTeacherHook', 'momentum': MOMENTUM}]
    for name, value in fields.items():
        cfg[name] = value
    return cfg


@pytest.fixture(scope='module')
def run(coco, tmp_path_factory):
    """A folder with `toy.py`, and `whole`, the work directory of 4 iterations."""
    folder = tmp_path_factory.mktemp('teacher')
    semi_supervised_config(coco).dump(folder / 'toy.py')
    train(folder / 'toy.py', work_dir=folder / 'whole', seed=0)
    return folder


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def part(state, name):
    return {key.removeprefix(f'{name}.'): value for key, value in state.items() if key.startswith(f'{name}.')}


def test_teacher_follows_the_student(coco, tmp_path):
    """One step: teacher = (1 - momentum) * teacher + momentum * student, from equal weights. Note the sign: momentum is small."""
    cfg = semi_supervised_config(coco, iterations=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.dump(tmp_path / 'toy.py')
    runner = train(tmp_path / 'toy.py', work_dir=tmp_path / 'w', seed=0)
    assert {'train/sup_loss_cls', 'train/unsup_loss_cls', 'train/unsup_loss_rpn_cls'} <= set(runner.message_hub.log_scalars)
    states = [weights(tmp_path / 'w' / f'iter_{number}.pth') for number in (1, 2)]
    (first_teacher, first_student), (teacher, student) = (
        [part(state, name) for name in ('teacher', 'student')] for state in states
    )
    names = [name for name, _ in runner.model.teacher.named_parameters()]
    assert len(names) > 50 and any(not torch.equal(first_student[name], student[name]) for name in names)
    for name in names:
        want = (1 - MOMENTUM) * first_teacher[name] + MOMENTUM * student[name]
        torch.testing.assert_close(teacher[name], want, rtol=1e-6, atol=1e-8)
    assert all(p.grad is None and not p.requires_grad for p in runner.model.teacher.parameters())


def test_it_resumes_exactly(run, tmp_path):
    """Also the choice of upright or wide images, which the sampler draws from NumPy's global generator."""
    train(
        run / 'toy.py',
        work_dir=tmp_path / 'rest',
        resume=str(run / 'whole/iter_2.pth'),
        cfg_options={'train_dataloader.num_workers': 2},
    )
    whole, rest = weights(run / 'whole/iter_4.pth'), weights(tmp_path / 'rest/iter_4.pth')
    assert whole.keys() == rest.keys() and all(torch.equal(value, rest[name]) for name, value in whole.items())


def test_dry_run_and_validation_of_both(coco, tmp_path, capsys):
    """mmdet's loop for the validation stays when `make_resumable` replaces the train loop."""
    cfg = semi_supervised_config(coco, iterations=2)
    add_validation(cfg, coco, 'TeacherStudentValLoop')
    cfg.dump(tmp_path / 'toy.py')
    dry_run(tmp_path / 'toy.py', work_dir=tmp_path / 'dry')
    assert 'SoftTeacher' in capsys.readouterr().out
    runner = train(tmp_path / 'toy.py', work_dir=tmp_path / 'w', seed=0)
    assert type(runner.val_loop).__name__ == 'TeacherStudentValLoop' and runner.model.semi_test_cfg['predict_on'] == 'teacher'
    (log,) = (tmp_path / 'w').glob('*/vis_data/scalars.json')
    scores = [json.loads(line) for line in log.read_text().splitlines()][-1]
    assert {'teacher/coco/bbox_mAP', 'student/coco/bbox_mAP'} <= set(scores)


def test_the_detector_that_predicts_is_evaluated_and_loaded(run, coco, tmp_path):
    cfg = semi_supervised_config(coco)
    add_validation(cfg, coco)
    cfg.dump(tmp_path / 'toy.py')
    checkpoint = run / 'whole/iter_4.pth'
    scores = [evaluate(tmp_path / 'toy.py', checkpoint, work_dir=tmp_path / 'w', plain=plain) for plain in (False, True)]
    assert scores[0]['coco/bbox_mAP_50'] == pytest.approx(scores[1]['coco/bbox_mAP_50'], abs=2e-3)
    loaded = load_model(str(tmp_path / 'toy.py'), checkpoint)
    assert type(loaded.model).__name__ == 'MaskRCNN' and loaded.task == 'detection' and len(loaded.classes) == 5
    assert loaded.normalization.mean == (123.675, 116.28, 103.53) and type(loaded.backbone).__name__ == 'HorNet'
    teacher = part(weights(checkpoint), 'teacher')
    assert all(torch.equal(value, teacher[name]) for name, value in loaded.model.state_dict().items())
    image = cv2.imread(str(coco / 'wide/train2017/000000000001.jpg'))
    boxes = load_predictor(tmp_path / 'toy.py', checkpoint)(image)['boxes']
    assert len(boxes) and np.isfinite(boxes).all()


def test_the_log_names_the_weights_of_the_backbone(coco):
    cfg = semi_supervised_config(coco)
    assert describe_start(cfg) == 'The backbone starts from random values.'
    cfg.model.detector.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': 'mine.pth'}
    assert describe_start(cfg) == 'The backbone starts from mine.pth.'
