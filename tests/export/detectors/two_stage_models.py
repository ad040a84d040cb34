"""Micro two-stage detectors with random weights that detect many boxes, and the reference predictions of mmdetection."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmfreq

MICRO = Path(mmfreq.__file__).parents[1] / 'configs/_base_/models/mask_rcnn_micro.py'
WIDTH, CLASSES = 16, 3


def config(masks=True, cascade=False):
    """The config of a Mask R-CNN with HorNet-Micro and few channels."""
    model = Config.fromfile(MICRO).model
    head = model.roi_head
    model.backbone.img_size = 64
    model.neck.out_channels = model.rpn_head.in_channels = model.rpn_head.feat_channels = WIDTH
    model.rpn_head.anchor_generator.scales = [4]
    for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor):
        extractor.out_channels, extractor.finest_scale = WIDTH, 12
    head.bbox_head.update(in_channels=WIDTH, fc_out_channels=32, num_classes=CLASSES)
    head.mask_head.update(num_convs=1, in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=CLASSES)
    model.test_cfg.rpn.update(nms_pre=60, max_per_img=40)
    model.test_cfg.rcnn.update(max_per_img=30)
    model.train_cfg = None
    if cascade:
        stages = [dict(head.bbox_head, reg_class_agnostic=index == 1) for index in range(3)]
        for stage, (center, side) in zip(stages, ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)), strict=True):
            stage['bbox_coder'] = dict(stage['bbox_coder'], target_stds=[center, center, side, side])
        head.update(type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 0.5, 0.25], bbox_head=stages)
        model.type = 'CascadeRCNN'
    if not masks:
        head.mask_head = head.mask_roi_extractor = None
    return model


def detector(model, seed=0):
    """The detector of a config, with head weights that give different scores and boxes."""
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    built = MODELS.build(model).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith('.weight') and not name.startswith('backbone') and parameter.ndim > 1:
                torch.nn.init.xavier_normal_(parameter, gain=GAINS.get(name.split('.')[-2], 1.4))
    return built


GAINS = {'rpn_cls': 0.4, 'rpn_reg': 0.2, 'fc_cls': 0.3, 'fc_reg': 0.2, 'conv_logits': 1.0}  # others 1.4


@torch.no_grad()
def predicted(model, images, size):
    """(boxes, scores, labels, probabilities of masks or None) of mmdetection's `predict`, in pixels of `images`."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo={'img_shape': size, 'ori_shape': size, 'scale_factor': (1.0, 1.0)})
    captured = []
    if model.roi_head.with_mask:
        heads = model.roi_head.mask_head
        head = heads[-1] if isinstance(heads, torch.nn.ModuleList) else heads
        original = head.predict_by_feat

        def capture(mask_preds, *args, activate_map=False, **kwargs):
            captured.append(mask_preds[0] if activate_map else mask_preds[0].sigmoid())
            return original(mask_preds, *args, activate_map=activate_map, **kwargs)

        head.predict_by_feat = capture
    try:
        result = model.predict(images, [sample], rescale=False)[0].pred_instances
    finally:
        if model.roi_head.with_mask:
            del head.predict_by_feat
    rows = torch.arange(len(result.labels))
    masks = captured[0][rows, result.labels] if captured else None
    return result.bboxes, result.scores, result.labels, masks
