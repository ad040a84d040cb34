"""What onedl-mmengine 0.10.12 needs: to find the configs of OneDL's mmsegmentation, and to load checkpoints without running code.

`_base_ = 'mmseg::...'` and `mmengine.hub.get_config('mmseg::...')` look for a distribution called mmsegmentation. OneDL's is called
onedl-mmsegmentation, so mmengine does not find it: the first raises, the second has pip install the stock one over it.

Its loader of checkpoints allows the real `getattr`, takes back afterwards what others have allowed, and loads what torch's safe
unpickler refuses by the unsafe one, which runs the code in the file.
"""

from importlib.metadata import PackageNotFoundError, distribution


def find_onedl_configs(packages):
    """Let mmengine look for the module `mmseg` itself, where OneDL's mmsegmentation is installed and the stock one is not.

    Args:
        packages: mmengine's `MODULE2PACKAGE`, scope to distribution; changed in place.
    """
    if is_distribution('onedl-mmsegmentation') and not is_distribution('mmsegmentation'):
        packages['mmseg'] = 'mmseg'


def load_safely():
    """Let mmengine's loader refuse what torch's safe unpickler refuses, where it is OneDL's; elsewhere nothing is imported."""
    if is_distribution('onedl-mmengine') and not is_distribution('mmengine'):
        from mmengine.runner import checkpoint

        replace_loader(checkpoint)


def replace_loader(module):
    """Put `safe_torch_load` in the place of the module's own, if it has one."""
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = safe_torch_load


def safe_torch_load(file, map_location=None, weights_only=True):
    """`torch.load` with the safe unpickler; `weights_only` is there for those who pass it, and changes nothing."""
    import torch

    return torch.load(file, map_location=map_location, weights_only=True)


def is_distribution(name):
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
