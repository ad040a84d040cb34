"""
gnConv in your own network
==========================

gnConv, the recursive gated convolution of HorNet, needs no HorNet. This tutorial uses it as a
layer of a small PyTorch network, compares it with plain convolutions, exchanges the convolutions
of an existing model, and shows the one line that does the same in an OpenMMLab config.

- ``GnConvLayer`` takes the arguments of ``torch.nn.Conv2d`` and returns maps of the same size.
  Use it in place of a convolution.
- ``GnConv`` is the mixer alone. Use it in a block with a norm and a residual connection.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from mmfreq.analysis.flops import count
from mmfreq.layers import GnConv, GnConvLayer, LayerNorm2d

plt.rcParams.update({'figure.dpi': 120, 'font.size': 9, 'axes.titlesize': 9})

# %%
# A layer like Conv2d
# -------------------
# A gnConv of order n multiplies n + 1 projections of its input. One depth-wise operator mixes
# pixels: a convolution (``dw_kernel_size``) or a global filter (``grid``). The output has the
# size that ``Conv2d`` with the same arguments would give.

maps = torch.randn(1, 64, 48, 64)
layers = {
    'Conv2d, 3x3': nn.Conv2d(64, 128, 3, stride=2, padding=1),
    'GnConvLayer, depth-wise 7x7': GnConvLayer(64, 128, 3, stride=2, padding=1, dw_kernel_size=7),
    'GnConvLayer, order 3': GnConvLayer(64, 128, 3, stride=2, padding=1, dw_kernel_size=7, order=3),
    'GnConvLayer, global filter': GnConvLayer(64, 128, 3, stride=2, padding=1, grid=32),
}
for name, layer in layers.items():
    cost = count(layer, maps)
    shape = tuple(layer(maps).shape[1:])
    print(f'{name:28} {shape}  {cost.params / 1e3:4.0f}k parameters, {cost.macs.total / 1e6:3.0f} MMACs')

# %%
# A block with a residual
# -----------------------
# In a residual block, put a norm before ``GnConv``. A product of n + 1 factors grows with the
# power n + 1 of its input, and the norm keeps the input at one scale.


class GnConvBlock(nn.Module):
    """x + gnConv(norm(x)), then the same with a two-layer MLP."""

    def __init__(self, channels, **options):
        super().__init__()
        self.norm1, self.mixer = LayerNorm2d(channels), GnConv(channels, **options)
        self.norm2 = LayerNorm2d(channels)
        expand, reduce = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.mlp = nn.Sequential(expand, nn.GELU(), reduce)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions and a residual connection."""

    def __init__(self, channels):
        super().__init__()
        convs = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        layers = [(conv, LayerNorm2d(channels), nn.GELU()) for conv in convs]
        self.layers = nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, x):
        return x + self.layers(x)


def network(block):
    """One class score for each pixel, from two blocks at stride 2."""
    stem = nn.Sequential(nn.Conv2d(1, 32, 2, stride=2), LayerNorm2d(32))
    return nn.Sequential(stem, block(), block(), nn.Conv2d(32, 4, 1), nn.PixelShuffle(2))


networks = {
    'conv 3x3': lambda: network(lambda: ConvBlock(32)),
    'gnConv 7x7': lambda: network(lambda: GnConvBlock(32, order=3, kernel_size=7)),
    'gnConv, global filter': lambda: network(lambda: GnConvBlock(32, order=3, grid=16)),
}

# %%
# A task that needs context
# -------------------------
# Each image shows rings and discs of the same color. The network has to mark the pixels of the
# **rings**, the hole included. Inside a large shape, nothing nearby tells a ring from a disc, so
# the layer has to see far.


