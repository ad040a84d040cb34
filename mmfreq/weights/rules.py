"""Rename rules of the published checkpoint layouts, as data.

The mmfreq layout has the authors' parameter names, classifier and dense backbone together. In a segmentor or detector the backbone
is below `backbone.`, and the other parts have OpenMMLab's names. A `Layout` is a published layout: signs that identify it, and rows
that rename in both directions. `FamilyRules` lists the layouts and names of a family, and what a file or a model may lack, with the
reason. To support another layout, add a `Layout` to its family; `tests/weights/test_convert.py` checks that each row is needed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

BACKBONE = 'backbone.'
# the parts beside the backbone in OpenMMLab's models, the same in mmseg 0.x and 1.x, mmdet 2.x and 3.x
OTHER_PARTS = r'(neck|decode_head|auxiliary_head|rpn_head|roi_head|bbox_head|mask_head|head)\.'
AFFINE = r'\.(weight|bias)'


@dataclass(frozen=True)
class Layout:
    """A published layout of a family's parameter names.

    Args:
        name: as users know it; noted in converted files.
        signs: patterns, each of which must match some name.
        without: patterns, none of which may match any name.
        rename: rows (published prefix, mmfreq prefix). `#` is a number; `$` at the end requires the whole name. The first matching
            row is used; a name without one is the same in both layouts.
        wrapper: key of the state dict in such a file, '' for none; for files whose origin is not noted.
        official: the authors' own layout. Files whose origin is not noted are converted back to it.
    """

    name: str
    signs: tuple[str, ...]
    without: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    wrapper: str = ''
    official: bool = False

    def recognises(self, names: Iterable[str]) -> bool:
        names = list(names)

        def present(pattern):
            return any(re.search(pattern, name) for name in names)

        return all(map(present, self.signs)) and not any(map(present, self.without))

    def to_mmfreq(self, name: str) -> str:
        return next((new for row in self.rename if (new := replace_prefix(name, *row)) is not None), name)

    def to_published(self, name: str) -> str:
        return next((old for row in self.rename if (old := replace_prefix(name, *reversed(row))) is not None), name)


@dataclass(frozen=True)
class FamilyRules:
    """The layouts and names of a family.

    Args:
        layouts: the most specific first.
        only_in_files, only_in_models: (pattern, reason) of names that the other side may lack.
        names: patterns of the whole names of its classifiers and backbones, in the mmfreq layout.
    """

    layouts: tuple[Layout, ...]
    only_in_files: tuple[tuple[str, str], ...]
    only_in_models: tuple[tuple[str, str], ...]
    names: tuple[str, ...] = ()

    def layout_of(self, names: Iterable[str]) -> Layout | None:
        """The first layout that recognises the names."""
        names = list(names)
        return next((layout for layout in self.layouts if layout.recognises(names)), None)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Names, in the mmfreq layout, that belong neither to the family nor, in a whole model, to a part beside the backbone."""
        names = list(names)
        prefix = BACKBONE if is_whole_model(names) else ''
        known = [re.escape(prefix) + f'({pattern})' for pattern in self.names] + [OTHER_PARTS + '.+'] * bool(prefix)
        return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in known)]


def replace_prefix(name: str, old: str, new: str) -> str | None:
    """`name` with its prefix `old` replaced by `new`, numbers kept; None for a name with another prefix."""
    found = _prefix_pattern(old).match(name)
    if not found:
        return None
    numbers = iter(found.groups())
    return re.sub('#', lambda _: next(numbers), new.removesuffix('$')) + name[found.end() :]


@cache
def _prefix_pattern(template: str) -> re.Pattern:
    pattern = r'(\d+)'.join(map(re.escape, template.removesuffix('$').split('#')))
    return re.compile(pattern + '$' * template.endswith('$'))


def is_whole_model(names: Iterable[str]) -> bool:
    """Whether names in the mmfreq layout are those of a segmentor or detector, with the backbone below `backbone.`."""
    return any(name.startswith(BACKBONE) for name in names)


