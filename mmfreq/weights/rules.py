"""Rename tables of the published checkpoint layouts, as data.

Our names are the official ones, classifier and dense backbone together; in a segmentor or detector the backbone is `backbone.` and
the other parts have OpenMMLab's names. A `Layout` is recognised by its signs; its rows are read in both directions. `FamilyRules`
says which names a family has, which of them a model may lack and which a file may lack, each with the reason.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

BACKBONE = 'backbone.'
# what stands beside a backbone in OpenMMLab's models; these names are the same in mmseg 0.x and 1.x, mmdet 2.x and 3.x
OTHER_PARTS = r'(neck|decode_head|auxiliary_head|rpn_head|roi_head|bbox_head|mask_head|head)\.'
AFFINE = r'\.(weight|bias)'


@dataclass(frozen=True)
class Layout:
    """One way to name a family's parameters.

    Args:
        name: as users know it.
        signs: patterns; each must be found in at least one name.
        without: patterns; none may be found in any name.
        rename: rows (their start of a name, our start): `#` is a number, `$` at the end ends the name. The first row that fits a
            name is used, in either direction; a name that none fits is the same on both sides.
        wrapper: entry that holds the parameters in such files; '' for none. Used where a file of ours does not say.
        official: the authors' own. Files of ours that do not say where they come from go back to such a layout.
    """

    name: str
    signs: tuple[str, ...]
    without: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    wrapper: str = ''
    official: bool = False

    def recognises(self, names: Iterable[str]) -> bool:
        names = list(names)
        found = [any(re.search(pattern, name) for name in names) for pattern in (*self.signs, *self.without)]
        return all(found[: len(self.signs)]) and not any(found[len(self.signs) :])

    def ours(self, name: str) -> str:
        return next((new for row in self.rename if (new := restart(name, *row)) is not None), name)

    def theirs(self, name: str) -> str:
        return next((old for row in self.rename if (old := restart(name, *reversed(row))) is not None), name)


@dataclass(frozen=True)
class FamilyRules:
    """What is known of a family's names.

    Args:
        layouts: most specific first.
        only_in_files, only_in_models: (pattern, reason) of what may be absent on the other side.
        names: patterns of our names of its classifiers and backbones, each of the whole name.
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
        """Those of our names that are neither the family's nor, in a whole model, of a part beside the backbone."""
        names = list(names)
        prefix = BACKBONE if is_whole(names) else ''
        known = [re.escape(prefix) + f'({pattern})' for pattern in self.names] + [OTHER_PARTS + '.+'] * bool(prefix)
        return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in known)]


def restart(name: str, old: str, new: str) -> str | None:
    """`name` with its start `old` replaced by `new`, numbers kept; None if it starts otherwise."""
    found = _start(old).match(name)
    if not found:
        return None
    numbers = iter(found.groups())
    return re.sub('#', lambda _: next(numbers), new.removesuffix('$')) + name[found.end() :]


@cache
def _start(template: str) -> re.Pattern:
    pattern = r'(\d+)'.join(map(re.escape, template.removesuffix('$').split('#')))
    return re.compile(pattern + '$' * template.endswith('$'))


def is_whole(names: Iterable[str]) -> bool:
    """Whether our names are those of a model around a backbone."""
    return any(name.startswith(BACKBONE) for name in names)


def under(theirs: str, ours: str, rows: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Rows for names that begin with a prefix on each side."""
    return tuple((theirs + old, ours + new) for old, new in rows)


def in_whole_model(layout: Layout) -> Layout:
    """A layout's names in a segmentor or detector of OpenMMLab's libraries: below `backbone.`, here as there."""
    return replace(
        layout,
        name=f'{layout.name}, whole model',
        signs=tuple(sign.replace('^', r'^backbone\.', 1) for sign in layout.signs),
        rename=under(BACKBONE, BACKBONE, layout.rename),
        wrapper='state_dict',
    )


OTHER_OUTPUT_NORMS = (r'norm[0-3]\.', 'output norm of a stage that this model does not return')
FRESH_OUTPUT_NORMS = (r'norm[0-3]\.', 'output norms are not in classification files; they start at 1 and 0, as published')
MMPRETRAIN_HORNET = (
    ('stages.#.#.gnconv.projs.', 'stages.#.#.gnconv.pws.'),
    ('stages.#.#.gamma1.weight$', 'stages.#.#.gamma1$'),
    ('stages.#.#.gamma2.weight$', 'stages.#.#.gamma2$'),
)
# A lone norm3 is mmpretrain's classifier norm, applied to the pooled vector. Copied into a dense norm3 it would change the
# published fine-tuning, which starts from fresh output norms.
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
    only_in_files=(
        (r'norm\.', "the classifier's norm; a dense backbone has its own per stage"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
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
    only_in_files=(
        (r'norm\.', "the classifier's norm, which no dense backbone of the family has"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
    only_in_models=(FRESH_OUTPUT_NORMS,),  # of the reconstruction alone
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
    only_in_files=(
        (r'norm\.', "the classifier's norm; a dense backbone has its own per stage"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
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
CONV_NORM = (('block.conv.', 'conv.'), ('block.norm.', 'bn.'))  # CVNets' layer against mmcv's
# The names of mmseg's ASPPHead and FCNHead, not their functions: in these weights the pooled branch comes last in the concatenation
# and the bottleneck is 1x1.
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
        # other networks of CVNets: good for their encoder alone
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

# what a file is, told by a name in it: for messages, and to tell networks apart
FAMILY_SIGNS = {
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
UNKNOWN = 'no family known here'


def describe(names: Iterable[str]) -> str:
    """What a checkpoint with these names looks like, in words; `UNKNOWN` if nothing tells."""
    names = list(names)
    for family, sign in FAMILY_SIGNS.items():
        if any(re.search(sign, name) for name in names):
            return family
    return UNKNOWN


def reason(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """Why `name` may be absent, or None if nothing says so."""
    return next((why for pattern, why in table if re.match(pattern, name)), None)
