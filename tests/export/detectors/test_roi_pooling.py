"""Features pooled for all boxes at every level are those of mmdetection's extractor, in PyTorch and in onnxruntime."""

import pytest
import torch

import mmfreq  # noqa: F401  (before mmdet)
from mmfreq.errors import UserError
from mmfreq.export.detectors.roi_pooling import RoIPooling

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 160, 224


def extractor(**layer):
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = {'type': 'RoIAlign', 'output_size': 7, 'sampling_ratio': 0, **layer}
    return SingleRoIExtractor(layer, out_channels=6, featmap_strides=list(STRIDES), finest_scale=14)


def pyramid(height=HEIGHT, width=WIDTH):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, 6, height // s, width // s, generator=generator) for s in (*STRIDES, 64))


def random_boxes(count=60):
    """Boxes of all levels; the first ones are empty, as large as the image, outside of it, or as large as the border of a level."""
    generator = torch.Generator().manual_seed(1)
    center, side = torch.rand(2, count, 2, generator=generator)
    size = torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([center - side**3 / 2, center + side**3 / 2], dim=1) * size.repeat(2)
    edges = [[0, 0, 0, 0], [50, 60, 50, 60], [0, 0, WIDTH, HEIGHT], [-30, -20, -10, -5], [300, 300, 310, 320]]
    edges += [[10, 10, 10 + 14 * k, 10 + 14 * k] for k in (1, 2, 4, 8)]
    return torch.cat([torch.tensor(edges, dtype=torch.float32), boxes])


def expected(layer, maps, boxes):
    return layer(maps[: layer.num_inputs], torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1))


@pytest.mark.parametrize('options', [{}, {'sampling_ratio': 2}, {'aligned': False}, {'output_size': 14, 'sampling_ratio': -1}])
def test_features_are_those_of_the_extractor(options):
    layer, boxes = extractor(**options), random_boxes()
    levels = layer.map_roi_levels(torch.cat([boxes[:, :1], boxes], dim=1), len(STRIDES))
    assert levels.unique().tolist() == [0, 1, 2, 3] and levels[5:9].tolist() == [0, 1, 2, 3]
    pooling = RoIPooling(layer)
    assert torch.equal(pooling.levels_of(boxes).long(), levels)
    assert torch.equal(pooling(pyramid(), boxes), expected(layer, pyramid(), boxes))


def test_one_level_needs_no_selection():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = SingleRoIExtractor({'type': 'RoIAlign', 'output_size': 3}, out_channels=6, featmap_strides=[16])
    assert torch.equal(RoIPooling(layer)(pyramid()[2:3], random_boxes()), expected(layer, pyramid()[2:3], random_boxes()))


@pytest.mark.parametrize('options', [{}, {'aligned': False}])
def test_onnxruntime_pools_the_same_at_any_size(options, tmp_path):
    """ONNX's RoiAlign takes as many samples as mmcv's with `sampling_ratio=0`, and shifts by half a pixel if `aligned`."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='extra [export] is not installed')
    layer, boxes, count = extractor(**options), random_boxes(), 9
    dynamic, static = torch.export.Dim.DYNAMIC, torch.export.Dim.STATIC
    shapes = (tuple({2: dynamic, 3: dynamic} for _ in pyramid()), {0: dynamic, 1: static})
    program = torch.onnx.export(
        RoIPooling(layer).eval(), (pyramid(128, 192), boxes), dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False
    )
    nodes = [node for node in program.model_proto.graph.node if node.op_type == 'RoiAlign']
    modes = [attribute.s for node in nodes for attribute in node.attribute if attribute.name == 'coordinate_transformation_mode']
    assert modes == [b'output_half_pixel' if options else b'half_pixel'] * 4
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for given in (boxes, boxes[:count]):
        values = (*pyramid(), given)
        inputs = {entry.name: values[index].numpy() for index, entry in enumerate(session.get_inputs())}
        (pooled,) = session.run(None, inputs)
        torch.testing.assert_close(torch.from_numpy(pooled), expected(layer, pyramid(), given), rtol=1e-5, atol=1e-5)


def test_half_precision_maps_are_pooled_in_float32():
    maps = tuple(x.half() for x in pyramid())
    pooled = RoIPooling(extractor())(maps, random_boxes())
    assert pooled.dtype == torch.float16
    torch.testing.assert_close(pooled, expected(extractor(), tuple(x.float() for x in maps), random_boxes()).half())


def test_other_extractors_are_rejected_by_name():
    from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor

    layer = {'type': 'RoIAlign', 'output_size': 7}
    with pytest.raises(
        UserError, match=r'Expected SingleRoIExtractor as RoI extractor.*found GenericRoIExtractor\. Export the output'
    ):
        RoIPooling(GenericRoIExtractor(roi_layer=layer, out_channels=6, featmap_strides=[4]))
    with pytest.raises(UserError, match=r"Expected RoIAlign with pool_mode='avg'.*found pool_mode='max'"):
        RoIPooling(extractor(pool_mode='max'))
    with pytest.raises(UserError, match=r'Expected RoIAlign as layer of the RoI extractor.*found RoIPool\.'):
        RoIPooling(SingleRoIExtractor({'type': 'RoIPool', 'output_size': 7}, out_channels=6, featmap_strides=[4]))
