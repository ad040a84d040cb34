"""segmentation_models_pytorch with mmfreq backbones as `tu-` encoders."""

import pytest
import torch

smp = pytest.importorskip('segmentation_models_pytorch')
pytest.importorskip('mmfreq.integrations.timm')


@pytest.mark.slow
@pytest.mark.parametrize(
    'decoder,encoder',
    [('Unet', 'hornet_tiny_gf'), ('FPN', 'dfformer_s18'), ('Unet', 'affnet_micro'), ('Unet', 'gfnet_h_micro')],
)
def test_training_step(decoder, encoder):
    fixed = {'decoder_dropout': 0} if decoder == 'FPN' else {}  # without dropout, so that the losses are comparable
    model = getattr(smp, decoder)(f'tu-{encoder}', encoder_weights=None, classes=3, **fixed)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    x, want = torch.randn(2, 3, 64, 96), torch.randint(3, (2, 64, 96))
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(torch.nn.functional.cross_entropy(model(x), want))
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert not [n for n, p in model.encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
