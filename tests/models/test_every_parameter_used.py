"""Every parameter has a gradient for any `out_indices`, as DDP requires."""

import pytest
import torch

from mmfreq.models._factory import list_archs
from mmfreq.testing.whole_models import MICRO, SUBSETS, backbones, total, whole_models


def unused(build):
    """Names of the parameters without a gradient."""
    model = build().train()
    total(model(torch.randn(2, 3, 64, 64))).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    return [name for name, p in trained.items() if p.grad is None]


def test_lists_are_complete_and_the_check_finds_an_unused_parameter():
    assert set(MICRO) == {arch for arch in list_archs() if 'micro' in arch} and len(MICRO) == 7
    assert len(set(SUBSETS)) == 2**4 - 1
    assert len(list(backbones())) == (6 + 3) * len(SUBSETS)  # AFFNet with three output strides

    def idle():
        model = next(backbones())[1]()
        model.idle = torch.nn.Linear(1, 1, bias=False)
        return model

    assert unused(idle) == ['idle.weight']


@pytest.mark.slow
@pytest.mark.parametrize('arch', MICRO)
def test_backbones_with_each_choice_of_stages(arch):
    found = {name: unused(build) for name, build in backbones() if name.startswith(f'{arch},')}
    assert len(found) >= len(SUBSETS) and not {name: names for name, names in found.items() if names}


def test_classifiers_necks_and_heads():
    found = {name: unused(build) for name, build in whole_models()}
    assert len(found) > 15 and not {name: names for name, names in found.items() if names}
