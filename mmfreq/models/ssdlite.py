"""AFFNet's SSDLite detector as in CVNets, for mmdet: neck, anchors, head (arXiv 2307.14008; SSD 1512.02325, SSDLite 1801.04381).

Layers have CVNets' names. A level is one map of the pyramid; the lists `STRIDES` and `PROJ_CHANNELS` have one entry per level.

Legend: B N batch, C channels, H W grid, A anchors of a cell, K classes without the background, P anchors of all levels.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmdet.models.dense_heads import SSDHead
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmfreq.registry import MODELS, TASK_UTILS

POOLED = -1  # published 'stride' of the last level, which is one pixel
STRIDES = (16, 32, 64, 128, 256, POOLED)
# those of CVNets' MobileViT: AFFNet's own are unpublished (its published model has more parameters)
PROJ_CHANNELS = (512, 256, 256, 128, 128, 64)
BATCH_NORM = dict(type='BN')
RELU = dict(type='ReLU')
INIT_CFG = dict(type='Xavier', layer='Conv2d', distribution='uniform', bias=0)
RATIOS = ((2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2,))  # of the anchors of each level
ANCHORS = dict(type='mmfreq.AFFNetSSDAnchorGenerator')
# the published variances of centers and sides
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


def conv_layer(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
) -> nn.Sequential:
    """Convolution, optional norm, optional activation, named `block.conv`, `block.norm`, `block.act`.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`, for odd kernels.
    """
    block = nn.Sequential()
    block.add_module('conv', nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias))
    if norm_cfg is not None:
        block.add_module('norm', build_norm_layer(norm_cfg, out_channels)[1])
    if act_cfg is not None:
        block.add_module('act', build_activation_layer(act_cfg))
    return nn.Sequential(OrderedDict(block=block))


def separable_layer(in_channels: int, out_channels: int, stride: int, norm_cfg: dict | None, pointwise: dict) -> nn.Sequential:
    """Depth-wise 3x3 convolution and norm (`dw_conv`), then a 1x1 `conv_layer` (`pw_conv`).

    Args:
        stride, norm_cfg: of the depth-wise convolution.
        pointwise: other arguments of the 1x1 `conv_layer`.

    Shape:
        `(B, in_channels, H, W)` to `(B, out_channels, ceil(H / stride), ceil(W / stride))`.
    """
    depthwise = conv_layer(in_channels, in_channels, 3, stride, groups=in_channels, norm_cfg=norm_cfg)
    return nn.Sequential(OrderedDict(dw_conv=depthwise, pw_conv=conv_layer(in_channels, out_channels, **pointwise)))


def check_levels(**fields: Sequence) -> None:
    """Raise a ValueError if the lists have different lengths, or a level follows the pooled one."""
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) > 1:
        found = ', '.join(f'{length} in {name}' for name, length in lengths.items())
        raise ValueError(f'the lists of SSDLite must have one entry per level, got {found}; make their lengths equal')
    if POOLED in (before := tuple(fields['strides'])[:-1]):
        raise ValueError(f'the pooled level (stride {POOLED}) must be the last one, found it in {before}; move it to the end')


@MODELS.register_module()
class AFFNetSSDLiteNeck(BaseModule):
    """The backbone's maps, and extra levels, each computed from the one before.

    An extra level is a separable convolution of stride 2; the pooled one (stride -1) is a mean over the map and a 1x1 convolution
    without norm.

    Args:
        in_channels: of the backbone's maps; published: layer_4 and layer_5, `AFFNet(out_indices=(2, 3))`.
        proj_channels: one per level, as in the head; those of the backbone's levels are not used here.
        strides: one per level, each twice the one before, -1 for a pooled last level. They name the extra layers, as published.
        norm_cfg, act_cfg: of the extra levels. AFFNet's activation is unpublished; related configurations have ReLU.
        init_cfg: as in `BaseModule`; by default the published Xavier initialization.

    Shape:
        `(B, C_i, H_i, W_i)` for each of `in_channels` to these and one `(B, proj_channels[i], H_i, W_i)` for each extra level,
        where H_i = ceil(H_{i-1} / 2), and 1x1 for the pooled one.

    Raises:
        ValueError: lists of different lengths, no extra level, strides that do not double, a level after the pooled one; in
            forward another number of maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        proj_channels: Sequence[int] = PROJ_CHANNELS,
        strides: Sequence[int] = STRIDES,
        norm_cfg: dict | None = BATCH_NORM,
        act_cfg: dict | None = RELU,
        init_cfg: dict | list[dict] | None = INIT_CFG,
    ):
        super().__init__(init_cfg)
        check_levels(proj_channels=proj_channels, strides=strides)
        given = len(in_channels)
        if not 0 < given < len(strides):
            raise ValueError(
                f'in_channels must have 1 to {len(strides) - 1} maps of the backbone for {len(strides)} strides, got {given}; '
                f'extend strides and proj_channels or use fewer maps'
            )
        self.in_channels = tuple(in_channels)
        self.out_channels = (*in_channels, *proj_channels[given:])
        self.extra_layers = nn.ModuleDict()
        for i in range(given, len(strides)):
            channels, width = self.out_channels[i - 1], self.out_channels[i]
            if strides[i] == POOLED:
                layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_layer(channels, width, act_cfg=act_cfg))
            elif strides[i] == 2 * strides[i - 1]:
                layer = separable_layer(channels, width, 2, norm_cfg, dict(norm_cfg=norm_cfg, act_cfg=act_cfg))
            else:
                raise ValueError(
                    f'the stride after {strides[i - 1]} must be {2 * strides[i - 1]}, or {POOLED} for the pooled level, '
                    f'got {strides[i]}'
                )
            self.extra_layers[f'os_{strides[i]}'] = layer

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != len(self.in_channels):
            raise ValueError(
                f'expected {len(self.in_channels)} maps with {self.in_channels} channels, got {len(inputs)}; '
                f'change out_indices of the backbone'
            )
        maps = list(inputs)
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        return tuple(maps)


@TASK_UTILS.register_module()
class AFFNetSSDAnchorGenerator:
    """Anchors of CVNets' SSD: per cell two squares, and for each ratio a wide and a tall box.

    Scales are spaced evenly over `scale_range`, one per level and one more. With the level's scale s and the next scale t, anchors
    are (s, s), (sqrt(s t), sqrt(s t)), then (s sqrt(r), s / sqrt(r)) and its transpose for each ratio r. Sides are at most 1; the
    corners may lie outside the image.

    Unlike in mmdet's generators the boxes are fractions of the image, (0, 0) to (1, 1). `AFFNetSSDLiteHead` converts them to
    pixels; mmdet's heads do not.

    Args:
        ratios: for each level the ratios greater than 1.
        scale_range: scale of the first level, and the scale after the last level's.
    """

    def __init__(self, ratios: Sequence[Sequence[float]] = RATIOS, scale_range: tuple[float, float] = (0.1, 1.05)):
        first, last = scale_range
        step = (last - first) / len(ratios)
        scales = [first + step * i for i in range(len(ratios) + 1)]
        self.sides = [level_sides(*pair) for pair in zip(scales, scales[1:], ratios)]

    @property
    def num_levels(self) -> int:
        """Number of maps."""
        return len(self.sides)

    @property
    def num_base_priors(self) -> list[int]:
        """Anchors of a cell of each level."""
        return [len(sides) for sides in self.sides]

    def grid_priors(
        self, featmap_sizes: Sequence[tuple[int, int]], dtype: torch.dtype | None = None, device: torch.device | str = 'cpu'
    ) -> list[Tensor]:
        """Corners (x1, y1, x2, y2) of all anchors of each level, in fractions of the image.

        Args:
            featmap_sizes: (H, W) of each level.
            dtype: not used (mmdet gives that of the scores): the anchors are float32, since half precision is inaccurate.

        Shape:
            One `(H * W * A, 4)` per level: cells row by row, the anchors of a cell in the order above.
        """
        return [corners(centered(size, sides, device)) for size, sides in zip(featmap_sizes, self.sides, strict=True)]


def level_sides(scale: float, following: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """(width, height) of a cell's anchors, in fractions of the image."""
    middle = (scale * following) ** 0.5
    sides = [(scale, scale), (middle, middle)]
    for root in (ratio**0.5 for ratio in ratios):
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return [(min(width, 1.0), min(height, 1.0)) for width, height in sides]


def centered(size: tuple[int, int], sides: list[tuple[float, float]], device: torch.device | str) -> Tensor:
    """Anchors of an (H, W) grid as (cx, cy, width, height), `(H * W * A, 4)`."""
    cy, cx = ((torch.arange(n, device=device) + 0.5) / n for n in size)
    cells = torch.stack(torch.meshgrid(cx, cy, indexing='xy'), -1).reshape(-1, 1, 2)
    shapes = torch.tensor(sides, device=device).expand(cells.shape[0], -1, -1)  # len() is not symbolic
    return torch.cat((cells.expand(-1, len(sides), -1), shapes), 2).flatten(0, 1)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, width, height) to (x1, y1, x2, y2), `(..., 4)`."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((center - half, center + half), -1)


@MODELS.register_module()
class AFFNetSSDLiteHead(SSDHead):
    """mmdet's `SSDHead` with the published layers, anchors, losses and post-processing.

    One layer per level computes 4 box offsets, the background's score and K class scores for each anchor, in this order. `forward`
    moves the background after the classes, as mmdet expects; the parameters stay as published.

    Losses are sums over the batch divided by its number of positive anchors: smooth L1 of the positives' offsets, and cross-entropy
    of the positives and of the hardest negatives of each image, three times as many.

    Args:
        in_channels: of each level, `neck.out_channels`: the backbone's, then `proj_channels`.
        num_classes: K, 80 for COCO.
        proj_channels, strides: one per level, as in `AFFNetSSDLiteNeck`. A level of another width is projected first, except the
            pooled one (stride -1), which has a single 1x1 convolution.
        norm_cfg, act_cfg: of the projections; the norm also of the depth-wise convolutions.
        anchor_generator: `AFFNetSSDAnchorGenerator` or another one whose `grid_priors` are fractions of the image.
        bbox_coder: as in `SSDHead`.
        train_cfg, test_cfg: fields that replace those of the published `TRAIN_CFG` and `TEST_CFG`. `nms_pre` counts the anchors of
            a class, not of a level as elsewhere in mmdet.
        init_cfg: as in `SSDHead`; by default the published Xavier initialization.

    Shape:
        `(N, C_i, H_i, W_i)` per level to a list of scores `(N, A_i * (K + 1), H_i, W_i)` and one of offsets
        `(N, A_i * 4, H_i, W_i)`.

    Raises:
        ValueError: a list without one entry per level of the anchor generator, a level after the pooled one.
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
        init_cfg: dict | list[dict] | None = INIT_CFG,
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
            layers: OrderedDict[str, nn.Module] = OrderedDict()
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
        """For each image and level the anchors in pixels, `(P_i, 4)`, and whether their centers lie in the image's padded area."""
        fractions = self.prior_generator.grid_priors(featmap_sizes, device=device)
        anchors, valid = [], []
        for meta in batch_img_metas:
            height, width = meta['pad_shape'][:2]
            anchors.append([in_pixels(level, meta) for level in fractions])
            centers = [(level[:, :2] + level[:, 2:]) / 2 for level in anchors[-1]]
            valid.append([(center < center.new_tensor((width, height))).all(1) for center in centers])
        return anchors, valid

    def get_targets(self, *args, **kwargs) -> tuple:
        """As in `AnchorHead`, but the average factor is the number of positives, as published (mmdet: at least 1 per image)."""
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
        """Boxes of an image: the best anchors of each class over all levels, NMS, then clipping to the image."""
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
    """Maps `(A_i * width, H_i, W_i)` of one image as float32 rows `(P, width)`, in the order of the anchors."""
    return torch.cat([level.permute(1, 2, 0).reshape(-1, width) for level in maps]).float()


def in_pixels(fractions: Tensor, img_meta: dict) -> Tensor:
    """Boxes `(P, 4)` from fractions of the network's input to pixels."""
    height, width = img_meta.get('batch_input_shape', img_meta['img_shape'])[:2]
    return fractions * fractions.new_tensor((width, height, width, height))
