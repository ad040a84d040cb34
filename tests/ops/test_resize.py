"""Each resize policy preserves what its documentation promises."""

import pytest
import torch
from torch.nn.functional import interpolate

from mmfreq.ops import RESIZE_POLICIES, apply_filter, half_width, resize_filter
from mmfreq.testing import naming

RESIZING = [policy for policy in RESIZE_POLICIES if policy != 'none']


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def transfer_function(kernel):
    return torch.view_as_real(torch.fft.rfft2(kernel))


@pytest.mark.parametrize('policy', RESIZING)
@pytest.mark.parametrize('size', [(7, 7), (14, 15), (8, 8), (5, 1), (1, 5)])
def test_shape_and_identity_at_the_stored_size(policy, size):
    weight = random(3, size[0], half_width(size[1]), 2)
    assert resize_filter(weight, size, policy, width=size[1]) is weight
    for other in [(24, 24), (9, 13), (5, 6), (1, 1), (3, 40)]:
        assert resize_filter(weight, other, policy, width=size[1]).shape == (3, other[0], half_width(other[1]), 2)


@pytest.mark.parametrize('policy', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(24, 24), (9, 13), (5, 6)])
def test_published_rule(policy, size):
    """(C, h, F, 2) viewed as 2 x C x h x F, interpolated with corners on corners."""
    weight = random(3, 14, 8, 2)
    want = interpolate(weight.permute(3, 0, 1, 2), size=(size[0], half_width(size[1])), mode=policy, align_corners=True).permute(
        1, 2, 3, 0
    )
    torch.testing.assert_close(resize_filter(weight, size, policy), want)


@pytest.mark.parametrize('policy', ['bilinear', 'bicubic'])
def test_corners_stay(policy):
    weight = random(3, 14, 8, 2)
    out = resize_filter(weight, (25, 42), policy)
    for corner in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        torch.testing.assert_close(out[:, corner[0], corner[1]], weight[:, corner[0], corner[1]])


@pytest.mark.parametrize('policy', RESIZING)
def test_axes_may_be_anywhere(policy):
    weight = random(3, 14, 8, 2)
    want = resize_filter(weight, (9, 12), policy)
    got = resize_filter(weight.permute(1, 2, 0, 3), (9, 12), policy, dims=(0, 1))
    torch.testing.assert_close(got.permute(2, 0, 1, 3), want)


@pytest.mark.parametrize('size', [(14, 14), (15, 13), (9, 16), (7, 7)])
def test_kernel_policy_preserves_a_small_kernel_in_pixels(size):
    """A 5x5 kernel on an 11x11 grid has the same effect on every grid that contains it."""
    small = random(2, 5, 5)

    def on_grid(size):
        kernel = torch.zeros(2, *size, dtype=torch.float64)
        kernel[:, :5, :5] = small
        return transfer_function(kernel.roll((-2, -2), (-2, -1)))

    torch.testing.assert_close(resize_filter(on_grid((11, 11)), size, 'kernel'), on_grid(size), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('stored', [(8, 8), (7, 7), (8, 7)])
@pytest.mark.parametrize('size', [(16, 16), (9, 20), (6, 6), (5, 7)])
def test_modes_policy_preserves_the_response_to_each_wave(stored, size):
    """A wave of (u, v) cycles per image has the same gain and phase on both grids, below both Nyquist limits."""
    weight = random(1, stored[0], half_width(stored[1]), 2)
    resized = resize_filter(weight, size, 'modes', width=stored[1])
    checked = 0
    for u in range(-2, 3):
        for v in range(1, 3):
            gains = []
            for (height, width), w in ((stored, weight), (size, resized)):
                if abs(u) * 2 >= height or v * 2 >= width:
                    break
                rows, columns = (torch.arange(n, dtype=torch.float64) / n for n in (height, width))
                phase = 2 * torch.pi * (u * rows[:, None] + v * columns)
                wave = torch.cos(phase)[None, None]
                out = apply_filter(wave, w)[0, 0]
                gains.append(2 * (out * torch.exp(-1j * phase)).mean())
            if len(gains) == 2:
                torch.testing.assert_close(gains[0], gains[1], rtol=1e-9, atol=1e-9)
                checked += 1
    assert checked >= 4


@pytest.mark.parametrize('policy', ['kernel', 'modes'])
def test_growing_and_shrinking_back_is_the_identity_on_the_operator(policy):
    """For an odd stored grid there is no Nyquist frequency, so nothing is lost."""
    weight = transfer_function(random(2, 7, 9))
    back = resize_filter(resize_filter(weight, (12, 15), policy, width=9), (7, 9), policy, width=15)
    torch.testing.assert_close(back, weight, rtol=1e-10, atol=1e-10)


def test_policy_none_raises_for_another_size():
    with pytest.raises(ValueError, match=naming('7x7', '8x9')):
        resize_filter(random(1, 7, 4, 2), (8, 9), 'none')


def test_unknown_policy_raises():
    with pytest.raises(ValueError, match=naming('nearest', *RESIZE_POLICIES)):
        resize_filter(random(1, 7, 4, 2), (8, 8), 'nearest')
