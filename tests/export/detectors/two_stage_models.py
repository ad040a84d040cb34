"""Micro two-stage detectors with random weights that detect many boxes, and the reference predictions of mmdetection."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmfreq

MICRO = Path(mmfreq.__file__).parents[1] / 'configs/_base_/models/mask_rcnn_micro.py'
WIDTH, CLASSES, PROPOSALS, BOXES = 16, 3, 40, 30
GAINS = {'rpn_cls': 0.4, 'rpn_reg': 0.2, 'fc_cls': 0.3, 'fc_reg': 0.2, 'conv_logits': 1.0}  # scores and boxes of many values
STDS = ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))  # of the offsets of centers and sides in the stages of Cascade R-CNN


class Strided(nn.Module):
    """A backbone of convolutions without biases, which is exported in a moment; a blank image has blank maps."""

    def __init__(self, levels):
        super().__init__()
        shapes = [(3, 16, 4), (16, 32, 2), (32, 64, 2), (64, 128, 2)][:levels]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, step, step, bias=False) for before, after, step in shapes)

    def forward(self, x):
        maps = []
        for conv in self.convs:
            x = conv(x).relu()
            maps.append(x)
        return tuple(maps)


def config(masks=True, cascade=False, levels=4):
    """The config of a Mask R-CNN with HorNet-Micro and few channels.

    Args:
        cascade: three stages, of which the second has the same offsets for all classes.
        levels: of the backbone; RoIs are pooled from these, the RPN has one more.
    """
    model = Config.fromfile(MICRO).model
    head = model.roi_head
    model.backbone.img_size = 64
    model.neck.in_channels, model.neck.num_outs = model.neck.in_channels[:levels], levels + 1
    model.neck.out_channels = model.rpn_head.in_channels = model.rpn_head.feat_channels = WIDTH
    anchors = model.rpn_head.anchor_generator
    anchors.scales, anchors.strides = [4], anchors.strides[: levels + 1]
    for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
        extractor.update(out_channels=WIDTH, finest_scale=12, featmap_strides=extractor.featmap_strides[:levels])
    head.bbox_head.update(in_channels=WIDTH, fc_out_channels=32, num_classes=CLASSES)
    head.mask_head.update(num_convs=1, in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=CLASSES)
    model.test_cfg.rpn.update(nms_pre=60, max_per_img=PROPOSALS)
    model.test_cfg.rcnn.update(max_per_img=BOXES)
    model.train_cfg = None
    if cascade:
        stages = [dict(head.bbox_head, reg_class_agnostic=index == 1) for index in range(3)]
        for stage, (center, side) in zip(stages, STDS, strict=True):
            stage['bbox_coder'] = dict(stage['bbox_coder'], target_stds=[center, center, side, side])
        head.update(type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 0.5, 0.25], bbox_head=stages)
        model.type = 'CascadeRCNN'
    if not masks:
        head.mask_head = head.mask_roi_extractor = None
    return model


def detector(model, backbone=None, seed=0):
    """The detector of a config, whose heads have weights that give many different scores and boxes.

    Args:
        backbone: builds one to use instead of the config's.
    """
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    built = MODELS.build(model).eval()
    if backbone is not None:
        built.backbone = backbone()
    for name, parameter in built.named_parameters():
        if name.endswith('.weight') and not name.startswith('backbone') and parameter.ndim > 1:
            nn.init.xavier_normal_(parameter, gain=GAINS.get(name.split('.')[-2], 1.4))
    return built


@torch.no_grad()
def predicted(model, images, size):
    """(boxes, scores, labels) of mmdetection's `predict` in pixels of `images`, and the probabilities that it makes masks of."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo={'img_shape': size, 'ori_shape': size, 'scale_factor': (1.0, 1.0)})
    probabilities = []
    if model.roi_head.with_mask:
        heads = model.roi_head.mask_head
        head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
        original = head.predict_by_feat

        def record(mask_preds, *args, activate_map=False, **kwargs):
            probabilities.append(mask_preds[0] if activate_map else mask_preds[0].sigmoid())
            return original(mask_preds, *args, activate_map=activate_map, **kwargs)

        head.predict_by_feat = record
    try:
        found = model.predict(images, [sample], rescale=False)[0].pred_instances
    finally:
        if model.roi_head.with_mask:
            del head.predict_by_feat
    masks = [p[range(len(p)), found.labels if p.shape[1] > 1 else 0] for p in probabilities]
    return found.bboxes, found.scores, found.labels, *masks


def assert_one_to_one(outputs, expected, tolerance=1e-3):
    """Every expected detection is one row of the outputs, in any order of equal scores; the other rows are empty."""
    boxes, scores, labels, count, *masks = map(torch.as_tensor, outputs)
    count, (wanted_boxes, wanted_scores, wanted_labels, *wanted_masks) = int(count), expected
    assert count == len(wanted_labels)
    for output in (boxes, scores, *masks):
        assert not output[count:].any()
    assert (labels[count:] == -1).all() and (scores[:count].diff() <= 1e-6).all()
    values = [boxes, scores[:, None], *(mask.flatten(1) for mask in masks)]
    wanted = [wanted_boxes, wanted_scores[:, None], *(mask.flatten(1) for mask in wanted_masks)]
    if count:
        assert len(values) == len(wanted)
        found, wanted = torch.cat(values, 1)[:count], torch.cat(wanted, 1)
        distance = (found[:, None] - wanted).abs().amax(2) + (labels[:count, None] != wanted_labels)
        assert distance.amin(1).max() <= tolerance
        assert distance.argmin(1).unique().numel() == count
