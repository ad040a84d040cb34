"""On CUDA every family agrees with the golden numbers within 1e-4."""

import pytest
import torch

import mmfreq
from mmfreq.testing.golden import golden_inputs, golden_state, read_golden, worst_error

# golden file -> (arch, arguments of the backbone)
STAGES = {
    'hornet__hornet_tiny_gf': ('hornet-tiny-gf', {}),
    'gfnet__gfnet-ti': ('gfnet-ti', {}),
    'gfnet__gfnet-h-ti': ('gfnet-h-ti', {}),
    'dfformer__dfformer_s18_seg': ('dfformer-s18', dict(img_size=512)),
    'dfformer__cdfformer_s18_seg': ('cdfformer-s18', dict(img_size=512)),
    'affnet__affnet_et': ('affnet-et', {}),
}


@pytest.mark.gpu
@pytest.mark.parametrize('name', STAGES)
def test_golden_stages(name, golden_folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    golden = read_golden(golden_folder, name)
    arch, kwargs = STAGES[name]
    model = mmfreq.build_backbone(arch, **kwargs).eval()
    mmfreq.load_weights(model, golden_state(golden['state_dict']))
    model.cuda()
    cases = [case for case in golden['cases'] if case['what'] == 'stages' and not case['training']]
    assert cases
    for case in cases:
        with torch.no_grad():
            outs = model(*(x.cuda() for x in golden_inputs(case)))
        error, stage = worst_error(outs, case['outputs'][: len(outs)])
        assert error < 1e-4, (stage, error)
