"""
Features and learned filters
============================

This tutorial builds a backbone, computes features for images of several sizes, trains one global
filter, shows what it learned in the frequency domain and in space, compares the policies that
resize a filter, and prepares a model for inference.
"""

import matplotlib.pyplot as plt
import torch

import mmfreq
from mmfreq.analysis.flops import count
from mmfreq.layers import GlobalFilter
from mmfreq.ops import resize_filter

torch.manual_seed(0)
plt.rcParams.update({'figure.dpi': 120, 'font.size': 9, 'axes.titlesize': 9})

# %%
# Choose an architecture
# ----------------------
# ``list_archs`` returns the names of one family or of all families. The same name is used
# everywhere: in Python, in configs, in timm and in the model zoo.

for family in ('hornet', 'gfnet', 'dfformer', 'affnet'):
    archs = [arch for arch in mmfreq.list_archs(family) if 'micro' not in arch]  # micro: for tests
    print(f'{family:9} {len(archs):2} archs: {", ".join(archs[:3])} ...')

# %%
# Compute features
# ----------------
# ``build_backbone`` returns a ``torch.nn.Module``. It maps a batch of images to a tuple of
# feature maps, one for each index in ``out_indices``. Any image size from 32x32 works. The sides
# do not have to be multiples of 32; the strided convolutions round down.

backbone = mmfreq.build_backbone('gfnet-h-ti', out_indices=(0, 1, 2, 3)).eval()
print('channels', backbone.out_channels, 'strides', backbone.out_strides)
for height, width in ((224, 224), (256, 320), (375, 500)):
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, height, width))
    print(
        f'{height}x{width}:',
        ', '.join(f'{f.shape[1]} x {f.shape[2]}x{f.shape[3]}' for f in features),
    )

# %%
# The weights are random here. ``mmfreq.load_weights(model, FILE)`` loads the published files: see
# :doc:`/weights`.
#
# ``count`` reports parameters and multiply-adds, Fourier transforms included. Most FLOP counters
# count a Fourier transform as zero.

for arch in ('gfnet-h-ti', 'hornet-tiny-gf', 'dfformer-s18', 'affnet'):
    cost = count(mmfreq.build_backbone(arch), 224)
    print(f'{arch:15} {cost.params / 1e6:5.1f}M parameters, {cost.macs.total / 1e9:4.2f} GMACs')

# %%
# Train a filter
# --------------
# A ``GlobalFilter`` multiplies the spectrum of each channel by a learned complex number for each
# frequency. That is a circular convolution with a kernel as large as the map. One layer can
# therefore learn any such convolution. Here the target is a motion blur: the mean of seven pixels
# along a diagonal.

side = 32
layer = GlobalFilter(channels=1, grid=side)
optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
initial = layer.complex_weight.detach().clone()


def motion_blur(images):
    """Mean over seven pixels along the diagonal, with circular borders."""
    return sum(torch.roll(images, (i, i), dims=(2, 3)) for i in range(-3, 4)) / 7


losses = []
for _ in range(300):
    images = torch.randn(16, 1, side, side)
    loss = (layer(images) - motion_blur(images)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f'mean squared error: {losses[0]:.3f} at the start, {losses[-1]:.1e} at the end')

# %%
# The parameter stores the half spectrum: ``side // 2 + 1`` columns, real and imaginary part in
# the last axis. The figure shows the full spectrum with frequency zero in the center, and the
# kernel, which is the response to a single bright pixel.


def gain(weight):
    """Absolute value of the full spectrum, (H, W), frequency zero in the center."""
    kernel = torch.fft.irfft2(torch.view_as_complex(weight[0].contiguous()), s=(side, side))
    return torch.fft.fftshift(torch.fft.fft2(kernel).abs())


def kernel(weight, size):
    """Response to one bright pixel in the center of a map of `size` x `size` pixels."""
    spectrum = torch.view_as_complex(weight[0].contiguous())
    return torch.fft.fftshift(torch.fft.irfft2(spectrum, s=(size, size)))


impulse = torch.zeros(1, 1, side, side)
impulse[..., side // 2, side // 2] = 1
target = motion_blur(impulse)[0, 0]
learned = layer.complex_weight.detach()

figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.3), layout='constrained')
truth = torch.fft.fftshift(torch.fft.fft2(target).abs())
for column, (title, spectrum, response) in enumerate(
    (
        ('before training', gain(initial), kernel(initial, side)),
        ('after 300 iterations', gain(learned), kernel(learned, side)),
        ('target', truth, target),
    )
):
    shown = axes[0, column].imshow(spectrum, cmap='magma', vmin=0, vmax=1)
    axes[0, column].set_title(title)
    drawn = axes[1, column].imshow(response, cmap='RdBu_r', vmin=-1 / 7, vmax=1 / 7)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel('gain, frequency domain')
axes[1, 0].set_ylabel('kernel, space')
figure.colorbar(shown, ax=axes[0], shrink=0.9)
figure.colorbar(drawn, ax=axes[1], shrink=0.9)
plt.show()

# %%
# ``tools/plot_filters.py CONFIG CHECKPOINT`` draws the same two views for every filter of a
# trained model.
#
# Resize a filter
# ---------------
# A filter is stored for one grid. For a map of another size, the layer resizes it in ``forward``.
# The policy decides what stays the same:
#
# - ``kernel`` keeps the kernel in pixels. The blur has the same length on a larger map.
# - ``modes`` keeps the response in cycles per image. The blur grows with the map.
# - ``bilinear`` and ``bicubic`` interpolate the stored half spectrum like an image. This keeps
#   the kernel in pixels approximately, and weakens what is far from its center. The published
#   weights were trained with one of these two, so they are the defaults.
#
# :func:`mmfreq.ops.resize_filter` describes all policies.

size = 48
figure, axes = plt.subplots(1, 4, figsize=(6.4, 2.1), layout='constrained')
axes[0].imshow(kernel(learned, side), cmap='RdBu_r', vmin=-1 / 7, vmax=1 / 7)
axes[0].set_title(f'stored, {side}x{side}')
for ax, policy in zip(axes[1:], ('kernel', 'modes', 'bilinear')):
    resized = kernel(resize_filter(learned, (size, size), policy, dims=(1, 2)), size)
    ax.imshow(resized, cmap='RdBu_r', vmin=-1 / 7, vmax=1 / 7)
    ax.set_title(f'{policy}, {size}x{size}')
    center, end = resized[size // 2, size // 2], resized[size // 2 + 3, size // 2 + 3]
    print(f'{policy:8}  in the center {center:.3f}, at the end {end:.3f}')
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Prepare a model for inference
# -----------------------------
# ``mmfreq.optimize`` returns a copy in eval mode whose norms, layer scales and activations are
# folded into the next weights. With ``image_size`` it also resizes all filters once. The outputs
# stay equal within rounding. :doc:`/performance` lists what it saves.

images = torch.randn(1, 3, 256, 256)
model = mmfreq.build_backbone('affnet').eval()
optimized = mmfreq.optimize(model, image_size=256)
with torch.no_grad():
    expected, got = model(images), optimized(images)
difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, expected))
print(f'largest difference: {difference:.1e} of the largest value')

# %%
# Printing the model shows which parts were folded:

print('before:', model.layer_2[0], sep='\n')
print('after:', optimized.layer_2[0], sep='\n')
