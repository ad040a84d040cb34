"""Half precision: training stays finite and the loss falls, and outputs are close to float32."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

import mmfreq

# float16, with its smaller range, for models with products of many factors or squares
TRAINED = {
    'hornet-micro': torch.float16,
    'gfnet-h-micro': torch.bfloat16,
    'dfformer-micro': torch.float16,
    'affnet-micro': torch.bfloat16,
}
STEPS, CLASSES = 60, 3


def toy_batch(generator, count=2, side=64):
    """Noise with one bright disc (label 1) and one dark square (label 2)."""
    images = 0.2 * torch.randn(count, 3, side, side, generator=generator)
    labels = torch.zeros(count, side, side, dtype=torch.long)
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij'))
    for image, label in zip(images, labels):
        for label_id, value in ((1, 1.5), (2, -1.5)):
            center = torch.randint(12, side - 12, (2, 1, 1), generator=generator)
            offset = (grid - center).abs()
            inside = offset.square().sum(0) < 100 if label_id == 1 else offset.amax(0) < 9
            label[inside] = label_id
            image[:, inside] += value
    return images, labels


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'dtype'), TRAINED.items(), ids=TRAINED)
def test_autocast_trains_without_nan(arch, dtype):
    torch.manual_seed(0)
    backbone = mmfreq.build_backbone(arch).train()
    head = nn.Conv2d(sum(backbone.out_channels), CLASSES, 1)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16, init_scale=2.0**10)
    generator = torch.Generator().manual_seed(1)
    losses, skipped = [], 0
    for _ in range(STEPS):
        images, labels = toy_batch(generator)
        with torch.autocast('cpu', dtype):
            maps = backbone(images)
            logits = head(torch.cat([interpolate(m.float(), maps[0].shape[2:]) for m in maps], 1))
        loss = cross_entropy(interpolate(logits.float(), labels.shape[1:]), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        skipped += not torch.isfinite(norm)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        assert torch.isfinite(loss), f'step {len(losses)}'
    assert skipped <= (3 if dtype == torch.float16 else 0)  # the scaler may start with scales that are too large
    assert all(torch.isfinite(p).all() for p in parameters)
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    assert last < 0.5 * first, (first, last)


# relative error of the last map in bfloat16, measured, with a margin of about two
BFLOAT16 = {'hornet-micro': 0.03, 'gfnet-micro': 0.03, 'gfnet-h-micro': 0.03, 'dfformer-micro': 0.06, 'affnet-micro': 0.06}


@pytest.mark.parametrize('arch', BFLOAT16)
def test_bfloat16_outputs_are_close(arch):
    from mmfreq.testing.golden import golden_state

    model = mmfreq.build_backbone(arch).eval()
    model.load_state_dict(golden_state({n: list(t.shape) for n, t in model.state_dict().items()}))
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(images)[-1]
        with torch.autocast('cpu', torch.bfloat16):
            cast = model(images)[-1]
        converted = model.to(torch.bfloat16)(images.bfloat16())[-1]
    for got in (cast, converted):
        error = ((got.float() - want).norm() / want.norm()).item()
        assert 1e-4 < error < BFLOAT16[arch], error
