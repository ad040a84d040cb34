"""AdaptiveFrequencyFilter: published numbers, the formula in complex numbers, gradients."""

import pytest
import torch
from torch.nn import functional as F

from mmfreq.layers import AdaptiveFrequencyFilter
from mmfreq.testing import naming
from mmfreq.testing.golden import golden_inputs, golden_loss, golden_state, read_golden, worst_error


@pytest.mark.parametrize('spectral', ['fft', 'matmul'])
def test_golden_outputs_and_gradients(spectral, golden_folder, within_limit):
    golden = read_golden(golden_folder, 'affnet__aff_token_mixer')
    contents = [case['what'] for case in golden['cases']]
    assert contents == ['module', 'module', 'module', 'gradients']
    for case in golden['cases']:
        layer = AdaptiveFrequencyFilter(64, threshold=case['kwargs']['sparsity_threshold'], spectral=spectral)
        layer.load_state_dict(golden_state(golden['state_dict']))
        x = golden_inputs(case)[0].requires_grad_()
        out = layer(x)
        outs = [out]
        if case['what'] == 'gradients':
            loss = golden_loss(outs)
            loss.backward()
            within_limit('affnet loss', abs(loss.item() / case['loss_value'] - 1))
            grads = {name: param.grad for name, param in layer.named_parameters()} | {'input': x.grad}
            outs = [grads[o['name']] for o in case['outputs']]
        within_limit(f'affnet {"gradients" if case["what"] == "gradients" else "outputs"}', *worst_error(outs, case['outputs']))


@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 1)])
@pytest.mark.parametrize('act', ['silu', 'relu', 'gelu'])
def test_output_is_the_formula_in_complex_numbers(size, act):
    layer = AdaptiveFrequencyFilter(8, blocks=2, threshold=0.05, act=act)
    for param in layer.parameters():
        param.data = torch.randn_like(param)
    x = torch.randn(2, 8, *size)
    spec = torch.fft.rfft2(x, norm='ortho')
    w1, b1, w2, b2 = (torch.complex(*getattr(layer, name)) for name in ('w1', 'b1', 'w2', 'b2'))
    blocks = spec.unflatten(1, (2, 4))  # contiguous groups of channels
    hidden = torch.einsum('bkihf,kio->bkohf', blocks, w1) + b1[None, :, :, None, None]
    hidden = torch.complex(getattr(F, act)(hidden.real), getattr(F, act)(hidden.imag))
    mask = torch.einsum('bkihf,kio->bkohf', hidden, w2) + b2[None, :, :, None, None]
    mask = torch.complex(F.softshrink(mask.real, 0.05), F.softshrink(mask.imag, 0.05)).flatten(1, 2)
    want = x + torch.fft.irfft2(mask * spec, s=size, norm='ortho')
    torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-5)


def test_biases_below_the_threshold_give_the_identity():
    layer = AdaptiveFrequencyFilter(8, threshold=0.5)
    for name in ('w1', 'w2'):
        getattr(layer, name).data.zero_()
    layer.b2.data.fill_(0.4)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(layer(x), x, rtol=0, atol=1e-6)
    layer.b2.data[0] = 1.5  # a mask of 1 everywhere, real
    torch.testing.assert_close(layer(x), 2 * x, rtol=1e-5, atol=1e-5)


def test_exact_gradients_in_float64():
    layer = AdaptiveFrequencyFilter(4, blocks=2).double()
    for param in layer.parameters():
        param.data = torch.randn_like(param)
    x = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    names, params = zip(*((n, p.detach().requires_grad_()) for n, p in layer.named_parameters()))
    assert torch.autograd.gradcheck(lambda x, *p: torch.func.functional_call(layer, dict(zip(names, p)), (x,)), (x, *params))


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match=naming(8, 20)):
        AdaptiveFrequencyFilter(20)
    with pytest.raises(ValueError, match=naming('act', 'tanh', 'silu', 'relu', 'gelu')):
        AdaptiveFrequencyFilter(16, act='tanh')
