"""AFFNet's SSDLite: published numbers, names, anchors, losses and post-processing."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch.nn import functional as F
from torchvision.ops import box_iou

import mmfreq
from mmfreq.models.affnet import ARCHS
from mmfreq.models.ssdlite import AFFNetSSDAnchorGenerator, AFFNetSSDLiteHead, AFFNetSSDLiteNeck, by_anchor, in_pixels
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error
from mmfreq.weights.convert import to_mmfreq, to_published
from mmfreq.weights.load import load_checked

GOLDEN = 'affnet__affnet_et_ssdlite'
PUBLISHED = (512, 256, 256, 128, 128, 64)
SMALL = (24, 24, 16, 16, 16, 8)  # with 'affnet-micro' one level is projected and one is not
GRIDS = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]  # of 320x320


def detector(arch, num_classes=80, proj_channels=PUBLISHED, test_cfg=None):
    maps = ARCHS[arch].channels[2:]
    cfg = dict(
        type='mmdet.SingleStageDetector',
        data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True),
        backbone=dict(type='mmfreq.AFFNet', arch=arch, out_indices=(2, 3)),
        neck=dict(type='mmfreq.AFFNetSSDLiteNeck', in_channels=maps, proj_channels=proj_channels),
        bbox_head=dict(
            type='mmfreq.AFFNetSSDLiteHead',
            in_channels=(*maps, *proj_channels[2:]),
            num_classes=num_classes,
            proj_channels=proj_channels,
        ),
        test_cfg=test_cfg,
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(ConfigDict(cfg))


def head_alone(num_classes=4, **kwargs):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return AFFNetSSDLiteHead((8,) * 6, num_classes, (8,) * 6, **kwargs)


def count(model):
    return sum(p.numel() for p in model.parameters())


def meta(size, padded=None, scale=(1.0, 1.0)):
    padded = padded or size
    return dict(img_shape=size, pad_shape=size, batch_input_shape=padded, scale_factor=scale, ori_shape=size)


def batch(sizes, boxes, labels):
    samples = []
    for size, box, label in zip(sizes, boxes, labels, strict=True):
        sample = DetDataSample(gt_instances=InstanceData(bboxes=box, labels=label))
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=len(samples)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in sizes], data_samples=samples)


def random_boxes(n, size):
    height, width = size
    corners = torch.rand(n, 2, 2) * torch.tensor([width - 8.0, height - 8.0])
    return torch.cat((corners.amin(1), corners.amax(1) + 8), 1)


def as_maps(rows, num_base_priors, grids):
    """Rows `(P, width)` of one image as maps `(1, A * width, H, W)`, the inverse of `by_anchor`."""
    parts = rows.split([a * h * w for a, (h, w) in zip(num_base_priors, grids)])
    return [part.reshape(1, h, w, -1).permute(0, 3, 1, 2) for part, (h, w) in zip(parts, grids)]


def test_golden_detector(golden_folder, within_limit):
    golden = read_golden(golden_folder, GOLDEN)
    model = detector('affnet-et').eval()
    head = model.bbox_head
    assert count(model) == golden['num_params'] and count(model.backbone) == golden['num_params_backbone']
    report = mmfreq.load_weights(model, golden_state(golden['state_dict']))
    assert report.layout == 'CVNets SSDLite' and report.loaded == len(golden['state_dict']) and not report.fresh
    (case,) = golden['cases']
    (image,) = golden_inputs(case)
    with torch.no_grad():
        maps = model.extract_feat(image)
        scores, offsets = head(maps)
    scores = by_anchor([level[0] for level in scores], 81).roll(1, 1)  # the published background comes first
    offsets = by_anchor([level[0] for level in offsets], 4)
    anchors = torch.cat(head.prior_generator.grid_priors(GRIDS))
    centered = torch.cat(((anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]), 1)
    (pixels,), _ = head.get_anchors(GRIDS, [meta((320, 320))])
    for boxes in (head.bbox_coder.decode(anchors, offsets), head.bbox_coder.decode(torch.cat(pixels), offsets) / 320):
        outputs = [*maps, *(x[None] for x in (scores, offsets, centered, boxes))]
        within_limit('affnet decoders', *worst_error(outputs, case['outputs']))


def test_published_names_round_trip(golden_folder):
    state = golden_state(read_golden(golden_folder, GOLDEN)['state_dict'])
    model = detector('affnet-et')
    load_checked(model, {'state_dict': state}, 'a file', strict=True)
    assert to_mmfreq(state).checkpoint['state_dict'].keys() == model.state_dict().keys()
    back = to_published({'state_dict': model.state_dict()}).checkpoint
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ('proj_channels', 'millions'),
    [
        (PUBLISHED, [1.659, 2.674, 5.353]),
        # two candidates for the configuration of the published scores, whose sizes are 1.9, 3.0 and 5.6 M
        ((512, 512, 256, 256, 128, 64), [1.948, 2.975, 5.686]),
        ((512, 256, 256, 256, 256, 128), [1.923, 2.938, 5.616]),
    ],
)
def test_published_numbers_of_parameters(proj_channels, millions):
    with torch.device('meta'):
        models = [detector(arch, proj_channels=proj_channels) for arch in ('affnet-et', 'affnet-t', 'affnet')]
    assert [round(count(model) / 1e6, 3) for model in models] == millions


def test_anchors_are_the_hand_computed_ones():
    levels = AFFNetSSDAnchorGenerator().grid_priors(GRIDS)
    assert [len(level) for level in levels] == [2400, 600, 150, 54, 24, 4] and sum(map(len, levels)) == 3232
    first = levels[0].view(20, 20, 6, 4)
    scale, following = 0.1, 0.1 + 0.95 / 6
    middle = (scale * following) ** 0.5
    expected = [(scale, scale), (middle, middle)]
    expected += [(scale * r**k, scale / r**k) for r in (2, 3) for k in (0.5, -0.5)]
    assert torch.allclose(first[..., 2:] - first[..., :2], torch.tensor(expected).expand(20, 20, 6, 2), atol=1e-6)
    centers = (first[..., :2] + first[..., 2:]) / 2
    assert torch.allclose(centers[3, 7], torch.tensor([7.5 / 20, 3.5 / 20]).expand(6, 2), atol=1e-6)  # row 3, column 7


@pytest.mark.parametrize('sizes', [GRIDS, [(7, 11), (4, 6), (2, 3), (1, 2), (1, 1), (1, 1)]])
def test_anchors_are_spaced_evenly_and_clamped(sizes):
    levels = AFFNetSSDAnchorGenerator(scale_range=(0.3, 1.6)).grid_priors(sizes)
    for level, (height, width), anchors in zip(levels, sizes, (6, 6, 6, 6, 6, 4), strict=True):
        assert level.shape == (height * width * anchors, 4) and level.dtype == torch.float32
        sides = level[:, 2:] - level[:, :2]
        assert sides.min() > 0 and sides.max() <= 1 + 1e-6
        cells = level.view(height, width, anchors, 4)
        centers = (cells[..., :2] + cells[..., 2:]) / 2
        assert torch.allclose(centers.mean((0, 1)), torch.full((anchors, 2), 0.5), atol=1e-6)
        assert torch.allclose(cells.flip(0)[..., [1, 3]], 1 - cells[..., [3, 1]], atol=1e-6)  # mirrored, top and bottom swap
    assert (levels[-1][:, 2:] - levels[-1][:, :2]).max() == 1  # something was clamped


def test_valid_anchors_exclude_the_padding():
    head = head_alone()
    grids = [(4, 8), (2, 4), (1, 2), (1, 1), (1, 1), (1, 1)]
    (whole, half), (all_valid, half_valid) = head.get_anchors(grids, [meta((64, 128)), meta((64, 64), padded=(64, 128))])
    fractions = head.prior_generator.grid_priors(grids)
    for at in range(6):
        assert torch.equal(whole[at], half[at])
        assert torch.allclose(whole[at], fractions[at] * torch.tensor([128.0, 64, 128, 64]))
        assert all_valid[at].all()
        assert torch.equal(half_valid[at], (whole[at][:, 0] + whole[at][:, 2]) / 2 < 64)
    assert half_valid[0].sum() == len(half_valid[0]) // 2


def test_encoding_then_decoding_is_the_identity():
    head = head_alone()
    anchors = torch.cat(head.get_anchors(GRIDS, [meta((240, 320))])[0][0])
    boxes = random_boxes(len(anchors), (240, 320))
    assert torch.allclose(head.bbox_coder.decode(anchors, head.bbox_coder.encode(anchors, boxes)), boxes, atol=1e-2, rtol=1e-4)
    centered = torch.cat(((anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]), 1)
    offsets = torch.tensor([1.0, -2.0, 3.0, -4.0]).expand(len(anchors), 4)
    moved = head.bbox_coder.decode(anchors, offsets)
    center = centered[:, :2] + 0.1 * torch.tensor([1.0, -2.0]) * centered[:, 2:]
    half = centered[:, 2:] * torch.exp(0.2 * torch.tensor([3.0, -4.0])) / 2
    assert torch.allclose(moved, torch.cat((center - half, center + half), 1), atol=1e-3)


def published_loss(scores, offsets, anchors, boxes, labels, num_classes):
    """(cross-entropy, smooth L1) of a batch, the background first, implemented from the published description."""
    total_scores, total_offsets, positives = 0.0, 0.0, 0
    for score, offset, box, label in zip(scores, offsets, boxes, labels):
        target = torch.zeros(len(anchors), dtype=torch.long)
        goal = torch.zeros(len(anchors), 4)
        if len(box):
            overlap = box_iou(box, anchors)
            best, owner = overlap.max(0)
            for i, anchor in enumerate(overlap.argmax(1)):
                best[anchor], owner[anchor] = 2, i
            target[best >= 0.5] = label[owner[best >= 0.5]] + 1
            side = anchors[:, 2:] - anchors[:, :2]
            wanted = box[owner]
            shift = (wanted[:, :2] + wanted[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
            goal = torch.cat((shift / side / 0.1, torch.log((wanted[:, 2:] - wanted[:, :2]) / side) / 0.2), 1)
        found = target > 0
        assert found.sum() >= len(box)
        hardness = (-score.log_softmax(1)[:, 0]).masked_fill(found, -torch.inf)
        chosen = found.clone()
        chosen[hardness.topk(min(3 * int(found.sum()), int((~found).sum()))).indices] = True
        total_scores += F.cross_entropy(score[chosen], target[chosen], reduction='sum')
        total_offsets += F.smooth_l1_loss(offset[found], goal[found], reduction='sum')
        positives += int(found.sum())
    return total_scores / max(positives, 1), total_offsets / max(positives, 1)


@pytest.mark.parametrize('counts', [(3, 0, 7), (0, 0), (1,), (40, 2)])
def test_losses_are_the_published_ones(counts):
    head, size = head_alone(num_classes=4), (160, 224)
    grids = [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    anchors = torch.cat(head.get_anchors(grids, [meta(size)])[0][0])
    boxes, labels = [random_boxes(n, size) for n in counts], [torch.randint(0, 4, (n,)) for n in counts]
    scores, offsets = 2 * torch.randn(len(counts), len(anchors), 5), torch.randn(len(counts), len(anchors), 4)
    maps = [
        [torch.cat(level) for level in zip(*(as_maps(rows, head.num_base_priors, grids) for rows in values))]
        for values in (scores.roll(-1, 2), offsets)
    ]
    truths = [InstanceData(bboxes=box, labels=label) for box, label in zip(boxes, labels)]
    losses = head.loss_by_feat(*maps, truths, [meta(size)] * len(counts))
    expected = published_loss(scores, offsets, anchors, boxes, labels, 4)
    for name, value in zip(('loss_cls', 'loss_bbox'), expected):
        assert torch.allclose(sum(x.sum() for x in losses[name]), torch.as_tensor(value), rtol=1e-4, atol=1e-6), name
    assert any(counts) == (expected[0] > 0)


def perfect_outputs(head, grids, size, boxes, labels):
    """Maps with certain predictions: the boxes at the anchors of the targets, background elsewhere."""
    anchors, valid = head.get_anchors(grids, [meta(size)])
    truth = InstanceData(bboxes=boxes, labels=labels)
    target, _, offsets, *_ = head.get_targets(anchors, valid, [truth], [meta(size)])
    scores = 20.0 * F.one_hot(torch.cat(target, 1)[0], head.cls_out_channels)
    return [as_maps(rows, head.num_base_priors, grids) for rows in (scores, torch.cat(offsets, 1)[0])]


@pytest.mark.parametrize('rescale', [False, True])
def test_prediction_inverts_the_targets(rescale):
    head, size = head_alone(), (160, 224)
    grids = [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    boxes = torch.tensor([[3.0, 5, 40, 60], [100, 20, 220, 150], [60, 90, 90, 110], [60.5, 90.5, 90, 110]])
    labels = torch.tensor([2, 0, 3, 1])  # the last two share their best anchor; the later keeps it
    maps = perfect_outputs(head, grids, size, boxes, labels)
    (found,) = head.predict_by_feat(*maps, batch_img_metas=[meta(size, scale=(2.0, 0.5))], rescale=rescale)
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    expected = boxes[[1, 3, 0]] / torch.tensor([2.0, 0.5, 2.0, 0.5]) if rescale else boxes[[1, 3, 0]]
    assert torch.allclose(found.bboxes[order], expected, atol=1e-2) and found.scores.min() > 0.99


def test_post_processing_is_the_published_one():
    size = (160, 224)
    grids = [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    with DefaultScope.overwrite_default_scope('mmdet'):
        head, one_each = head_alone(), head_alone(test_cfg=dict(nms_pre=1))
    cells = sum(a * h * w for a, (h, w) in zip(head.num_base_priors, grids))
    scores, offsets = 2 * torch.randn(cells, 5), torch.randn(cells, 4)
    maps = [as_maps(rows, head.num_base_priors, grids) for rows in (scores, offsets)]
    probabilities = scores.softmax(1)[:, :4]
    (found,) = head.predict_by_feat(*maps, batch_img_metas=[meta(size)])
    assert 0 < len(found) == 200 and found.scores.min() > 0.01
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert torch.equal(found.scores[0], probabilities.max())
    assert found.bboxes.min() == 0 and torch.equal(found.bboxes.amax(0)[2:], torch.tensor([224.0, 160]))
    (best,) = one_each.predict_by_feat(*maps, batch_img_metas=[meta(size)])
    assert best.labels.sort().values.tolist() == [0, 1, 2, 3]
    assert torch.equal(best.scores[best.labels.argsort()], probabilities.amax(0))
    scores[:, 4] = 1000.0
    (nothing,) = head.predict_by_feat(as_maps(scores, head.num_base_priors, grids), maps[1], batch_img_metas=[meta(size)])
    assert len(nothing) == 0 and nothing.bboxes.shape == (0, 4)


def test_boxes_are_clipped_to_the_image_after_nms():
    """Boxes that differ only outside the image: their IoU before clipping is 1/3, so NMS keeps both; the results are equal."""
    head, size = head_alone(), (64, 96)
    grids = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1), (1, 1)]
    anchors = torch.cat(head.get_anchors(grids, [meta(size)])[0][0])
    scores, offsets = torch.zeros(len(anchors), 5), torch.zeros(len(anchors), 4)
    scores[:, 4] = 20
    scores[:2, 1] = 40
    offsets[:2] = head.bbox_coder.encode(anchors[:2], torch.tensor([[-100.0, 10, 50, 60], [0.0, 10, 50, 60]]))
    maps = [as_maps(rows, head.num_base_priors, grids) for rows in (scores, offsets)]
    (found,) = head.predict_by_feat(*maps, batch_img_metas=[meta(size)])
    assert found.labels.tolist() == [1, 1]
    assert torch.allclose(found.bboxes, torch.tensor([0.0, 10, 50, 60]).expand(2, 4), atol=1e-3)


def test_training_step_reaches_every_parameter():
    sizes = [(161, 203), (150, 203), (161, 190)]
    model = detector('affnet-micro', 3, SMALL).train()
    of_levels = torch.stack([level[0] for level in model.bbox_head.prior_generator.grid_priors([(1, 1)] * 6)])
    boxes = [in_pixels(of_levels, meta(size)) for size in sizes]  # in the middle of the image, one as large as each level's anchors
    data = batch(sizes, boxes, [torch.arange(6) % 3] * 3)
    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert set(losses) == {'loss_cls', 'loss_bbox'}
    without = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()]
    assert not without
    with DefaultScope.overwrite_default_scope('mmdet'):
        wrapper = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)))
        assert all(torch.isfinite(value) for value in model.train_step(data, wrapper).values())


@pytest.mark.parametrize('sizes', [[(32, 32)], [(320, 320)], [(97, 61), (80, 75)]])
def test_predictions_lie_within_images_of_any_size(sizes):
    model = detector('affnet-micro', 3, SMALL, test_cfg=dict(max_per_img=50)).eval()
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    results = model.test_step(batch(sizes, *([x] * len(sizes) for x in nothing)))
    for result, (height, width) in zip(results, sizes, strict=True):
        found = result.pred_instances
        assert 0 < len(found) <= 50 and set(found.labels.tolist()) <= {0, 1, 2}
        assert found.bboxes.min() >= 0 and (found.bboxes <= torch.tensor([width, height, width, height])).all()


def test_inconsistent_levels_raise():
    with pytest.raises(ValueError, match=naming(6, 'proj_channels', 5, 'strides')):
        AFFNetSSDLiteNeck((8, 8), strides=(16, 32, 64, 128, -1))
    with pytest.raises(ValueError, match='pooled'):
        AFFNetSSDLiteNeck((8, 8), strides=(16, 32, 64, -1, 128, 256))
    with pytest.raises(ValueError, match=naming(96, 32, 64)):
        AFFNetSSDLiteNeck((8, 8), (8, 8, 8), strides=(16, 32, 96))
    with pytest.raises(ValueError, match=naming(3, 'in_channels', 2)):
        AFFNetSSDLiteNeck((8, 8, 8), (8, 8, 8), strides=(16, 32, 64))
    with pytest.raises(ValueError, match=naming(1, 2)):
        AFFNetSSDLiteNeck((8, 8))([torch.zeros(1, 8, 4, 4)])
    with pytest.raises(ValueError, match=naming(5, 'in_channels')), DefaultScope.overwrite_default_scope('mmdet'):
        AFFNetSSDLiteHead((8,) * 5)