def under(published: str, mmfreq: str, rows: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The rows with a further prefix on each side."""
    return tuple((published + old, mmfreq + new) for old, new in rows)


def in_whole_model(layout: Layout) -> Layout:
    """A layout in a segmentor or detector of OpenMMLab: all names below `backbone.` on both sides."""
    return replace(
        layout,
        name=f'{layout.name}, whole model',
        signs=tuple(sign.replace('^', r'^backbone\.', 1) for sign in layout.signs),
        rename=under(BACKBONE, BACKBONE, layout.rename),
        wrapper='state_dict',
    )


CLASSIFIER_PARTS = (
    (r'norm\.', "the classifier's final norm"),
    (r'head\.', "the classifier's head"),
    (r'norm[0-3]\.', 'output norm of a stage that this model does not return'),
)
FRESH_OUTPUT_NORMS = (r'norm[0-3]\.', 'classification files have no output norms; they start at 1 and 0, as published')
MMPRETRAIN_HORNET = (
    ('stages.#.#.gnconv.projs.', 'stages.#.#.gnconv.pws.'),
    ('stages.#.#.gamma1.weight$', 'stages.#.#.gamma1$'),
    ('stages.#.#.gamma2.weight$', 'stages.#.#.gamma2$'),
)
# mmpretrain's classifiers call the norm of the pooled vector norm3. Loaded as the dense norm3 it would change the published
# fine-tuning, which starts from fresh output norms.
LONE_NORM = ('norm3.', 'norm.')
HEAD = ('head.fc.', 'head.')
HORNET_OFFICIAL = Layout('official', signs=(r'^stages\.\d+\.\d+\.gnconv\.proj_in\.',), wrapper='model', official=True)
HORNET_MMPRETRAIN = Layout(
    'mmpretrain', signs=(r'^stages\.\d+\.\d+\.gnconv\.projs\.',), rename=MMPRETRAIN_HORNET, wrapper='state_dict'
)
HORNET = FamilyRules(
    layouts=(
        Layout(
            'mmpretrain classifier',
            signs=(r'^backbone\.stages\.\d+\.\d+\.gnconv\.projs\.', r'^backbone\.norm3\.'),
            without=(r'^backbone\.norm[012]\.', r'^(neck|decode_head|auxiliary_head|rpn_head|roi_head|bbox_head)\.'),
            rename=(HEAD, *under(BACKBONE, '', (LONE_NORM, *MMPRETRAIN_HORNET)), (BACKBONE, '')),
            wrapper='state_dict',
        ),
        in_whole_model(HORNET_MMPRETRAIN),
        in_whole_model(HORNET_OFFICIAL),
        replace(
            HORNET_MMPRETRAIN,
            name='mmpretrain classifier without prefix',
            signs=(*HORNET_MMPRETRAIN.signs, r'^norm3\.'),
            without=(r'^norm[012]\.',),
            rename=(LONE_NORM, *MMPRETRAIN_HORNET, HEAD),
        ),
        HORNET_MMPRETRAIN,
        HORNET_OFFICIAL,
    ),
    only_in_files=CLASSIFIER_PARTS,
    only_in_models=(FRESH_OUTPUT_NORMS,),
    names=(
        rf'downsample_layers\.\d\.[01]{AFFINE}',
        rf'stages\.\d\.\d+\.(norm[12]|pwconv[12]|gnconv\.(proj_in|proj_out|pws\.\d|dwconv|dwconv\.(pre|post)_norm)){AFFINE}',
        r'stages\.\d\.\d+\.(gamma[12]|gnconv\.dwconv\.(complex_weight|dw\.weight))',
        rf'(norm[0-3]?|head){AFFINE}',
    ),
)
GFNET_OFFICIAL = (
    Layout('official isotropic', signs=(r'^blocks\.\d+\.filter\.complex_weight$',), wrapper='model', official=True),
    Layout('official pyramid', signs=(r'^blocks\.\d+\.\d+\.filter\.complex_weight$',), wrapper='model', official=True),
    Layout('our reconstruction', signs=(r'^stages\.\d+\.\d+\.filter\.complex_weight$',), wrapper='model', official=True),
)
GFNET = FamilyRules(
    layouts=(*map(in_whole_model, GFNET_OFFICIAL), *GFNET_OFFICIAL),
    only_in_files=CLASSIFIER_PARTS,
    only_in_models=(FRESH_OUTPUT_NORMS,),  # only the reconstruction has them
    names=(
        rf'pos_embed|patch_embed\.(\d\.)?proj{AFFINE}',
        rf'blocks\.\d+\.(\d+\.)?((norm[12]|mlp\.fc[12]){AFFINE}|filter\.complex_weight|gamma)',
        rf'downsample_layers\.\d\.[01]{AFFINE}',
        rf'stages\.\d\.\d+\.((filter\.(pre|post)_norm|mlp\.fc[12]){AFFINE}|filter\.(complex_weight|dw\.weight)|gamma)',
        rf'(norm[0-3]?|head){AFFINE}',
    ),
)
DFFORMER_OFFICIAL = Layout('official', signs=(r'^stages\.\d+\.\d+\.token_mixer\.pwconv1\.weight$',), official=True)
DFFORMER = FamilyRules(
    layouts=(in_whole_model(DFFORMER_OFFICIAL), DFFORMER_OFFICIAL),
    only_in_files=CLASSIFIER_PARTS,
    only_in_models=(FRESH_OUTPUT_NORMS,),
    names=(
        rf'downsample_layers\.\d\.(conv{AFFINE}|(pre|post)_norm\.weight)',
        r'stages\.\d\.\d+\.(norm[12]\.weight|res_scale[12]\.scale)',
        r'stages\.\d\.\d+\.(mlp|token_mixer\.reweight)\.(fc[12]\.weight|act\.(scale|bias))',
        r'stages\.\d\.\d+\.token_mixer\.(complex_weights|[wb][12]|(pwconv[12]|dwconv)\.weight|act1\.(scale|bias))',
        rf'(norm[0-3]?|head\.(fc[12]|norm)){AFFINE}',
    ),
)
AFFNET_OFFICIAL = Layout('official', signs=(r'^layer_3\.1\.global_rep\.0\.filter\.w1$',), official=True)
CVNETS_ENCODER = r'^encoder\.layer_3\.1\.global_rep\.0\.filter\.w1$'
ASPP = 'seg_head.aspp.aspp_layer.'
CONV_NORM = (('block.conv.', 'conv.'), ('block.norm.', 'bn.'))  # CVNets' ConvLayer to mmcv's ConvModule
# Only the names are those of mmseg's ASPPHead and FCNHead: in these weights the pooled branch is the last of the concatenation and
# the bottleneck is 1x1.
CVNETS_DEEPLABV3 = (
    *under(f'{ASPP}convs.4.aspp_pool.conv_1x1.', 'decode_head.image_pool.1.', CONV_NORM),
    *under(f'{ASPP}convs.#.', 'decode_head.aspp_modules.#.', CONV_NORM),
    *under(f'{ASPP}project.', 'decode_head.bottleneck.', CONV_NORM),
    ('seg_head.classifier.block.conv.', 'decode_head.conv_seg.'),
    *under('seg_head.aux_head.0.', 'auxiliary_head.convs.0.', CONV_NORM),
    ('seg_head.aux_head.2.block.conv.', 'auxiliary_head.conv_seg.'),
)
AFFNET = FamilyRules(
    layouts=(
        Layout(
            'CVNets DeepLabv3',
            signs=(CVNETS_ENCODER, r'^seg_head\.aspp\.'),
            rename=(('encoder.', BACKBONE), *CVNETS_DEEPLABV3),
            official=True,
        ),
        Layout(
            'CVNets SSDLite',
            signs=(CVNETS_ENCODER, r'^ssd_heads\.'),
            rename=(('encoder.', BACKBONE), ('extra_layers.', 'neck.extra_layers.'), ('ssd_heads.', 'bbox_head.ssd_heads.')),
            official=True,
        ),
        # other networks of CVNets: only their encoder is used
        Layout('CVNets encoder', signs=(CVNETS_ENCODER,), rename=(('encoder.', BACKBONE),)),
        in_whole_model(AFFNET_OFFICIAL),
        AFFNET_OFFICIAL,
    ),
    only_in_files=(
        (r'conv_1x1_exp\.', "the classifier's last convolution"),
        (r'classifier\.', "the classifier's head"),
    ),
    only_in_models=(),
    names=(
        r'(conv_1|conv_1x1_exp|layer_\d\.\d+(\.global_rep\.\d+\.mlp)?\.block\.(exp_1x1|conv_3x3|red_1x1)|layer_\d\.1\.(conv_proj|fusion))'
        r'\.block\.(conv\.weight|norm\.(weight|bias|running_mean|running_var|num_batches_tracked))',
        rf'layer_\d\.1\.global_rep\.\d+((\.norm[12])?{AFFINE}|\.filter\.[wb][12])',
        rf'classifier\.fc{AFFINE}',
    ),
)
RULES = {'hornet': HORNET, 'gfnet': GFNET, 'dfformer': DFFORMER, 'affnet': AFFNET}

# architecture -> pattern of a name that only it has; for messages, and to refuse the files of other architectures
ARCHITECTURE_SIGNS = {
    'HorNet': r'stages\.\d+\.\d+\.gnconv\.',
    'GFNet (isotropic)': r'blocks\.\d+\.filter\.complex_weight',
    'GFNet-CNN (our reconstruction)': r'stages\.\d+\.\d+\.filter\.complex_weight',
    'GFNet-H (pyramid)': r'blocks\.\d+\.\d+\.filter\.complex_weight',
    'DFFormer or CDFFormer': r'token_mixer\.(complex_weights|reweight|pwconv1)',
    'MobileViT (CVNets names)': r'layer_\d\.\d+\.(local_rep|global_rep\.\d+\.pre_norm)',
    'AFFNet (CVNets names)': r'layer_\d\.\d+\.(block\.exp_1x1|global_rep)',
    'ConvNeXt': r'stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.',
    'a ResNet': r'layer[1-4]\.\d+\.conv1\.',
    'a Swin transformer': r'relative_position_bias_table',
    'a vision transformer': r'(cls_token|attn\.qkv)',
}
UNKNOWN = 'no known architecture'


def describe(names: Iterable[str]) -> str:
    """The architecture that the names of a checkpoint indicate; `UNKNOWN` for none."""
    names = list(names)
    return next((what for what, sign in ARCHITECTURE_SIGNS.items() if any(re.search(sign, name) for name in names)), UNKNOWN)


def reason(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """The reason why `name` may be absent, from a table of (pattern, reason); None if no pattern matches."""
    return next((why for pattern, why in table if re.match(pattern, name)), None)
