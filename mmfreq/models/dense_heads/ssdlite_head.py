"""Head of AFFNet's SSDLite detector (CVNets; arXiv 2307.14008, 1512.02325 for SSD), in mmdet's terms.

Legend: N batch, A anchors of a cell, K classes without the background, H W grid, P anchors of all levels.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import SSDHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfreq.models.ssdlite_layers import (
    BATCH_NORM,
    INITIAL,
    POOLED,
    PROJ_CHANNELS,
    RELU,
    STRIDES,
    check_levels,
    conv_layer,
    separable_layer,
)
from mmfreq.registry import MODELS

ANCHORS = dict(type='mmfreq.AFFNetSSDAnchorGenerator')
# the published variances of centres and sides
BOX_CODER = dict(type='mmdet.DeltaXYWHBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2))
TRAIN_CFG = dict(
    # anchors of IoU >= 0.5 are positive, and the best anchor of each ground truth whatever its IoU
    assigner=dict(type='mmdet.MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, gt_max_assign_all=False),
    neg_pos_ratio=3,
    smoothl1_beta=1.0,
    allowed_border=-1,
    pos_weight=-1,
)
TEST_CFG = dict(score_thr=0.01, nms_pre=400, nms=dict(type='nms', iou_threshold=0.5), max_per_img=200)


@MODELS.register_module()
class AFFNetSSDLiteHead(SSDHead):
    """mmdet's `SSDHead` with the published layers, anchors, losses and post-processing.

    One layer per level gives 4 box offsets, the background's score and K class scores for each anchor, in this order. `forward`
    moves the background behind the classes, where mmdet has it; weights stay as published.

    Losses are sums over the batch divided by its number of positive anchors: smooth L1 of the positives' offsets, cross-entropy of
    the positives and, in each image, of the three times as many negatives that are hardest.

    Args:
        in_channels: of each level, `neck.out_channels`: the backbone's, then `proj_channels`.
        num_classes: K, 80 for COCO.
        proj_channels, strides: one per level, as in `AFFNetSSDLiteNeck`. A level of another width is projected first, but for the
            pooled one (stride -1), which has a single 1x1 convolution.
        norm_cfg, act_cfg: of the projections; the norm also of the depth-wise convolutions.
        anchor_generator: `AFFNetSSDAnchorGenerator` or another whose `grid_priors` are fractions of the image.
        bbox_coder: as in `SSDHead`.
        train_cfg, test_cfg: fields that replace those of `TRAIN_CFG` and `TEST_CFG`, the published ones, in which `nms_pre` counts
            the anchors of a class and not, as elsewhere in mmdet, of a level.
        init_cfg: as in `SSDHead`; by default the published Xavier initialisation.

    Shape:
        `(N, C_i, H_i, W_i)` per level to a list of scores `(N, A_i * (K + 1), H_i, W_i)` and one of offsets
        `(N, A_i * 4, H_i, W_i)`.

    Raises:
        ValueError: lists that do not have one entry per level of the anchor generator, a level after the pooled one.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int = 80,
        proj_channels: Sequence[int] = PROJ_CHANNELS,
        strides: Sequence[int] = STRIDES,
        norm_cfg: dict | None = BATCH_NORM,
        act_cfg: dict | None = RELU,
        anchor_generator: dict = ANCHORS,
        bbox_coder: dict = BOX_CODER,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = INITIAL,
    ):
        self.proj_channels = tuple(proj_channels)
        self.strides = tuple(strides)
        super().__init__(
            num_classes=num_classes,
            in_channels=tuple(in_channels),
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            anchor_generator=anchor_generator,
            bbox_coder=bbox_coder,
            train_cfg=ConfigDict({**TRAIN_CFG, **(train_cfg or {})}),
            test_cfg=ConfigDict({**TEST_CFG, **(test_cfg or {})}),
            init_cfg=init_cfg,
        )

    def _init_layers(self) -> None:
        levels = dict(in_channels=self.in_channels, proj_channels=self.proj_channels, strides=self.strides)
        check_levels(**levels, **{'the anchor generator': self.num_base_priors})
        self.ssd_heads = nn.ModuleList()
        for channels, width, stride, anchors in zip(*levels.values(), self.num_base_priors):
            out_channels = anchors * (4 + self.cls_out_channels)
            layers = OrderedDict()
            if stride == POOLED:
                layers['loc_cls_layer'] = conv_layer(channels, out_channels, bias=True)
            else:
                if channels != width:
                    layers['proj_layer'] = conv_layer(channels, width, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
                layers['loc_cls_layer'] = separable_layer(width, out_channels, 1, self.norm_cfg, dict(bias=True))
            self.ssd_heads.append(nn.Sequential(layers))

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, offsets = [], []
        for level, head, anchors in zip(x, self.ssd_heads, self.num_base_priors, strict=True):
            outputs = head(level).unflatten(1, (anchors, 4 + self.cls_out_channels))
            boxes, background, classes = outputs.split((4, 1, self.num_classes), 2)
            scores.append(torch.cat((classes, background), 2).flatten(1, 2))
            offsets.append(boxes.flatten(1, 2))
        return scores, offsets

    def get_anchors(
        self, featmap_sizes: list[tuple], batch_img_metas: list[dict], device: torch.device | str = 'cpu'
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """For each image and level the anchors in pixels, `(P_i, 4)`, and whether their centres lie in its own padded area."""
        fractions = self.prior_generator.grid_priors(featmap_sizes, device=device)
        anchors, valid = [], []
        for meta in batch_img_metas:
            height, width = meta['pad_shape'][:2]
            anchors.append([in_pixels(level, meta) for level in fractions])
            centres = [(level[:, :2] + level[:, 2:]) / 2 for level in anchors[-1]]
            valid.append([(centre < centre.new_tensor((width, height))).all(1) for centre in centres])
        return anchors, valid

    def get_targets(self, *args, **kwargs) -> tuple:
        """As in `AnchorHead`, with the published average factor: the batch's positives. mmdet's adds 1 per image without any."""
        labels, label_weights, box_targets, box_weights, _, *rest = super().get_targets(*args, **kwargs)
        positives = int((torch.cat(labels, 1) < self.num_classes).sum())
        return labels, label_weights, box_targets, box_weights, max(positives, 1), *rest

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[None],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Boxes of an image: the best anchors of each class over all levels, NMS, then a cut to the image."""
        cfg = self.test_cfg if cfg is None else cfg
        scores = by_anchor(cls_score_list, self.cls_out_channels).softmax(1)[:, :-1]
        anchors = in_pixels(torch.cat(mlvl_priors), img_meta)
        boxes = self.bbox_coder.decode(anchors, by_anchor(bbox_pred_list, 4))
        scores, rows = scores.topk(min(cfg['nms_pre'], len(scores)), 0)
        kept = scores > cfg['score_thr']
        labels = torch.arange(self.num_classes, device=scores.device).expand_as(scores)
        results = InstanceData(bboxes=boxes[rows[kept]], scores=scores[kept], labels=labels[kept])
        results = self._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
        height, width = img_meta['img_shape'][:2]
        scale = img_meta['scale_factor'] if rescale else (1, 1)
        limits = boxes.new_tensor((width / scale[0], height / scale[1])).repeat(2)
        results.bboxes = results.bboxes.clamp(min=0).minimum(limits)
        return results


def by_anchor(maps: list[Tensor], width: int) -> Tensor:
    """Maps `(A_i * width, H_i, W_i)` of one image as float32 rows `(P, width)`, in the anchors' order."""
    return torch.cat([level.permute(1, 2, 0).reshape(-1, width) for level in maps]).float()


def in_pixels(fractions: Tensor, img_meta: dict) -> Tensor:
    """Boxes in fractions of the network's input, `(P, 4)`, in its pixels."""
    height, width = img_meta.get('batch_input_shape', img_meta['img_shape'])[:2]
    return fractions * fractions.new_tensor((width, height, width, height))
