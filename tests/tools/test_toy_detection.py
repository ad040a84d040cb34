"""Detection with the four tools as a user calls them: toy data, training, testing, drawn boxes.

Shorter than the config's training: three of eight epochs, batches of two images, fewer proposals. Its mAP50 is about 0.6.
"""

import contextlib
import io
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmfreq.datasets import TOY_COCO_METAINFO

pytest.importorskip('mmdet')
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quiet_loggers')]
ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/det/hornet/hornet-micro_mask-rcnn_1xb4-8e_toy-160x192.py'
EPOCHS = 3
SHORT = (
    *(f'train_cfg.max_epochs={EPOCHS}', f'train_cfg.val_interval={EPOCHS}', f'default_hooks.checkpoint.interval={EPOCHS}'),
    *('param_scheduler.0.end=20', f'param_scheduler.1.end={EPOCHS}', 'train_dataloader.batch_size=2'),
    *('model.train_cfg.rpn_proposal.nms_pre=300', 'model.train_cfg.rpn_proposal.max_per_img=200'),
    'model.train_cfg.rcnn.sampler.num=64',
)
DRAWN = ('000000000001.jpg', '000000000002.jpg', '000000000003.jpg')


@pytest.fixture(scope='module')
def tool(tool_main, quiet_loggers):
    """`tool(folder, name, *arguments)`: calls a tool in `folder`; returns what it printed."""

    def call(folder, name, *arguments):
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.chdir(folder)
            assert not tool_main(name)(list(map(str, arguments)))
        return printed.getvalue()

    return call


@pytest.fixture(scope='module')
def run(tool, made_once):
    """A folder with data/toy_coco from the tool, work/ from training, test/ and found/ from testing."""
    return made_once('toy_detection', partial(run_tools, tool))


def run_tools(tool, folder):
    tool(folder, 'make_toy_dataset', 'coco', '--out', 'data/toy_coco', '--val', 16)
    tool(folder, 'train', ROOT / CONFIG, '--work-dir', 'work', '--seed', 0, '--cfg-options', *SHORT, *no_workers('train', 'val'))
    checkpoint = (folder / 'work/last_checkpoint').read_text()
    tool(folder, 'test', ROOT / CONFIG, checkpoint, '--work-dir', 'test', '--out', 'found', '--cfg-options', *no_workers('test'))


def no_workers(*loaders):
    return [f'{loader}_dataloader.{option}' for loader in loaders for option in ('num_workers=0', 'persistent_workers=False')]


def losses(folder):
    lines = next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [row['loss'] for row in map(json.loads, lines) if 'loss' in row]


def test_detector_learns(run):
    trained = losses(run / 'work')
    assert np.isfinite(trained).all() and trained[-1] < 0.6 * trained[0]
    (path,) = run.glob('test/*/*.json')
    scores = json.loads(path.read_text())
    assert scores['coco/bbox_mAP_50'] > 0.5
    assert scores['coco/segm_mAP_50'] > 0.5


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_written_predictions_have_the_printed_score(run, metric):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(run / 'data/toy_coco/annotations/instances_val2017.json'))
    found = truth.loadRes(str(run / f'found/results.{metric}.json'))
    evaluation = COCOeval(truth, found, metric)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    (path,) = run.glob('test/*/*.json')
    assert json.loads(path.read_text())[f'coco/{metric}_mAP'] == pytest.approx(evaluation.stats[0], abs=1e-3)


def test_drawn_detections_are_the_shapes(run, tool):
    paths = [run / 'data/toy_coco/val2017' / name for name in DRAWN]
    printed = tool(run, 'infer', ROOT / CONFIG, (run / 'work/last_checkpoint').read_text(), *paths, '--out', 'drawn')
    assert f'for example drawn/{paths[0].stem}_overlay.png' in printed
    table = json.loads((run / 'data/toy_coco/annotations/instances_val2017.json').read_text())
    hits = []
    for path in paths:
        image, drawn = cv2.imread(str(path)), cv2.imread(str(run / f'drawn/{path.stem}_overlay.png'))
        assert drawn.shape == image.shape and 0.05 < (drawn != image).any(axis=-1).mean() < 1
        found = json.loads((run / f'drawn/{path.stem}.json').read_text())
        assert found['names'] == [TOY_COCO_METAINFO['classes'][label] for label in found['labels']]
        (image_id,) = [row['id'] for row in table['images'] if row['file_name'] == path.name]
        truth = [row for row in table['annotations'] if row['image_id'] == image_id]
        best = list(zip(found['boxes'], found['labels']))[:3]  # best first
        assert len(best) == 3
        hits += [any(label == row['category_id'] - 1 and overlap(box, row['bbox']) > 0.5 for row in truth) for box, label in best]
    assert sum(hits) >= 6, hits


def overlap(box, xywh):
    """Intersection over union of a box (x1, y1, x2, y2) and one of COCO's."""
    x1, y1, x2, y2 = box
    x, y, width, height = xywh
    inside = max(min(x2, x + width) - max(x1, x), 0) * max(min(y2, y + height) - max(y1, y), 0)
    return inside / ((x2 - x1) * (y2 - y1) + width * height - inside)
