"""Test-time augmentation of detectors: an image and its mirror image, whose boxes are merged."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmfreq.engine.evaluation import use_tta, with_flips
from mmfreq.engine.launch import build_runner, evaluate, load_config, prepare_test
from mmfreq.errors import UserError
from tests.configs.reading import CONFIGS, read_config
from tests.engine.box_detector import write_config, write_images

RETINANET = CONFIGS / 'det/dfformer/dfformer-micro_retinanet_1xb2-32e_fruits-nuts-240x320.py'
MASK_RCNN = CONFIGS / 'det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
CASCADE = CONFIGS / 'det/hornet/hornet-tiny-gf_cascade-mask-rcnn_8xb2-ms-crop-3x_coco.py'


@pytest.fixture
def boxes(tmp_path):
    """Config and checkpoint of a `BoxDetector`, and three images: boxes on the left, on the right, none."""
    write_images(tmp_path, [[(0, 2, 4, 10, 12)], [(0, 26, 6, 12, 10)], []])
    return write_config(tmp_path)


@pytest.mark.parametrize('plain', [False, True])
def test_boxes_of_both_views_are_merged(boxes, tmp_path, plain):
    """A detector that sees the left half only finds every box in one of the two views."""
    options = {'work_dir': tmp_path / 'w', 'plain': plain, 'cfg_options': {'model.sees': 0.5}}
    assert evaluate(*boxes, **options)['coco/bbox_mAP'] == pytest.approx(0.5, abs=0.01)
    assert evaluate(*boxes, tta=True, **options)['coco/bbox_mAP'] == 1


def test_a_symmetric_detector_has_the_same_score(boxes, tmp_path):
    """The boxes of the two views are equal, and NMS keeps one of each."""
    one, other = (evaluate(*boxes, work_dir=tmp_path / 'w', tta=tta) for tta in (False, True))
    assert one == other and one['coco/bbox_mAP'] == 1


def test_tta_of_a_retinanet_is_equivariant_to_a_flip():
    cfg = read_config(RETINANET)
    cfg.model.test_cfg.update(score_thr=0.0, nms_pre=200)
    use_tta(cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)

    def predict(image):
        shape = {'ori_shape': (64, 64), 'img_shape': (64, 64), 'scale_factor': (1.0, 1.0), 'flip_direction': 'horizontal'}
        samples = [[DetDataSample(metainfo={**shape, 'flip': flip})] for flip in (True, False)]
        with torch.no_grad():
            found = model.test_step({'inputs': [[image.flip(-1)], [image]], 'data_samples': samples})[0].pred_instances
        return found.bboxes[:20], found.scores[:20]

    (boxes, scores), (mirrored, other) = predict(image), predict(image.flip(-1))
    assert len(boxes) == 20
    torch.testing.assert_close(other, scores)
    torch.testing.assert_close(bbox_flip(mirrored, (64, 64)), boxes, rtol=1e-4, atol=1e-3)


def test_the_steps_of_the_test_pipeline_are_kept():
    cfg = read_config(RETINANET)
    before = cfg.test_dataloader.dataset.pipeline
    use_tta(cfg)
    *steps, last = cfg.test_dataloader.dataset.pipeline
    assert steps == before[:-1] and [step.type for step in steps] == ['LoadImageFromFile', 'Resize', 'LoadAnnotations']
    flips, (pack,) = last.transforms
    assert [flip.prob for flip in flips] == [1.0, 0.0]
    assert pack.meta_keys == (*before[-1].meta_keys, 'flip', 'flip_direction')
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module.type == 'RetinaNet'
    assert cfg.model.tta_cfg.nms.iou_threshold == 0.5


def test_the_tta_of_the_config_is_used(boxes):
    cfg = load_config(boxes[0])
    cfg.tta_model = {'type': 'DetTTAModel', 'tta_cfg': {'max_per_img': 3}}
    cfg.tta_pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'PackDetInputs'}]
    use_tta(cfg)
    assert cfg.model.tta_cfg == {'max_per_img': 3} and cfg.test_dataloader.dataset.pipeline == cfg.tta_pipeline


def test_every_dataset_of_a_wrapper_gets_flips(boxes):
    cfg = load_config(boxes[0])
    leaf = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = {'type': 'ConcatDataset', 'datasets': [leaf, copy.deepcopy(leaf)]}
    use_tta(cfg)
    assert [each.pipeline[-1].type for each in cfg.test_dataloader.dataset.datasets] == ['TestTimeAug'] * 2


def masks(path):
    return lambda: read_config(path)


def of_boxes(change):
    def make():
        cfg = read_config(RETINANET)
        change(cfg)
        return cfg

    return make


# a config -> the error
REFUSED = {
    'Mask R-CNN': (masks(MASK_RCNN), r'merges boxes only.*mask-rcnn.*predicts masks.*model\.roi_head\.mask_head=None'),
    'Cascade Mask R-CNN': (masks(CASCADE), r'cascade-mask-rcnn.*predicts masks.*model\.roi_head\.mask_head=None'),
    'Mask R-CNN with its own tta_model': (
        lambda: Config({**read_config(MASK_RCNN), 'tta_model': {'type': 'DetTTAModel'}}),
        r'predicts masks',
    ),
    'masks without RoI head': (of_boxes(lambda cfg: cfg.model.update(mask_head={'type': 'SOLOHead'})), r'Use the config of a box'),
    'mask AP': (of_boxes(lambda cfg: cfg.test_evaluator.update(metric=['bbox', 'segm'])), r'Use the config of a box detector'),
    'another last step': (
        of_boxes(lambda cfg: cfg.test_dataloader.dataset.pipeline.append({'type': 'MyStep'})),
        r"ends with PackDetInputs.*'MyStep'.*Define tta_pipeline",
    ),
    'no pipeline': (of_boxes(lambda cfg: cfg.test_dataloader.dataset.update(pipeline=[])), r'last step is None'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_configs_without_tta_are_refused(case):
    make, pattern = REFUSED[case]
    with pytest.raises(UserError, match=pattern):
        use_tta(make())


def test_boxes_of_mask_rcnn():
    """The options that the refusal proposes."""
    cfg = read_config(MASK_RCNN)
    cfg.merge_from_dict({'model.roi_head.mask_head': None, 'test_evaluator.metric': 'bbox'})
    use_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'


def test_default_meta_keys_have_those_of_flips():
    *_, tta = with_flips([{'type': 'LoadImageFromFile'}, {'type': 'mmdet.PackDetInputs'}])
    assert tta['transforms'][1] == [{'type': 'mmdet.PackDetInputs'}]


def test_the_runner_of_a_tta_model_is_built(boxes, tmp_path):
    runner = build_runner(prepare_test(*boxes, work_dir=tmp_path / 'w', tta=True))
    assert type(runner.model).__name__ == 'DetTTAModel' and type(runner.model.module).__name__ == 'BoxDetector'
