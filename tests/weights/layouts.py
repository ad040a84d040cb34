"""Checkpoints in every published layout, made from the names and shapes of the golden files and of mmfreq's models."""

import re
from functools import cache
from pathlib import Path

import torch

import mmfreq
from mmfreq.testing.golden import golden_state, read_golden

GOLDEN = Path(__file__).parents[1] / 'golden'
# golden file -> family
OFFICIAL = {
    'hornet__hornet_tiny_7x7_logits': 'hornet',
    'hornet__hornet_tiny_gf': 'hornet',
    'hornet__hornet_small_7x7': 'hornet',
    'gfnet__gfnet-ti': 'gfnet',
    'gfnet__gfnet-h-ti': 'gfnet',
    'dfformer__dfformer_s18': 'dfformer',
    'dfformer__cdfformer_s18': 'dfformer',
    'dfformer__cdfformer_s18_seg': 'dfformer',
    'dfformer__dfformer_s18_afno': 'dfformer',
    'dfformer__dfformer_s18_relu': 'dfformer',
    'affnet__affnet_et': 'affnet',
    'affnet__affnet_t': 'affnet',
    'affnet__affnet_et_deeplabv3': 'affnet',
    'affnet__affnet_et_ssdlite': 'affnet',
}
MICRO = {
    'hornet': 'hornet-micro',
    'gfnet': 'gfnet-micro',
    'gfnet-h': 'gfnet-h-micro',
    'dfformer': 'dfformer-micro',
    'cdfformer': 'cdfformer-micro',
    'affnet': 'affnet-micro',
}
HEADS = {'decode_head.conv_seg.weight': (5, 16, 1, 1), 'auxiliary_head.convs.0.conv.weight': (4, 4, 3, 3), 'neck.x.weight': (2, 2)}
DETECTION = {
    'neck.lateral_convs.0.conv.weight': (4, 4, 1, 1),
    'rpn_head.rpn_cls.bias': (3,),
    'roi_head.bbox_head.0.fc_cls.bias': (4,),
}


def named(names, prefix=''):
    """Small, different tensors by name; renaming does not depend on shapes."""
    return {prefix + name: torch.full((2,), float(i)) for i, name in enumerate(names)}


def official(golden):
    """The published names of a golden file, with small tensors."""
    return named(read_golden(GOLDEN, golden)['state_dict'])


def classifier_state(arch, num_classes=7):
    """A new dict; all tests share its tensors."""
    return dict(_state(mmfreq.build_classifier, arch, num_classes))


def dense_state(arch):
    """A new dict; all tests share its tensors."""
    return dict(_state(mmfreq.build_backbone, arch))


@cache
def _state(build, *args):
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in build(*args).state_dict().items()}
    return golden_state(shapes)


def cleared(model):
    """The model with all values set to zero, to load it again."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    return model


def to_mmpretrain(state, prefix='backbone.'):
    """An official state dict in the names of mmpretrain's HorNet."""
    out = {}
    for name, value in state.items():
        name = name.replace('.pws.', '.projs.')
        name = re.sub(r'(gamma[12])$', r'\1.weight', name)
        name = re.sub(r'^norm\.', 'norm3.', name)
        out[name.replace('head.', 'head.fc.') if name.startswith('head.') else prefix + name] = value
    return out


def every_layout():
    """`{case: (family, state dict)}` for every published layout, without wrappers."""
    out = {name: (family, official(name)) for name, family in OFFICIAL.items()}
    tiny, dense = official('hornet__hornet_tiny_7x7_logits'), official('hornet__hornet_tiny_gf')
    out['mmpretrain classifier'] = 'hornet', to_mmpretrain(tiny)
    out['mmpretrain classifier without prefix'] = 'hornet', to_mmpretrain(tiny, '')
    out['mmpretrain dense'] = 'hornet', to_mmpretrain(dense, '')
    out['mmpretrain in a segmentor'] = 'hornet', to_mmpretrain(dense) | named(HEADS)
    for golden in ('hornet__hornet_tiny_gf', 'gfnet__gfnet-h-ti', 'dfformer__cdfformer_s18_seg', 'affnet__affnet_et'):
        names = [name for name in official(golden) if not re.match(r'(norm|head|conv_1x1_exp|classifier)\.', name)]
        out[f'{golden} segmentor'] = OFFICIAL[golden], named(names, 'backbone.') | named(HEADS)
        out[f'{golden} detector'] = OFFICIAL[golden], named(names, 'backbone.') | named(DETECTION)
    uper = official('hornet__gnuperhead_gngf')
    out['segmentor with HorFPN'] = 'hornet', named(dense, 'backbone.') | named(uper, 'decode_head.')
    aux = ['0.block.conv.weight', '0.block.norm.bias', '0.block.norm.running_var', '2.block.conv.weight', '2.block.conv.bias']
    out['DeepLabv3 with auxiliary head'] = 'affnet', official('affnet__affnet_et_deeplabv3') | named(aux, 'seg_head.aux_head.')
    return out
