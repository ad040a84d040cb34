"""Where onedl-mmengine looks for the configs of OneDL's mmsegmentation.

`_base_ = 'mmseg::...'` and `mmengine.hub.get_config('mmseg::...')` look for a distribution called mmsegmentation. OneDL's is called
onedl-mmsegmentation, so mmengine does not find it: the first raises, the second has pip install the stock one over it.
"""

from importlib.metadata import PackageNotFoundError, distribution


def find_onedl_configs(packages):
    """Let mmengine look for the module `mmseg` itself, where OneDL's mmsegmentation is installed and the stock one is not.

    Args:
        packages: mmengine's `MODULE2PACKAGE`, scope to distribution; changed in place.
    """
    if is_distribution('onedl-mmsegmentation') and not is_distribution('mmsegmentation'):
        packages['mmseg'] = 'mmseg'


def is_distribution(name):
    """Whether a distribution of this name is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
