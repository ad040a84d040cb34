"""One process of test_distributed.py: gradients of a segmentor that a Runner built and wrapped, for its share of two pictures.

python -m torch.distributed.run --nproc_per_node 2 _ddp_worker.py CONFIG WEIGHTS WORK_DIR OUT
"""

import sys

import torch

import mmfreq  # noqa: F401
from mmfreq.engine.launch import build_runner, prepare_train


def two_pictures():
    """Pictures and label maps, always the same; labels differ in how much is ignored."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 6, (2, 1, 64, 64), generator=generator)
    labels[0, :, :20] = 255
    return pictures, labels


def gradients(runner, weights, indices):
    """Name -> gradient of the loss on some of the two pictures, after the wrapper's averaging."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = getattr(runner.model, 'module', runner.model)
    model.load_state_dict(weights)
    pictures, labels = two_pictures()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels[index])) for index in indices]
    runner.model.train()
    data = model.data_preprocessor({'inputs': [pictures[index] for index in indices], 'data_samples': samples}, True)
    loss, _ = model.parse_losses(runner.model(**data, mode='loss'))
    runner.model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def main():
    config, weights, work_dir, out = sys.argv[1:]
    torch.set_num_threads(1)
    runner = build_runner(prepare_train(config, work_dir=work_dir, launcher='pytorch'))
    found = gradients(runner, torch.load(weights, weights_only=True), [runner.rank])
    torch.save({'gradients': found, 'wrapper': type(runner.model).__name__, 'world': runner.world_size}, f'{out}/{runner.rank}.pth')


if __name__ == '__main__':
    main()
