"""Small rows and checkpoints for the tests of the zoo."""

from pathlib import Path

import torch

from mmfreq.zoo.rows import Row

NAME = 'hornet-micro_upernet_1xb8-400_toy-128x128'


def row(name=NAME, task='seg', metrics=None, dataset='generated shapes', family='hornet', weights=None, root=Path('.')):
    """A row without a config."""
    entry = {
        'Name': name,
        'Config': f'configs/{task}/{family}/{name}.py',
        'Metadata': {'Training Data': dataset},
        'Results': [{'Task': '', 'Dataset': dataset, 'Metrics': metrics or {}}],
        'Published': {'Source': 'none: a config of this project'},
        'Recipe': {},
    }
    return Row(entry | ({'Weights': weights} if weights else {}), task, root)


def weightless(model):
    """A state dict with a model's names and shapes that takes no space in a file."""
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in model.state_dict().items()}


def saved(path, content):
    """`torch.save` with folders created; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