def shapes(count, side=32, seed=0):
    """(images, masks of the rings), both (N, 1, H, W)."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    images, masks = torch.zeros(count, 1, side, side), torch.zeros(count, 1, side, side)
    for image, mask in zip(images, masks):
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            radius = 4 + 4 * torch.rand((), generator=draw)
            center = [(side / 2) * c + side / 4 + torch.randn((), generator=draw) for c in corner]
            distance = ((y - center[0]) ** 2 + (x - center[1]) ** 2).sqrt()
            ring = torch.rand((), generator=draw) < 0.5
            image[0][distance < radius] = 1
            if ring:
                image[0][distance < radius - 2] = 0
                mask[0][distance < radius] = 1
    return images + 0.3 * torch.randn(images.shape, generator=draw), masks


images, masks = shapes(256)
test_images, test_masks = shapes(64, seed=1)


def train(model, iterations=100, batch=16):
    """Loss of each iteration."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(iterations):
        chosen = torch.arange(step * batch, (step + 1) * batch) % len(images)
        loss = F.binary_cross_entropy_with_logits(model(images[chosen]), masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


trained, curves = {}, {}
for name, build in networks.items():
    torch.manual_seed(0)
    trained[name] = build()
    curves[name] = train(trained[name])
    with torch.no_grad():
        found = trained[name](test_images) > 0
    union = (found | (test_masks > 0)).sum()
    iou = (found & (test_masks > 0)).sum() / union
    cost = count(trained[name], images[:1])
    size = f'{cost.params / 1e3:2.0f}k parameters, {cost.macs.total / 1e6:4.1f} MMACs'
    print(f'{name:22} IoU {iou:.2f}   {size}')

# %%
# This is one toy task with one seed, so it illustrates the layers and ranks nothing.

figure, axes = plt.subplots(1, 5, figsize=(6.8, 1.7), layout='constrained')
example = 2
axes[0].imshow(test_images[example, 0], cmap='gray')
axes[1].imshow(test_masks[example, 0], cmap='viridis')
for ax, title in zip(axes, ('image', 'truth')):
    ax.set_title(title)
for ax, (name, model) in zip(axes[2:], trained.items()):
    with torch.no_grad():
        ax.imshow(
            model(test_images[example : example + 1]).sigmoid()[0, 0],
            cmap='viridis',
            vmin=0,
            vmax=1,
        )
    ax.set_title(name)
for ax in axes:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# What a pixel sees
# -----------------
# The gradient of one output pixel with respect to the input shows where the network looks. The
# mean over 32 images:


def influence(model):
    """Mean absolute gradient of the center pixel's score, as a share of its largest value."""
    inputs = test_images[:32].clone().requires_grad_()
    model(inputs)[:, 0, 16, 16].sum().backward()
    mean = inputs.grad.abs().mean((0, 1))
    return (mean / mean.max()).clamp_min(1e-3).log10()


figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.2), layout='constrained')
for ax, (name, model) in zip(axes, trained.items()):
    shown = ax.imshow(influence(model), cmap='inferno', vmin=-3, vmax=0)
    ax.set(title=name, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label='log10 of the gradient', shrink=0.9)
plt.show()

# %%
# In a model you already have
# ---------------------------
# Exchange the convolutions of any module. ``GnConvLayer`` reads the same attributes, and a 1x1
# convolution has no neighbors to mix, so it stays. Here: the 3x3 convolutions of a ResNet from
# torchvision.

from torchvision.models import resnet18  # noqa: E402


def exchange(model, **options):
    """Replace every ungrouped k x k convolution of `model`, k > 1. Returns their number."""
    replaced = 0
    for name, part in model.named_children():
        if type(part) is nn.Conv2d and part.kernel_size != (1, 1) and part.groups == 1:
            arguments = (
                part.in_channels,
                part.out_channels,
                part.kernel_size,
                part.stride,
                part.padding,
                part.dilation,
            )
            setattr(model, name, GnConvLayer(*arguments, bias=part.bias is not None, **options))
            replaced += 1
        else:
            replaced += exchange(part, **options)
    return replaced


resnet = resnet18(num_classes=10)
before = count(resnet, 224)
print(exchange(resnet, dw_kernel_size=7), 'convolutions replaced')
for name, cost in (('before', before), ('after', count(resnet, 224))):
    print(f'{name:7} {cost.params / 1e6:4.1f}M parameters, {cost.macs.total / 1e9:.2f} GMACs')

# %%
# In an OpenMMLab config
# ----------------------
# ``conv_cfg`` does the same for every module of mmcv, mmseg or mmdet that accepts it. In a config
# this is the dict alone, for example ``neck=dict(conv_cfg=dict(type='mmfreq.GnConv',
# dw_kernel_size=7))``. In Python:

from mmcv.cnn import ConvModule  # noqa: E402

conv_cfg = dict(type='mmfreq.GnConv', order=2, dw_kernel_size=7)
module = ConvModule(64, 128, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=dict(type='BN'))
print(type(module.conv).__name__, tuple(module(maps).shape))

# %%
# The :doc:`cookbook </cookbook>` has a config for each common decoder, with its costs.
