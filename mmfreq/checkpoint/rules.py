"""Rename tables of the published checkpoint layouts, as data.

Our names are the official ones, classifier and dense backbone together. A `Layout` is recognised by its signs and renames to them;
`FamilyRules` says which official names a model may lack and which of its parameters a file may lack, each with the reason.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """One way to name a family's parameters.

    Args:
        name: as users know it.
        signs: patterns; each must be found in at least one name.
        without: patterns; none may be found in any name.
        rename: (pattern, replacement) pairs, anchored at the start; the first that matches a name is used.
    """

    name: str
    signs: tuple[str, ...]
    without: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()

    def recognises(self, names: Iterable[str]) -> bool:
        names = list(names)
        found = [any(re.search(pattern, name) for name in names) for pattern in (*self.signs, *self.without)]
        return all(found[: len(self.signs)]) and not any(found[len(self.signs) :])

    def official(self, name: str) -> str:
        for pattern, replacement in self.rename:
            new, count = re.subn('^(?:' + pattern + ')', replacement, name)
            if count:
                return new
        return name


@dataclass(frozen=True)
class FamilyRules:
    """Layouts of a family, most specific first, and what may be absent on either side: (pattern, reason)."""

    layouts: tuple[Layout, ...]
    only_in_files: tuple[tuple[str, str], ...]
    only_in_models: tuple[tuple[str, str], ...]


OTHER_OUTPUT_NORMS = (r'norm[0-3]\.', 'output norm of a stage that this model does not return')
FRESH_OUTPUT_NORMS = (r'norm[0-3]\.', 'output norms are not in classification files; they start at 1 and 0, as published')
MMPRETRAIN_HORNET = (
    (r'(stages\.\d+\.\d+\.gnconv)\.projs\.', r'\1.pws.'),
    (r'(stages\.\d+\.\d+\.gamma[12])\.weight$', r'\1'),
    (r'head\.fc\.', 'head.'),
)
HORNET = FamilyRules(
    layouts=(
        # A lone norm3 is mmpretrain's classifier norm, applied to the pooled vector. Copied into a dense norm3 it would change
        # the published fine-tuning, which starts from fresh output norms.
        Layout(
            'mmpretrain classifier',
            signs=(r'\.gamma1\.weight$', r'^norm3\.'),
            without=(r'^norm[012]\.',),
            rename=((r'norm3\.', 'norm.'), *MMPRETRAIN_HORNET),
        ),
        Layout('mmpretrain', signs=(r'\.gamma1\.weight$',), rename=MMPRETRAIN_HORNET),
        Layout('official', signs=(r'^stages\.\d+\.\d+\.gnconv\.proj_in\.',)),
    ),
    only_in_files=(
        (r'norm\.', "the classifier's norm; a dense backbone has its own per stage"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
    only_in_models=(FRESH_OUTPUT_NORMS,),
)
GFNET = FamilyRules(
    layouts=(
        Layout('official isotropic', signs=(r'^blocks\.\d+\.filter\.complex_weight$',)),
        Layout('official pyramid', signs=(r'^blocks\.\d+\.\d+\.filter\.complex_weight$',)),
        Layout('our reconstruction', signs=(r'^stages\.\d+\.\d+\.filter\.complex_weight$',)),
    ),
    only_in_files=(
        (r'norm\.', "the classifier's norm, which no dense backbone of the family has"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
    only_in_models=(FRESH_OUTPUT_NORMS,),  # of the reconstruction alone
)
DFFORMER = FamilyRules(
    layouts=(Layout('official', signs=(r'^stages\.\d+\.\d+\.token_mixer\.pwconv1\.weight$',)),),
    only_in_files=(
        (r'norm\.', "the classifier's norm; a dense backbone has its own per stage"),
        (r'head\.', "the classifier's head"),
        OTHER_OUTPUT_NORMS,
    ),
    only_in_models=(FRESH_OUTPUT_NORMS,),
)
AFFNET = FamilyRules(
    layouts=(Layout('official', signs=(r'^layer_3\.1\.global_rep\.0\.filter\.w1$',)),),
    only_in_files=(
        (r'conv_1x1_exp\.', "the classifier's last convolution"),
        (r'classifier\.', "the classifier's head"),
    ),
    only_in_models=(),
)
RULES = {'hornet': HORNET, 'gfnet': GFNET, 'dfformer': DFFORMER, 'affnet': AFFNET}

# what a foreign file is, told by a name in it; for messages only
FAMILY_SIGNS = {
    'HorNet': r'gnconv\.',
    'GFNet (isotropic)': r'blocks\.\d+\.filter\.complex_weight',
    'GFNet-CNN (our reconstruction)': r'stages\.\d+\.\d+\.filter\.complex_weight',
    'GFNet-H (pyramid)': r'blocks\.\d+\.\d+\.filter\.complex_weight',
    'DFFormer or CDFFormer': r'token_mixer\.(complex_weights|reweight|pwconv1)',
    'AFFNet (CVNets names)': r'layer_\d\.\d+\.(block\.exp_1x1|global_rep)',
    'ConvNeXt': r'stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.',
    'a ResNet': r'layer[1-4]\.\d+\.conv1\.',
    'a Swin transformer': r'relative_position_bias_table',
    'a vision transformer': r'(cls_token|attn\.qkv)',
}


def describe(names: Iterable[str]) -> str:
    """What a checkpoint with these names looks like, in words."""
    names = list(names)
    for family, sign in FAMILY_SIGNS.items():
        if any(re.search(sign, name) for name in names):
            return family
    return 'no family known here'


def reason(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    """Why `name` may be absent, or None if nothing says so."""
    return next((why for pattern, why in table if re.match(pattern, name)), None)
