"""Focal losses through `mmcv.ops` against the formulas; logits (N, C), class indices (N,)."""

import pytest
import torch
import torchvision
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss


def one_hot(target, classes):
    """(N,) -> (N, C); an index of C is a row of zeros."""
    return torch.nn.functional.one_hot(target, classes + 1)[:, :classes].double()


@pytest.fixture
def logits():
    return torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


TARGET = torch.tensor([0, 1, 2, 3, 4, 1, 4])  # 4 is background


@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_sigmoid_focal_loss_equals_torchvision(logits, gamma, alpha):
    got = sigmoid_focal_loss(logits, TARGET, gamma, alpha, None, 'none')
    expected = torchvision.ops.sigmoid_focal_loss(logits, one_hot(TARGET, 4), alpha, gamma)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    mean = sigmoid_focal_loss(logits, TARGET, gamma, alpha)
    torch.testing.assert_close(mean, expected.sum() / len(logits), rtol=1e-10, atol=1e-12)


def test_class_weights_scale_rows_and_background_has_weight_one(logits):
    weight = torch.tensor([0.5, 2.0, 3.0, 4.0], dtype=torch.float64)
    plain = sigmoid_focal_loss(logits, TARGET, 2.0, 0.25, None, 'none')
    got = sigmoid_focal_loss(logits, TARGET, 2.0, 0.25, weight, 'none')
    torch.testing.assert_close(got, plain * torch.tensor([0.5, 2, 3, 4, 1, 2, 1])[:, None])


def test_sigmoid_focal_loss_of_zero_logits():
    got = sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([0]), 2.0, 0.25, None, 'none')
    log2 = torch.tensor(2.0).log()  # p = 1/2: alpha (1 - p)^2 log 2 and (1 - alpha) p^2 log 2
    torch.testing.assert_close(got, torch.stack([0.25 * 0.25 * log2, 0.75 * 0.25 * log2])[None])


def test_sigmoid_focal_loss_stays_finite_at_extreme_logits():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, 'sum')
    loss.backward()
    assert loss.isfinite() and loss > 1 and logits.grad.isfinite().all()


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
def test_gradients(logits, loss, weighted):
    target = TARGET if loss is sigmoid_focal_loss else TARGET.clamp(max=3)
    weight = torch.tensor([0.5, 2.0, 3.0, 4.0], dtype=torch.float64) if weighted else None
    for reduction in ('mean', 'sum'):
        assert torch.autograd.gradcheck(lambda x, r=reduction: loss(x, target, 2.0, 0.25, weight, r), (logits.requires_grad_(),))


def test_gradient_of_every_entry(logits):
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss(x, TARGET, 2.0, 0.25, None, 'sum').reshape(1), (logits.requires_grad_(),)
    )


def test_softmax_focal_loss_is_the_formula_and_ignores_negative_indices(logits):
    target = torch.tensor([0, 1, 2, 3, -1, 1, 0])
    got = softmax_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    p = logits.softmax(1)[torch.arange(7), target.clamp(min=0)]
    expected = torch.where(target >= 0, -0.25 * (1 - p) ** 2 * p.log(), 0.0)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    logits.requires_grad_()
    softmax_focal_loss(logits, target, 2.0, 0.25, None, 'sum').backward()
    assert (logits.grad[4] == 0).all() and (logits.grad[0] != 0).all()


def test_gamma_zero_is_cross_entropy(logits):
    target = TARGET.clamp(max=3)
    got = softmax_focal_loss(logits, target, 0.0, 1.0, None, 'mean')
    torch.testing.assert_close(got, torch.nn.functional.cross_entropy(logits, target), rtol=1e-10, atol=1e-12)
