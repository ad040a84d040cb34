"""Two fixes for onedl-mmengine 0.10.12: it finds the configs of OneDL's mmsegmentation, and loads checkpoints without running code.

`_base_ = 'mmseg::...'` and `mmengine.hub.get_config('mmseg::...')` search for a distribution named mmsegmentation. OneDL's is named
onedl-mmsegmentation, so the first raises, and the second lets pip install the stock one over it.

Its checkpoint loader allows the real `getattr`, removes what others have allowed, and falls back to the unsafe unpickler, which
runs the code in the file, where torch's safe one refuses.
"""

from importlib.metadata import PackageNotFoundError, distribution


def find_onedl_configs(packages):
    """Let mmengine search the module `mmseg` itself where OneDL's mmsegmentation is installed and the stock one is not.

    Args:
        packages: mmengine's `MODULE2PACKAGE`, scope to distribution; changed in place.
    """
    if is_distribution('onedl-mmsegmentation') and not is_distribution('mmsegmentation'):
        packages['mmseg'] = 'mmseg'


def load_safely():
    """Make OneDL's mmengine refuse what torch's safe unpickler refuses; with the stock mmengine nothing is imported."""
    if is_distribution('onedl-mmengine') and not is_distribution('mmengine'):
        from mmengine.runner import checkpoint

        replace_loader(checkpoint)


def replace_loader(module):
    """Replace the module's `_safe_torch_load`, if it has one, by `safe_torch_load`."""
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = safe_torch_load


def safe_torch_load(file, map_location=None, weights_only=True):
    """`torch.load` with the safe unpickler; `weights_only` is accepted for the callers that pass it, and ignored."""
    import torch

    return torch.load(file, map_location=map_location, weights_only=True)


def is_distribution(name):
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
