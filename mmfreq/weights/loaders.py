"""mmengine's checkpoint loaders for what mmfreq reads: its own checkpoints, `.safetensors`, published files by name, hub files.

`import mmfreq` installs them as soon as mmengine's loader is imported. So `init_cfg`, `load_from`, `init_model`, and the
inferencers of mmdet, mmsegmentation and mmpretrain read what `mmfreq.load_weights` reads, and run no code from a file.
"""

from pathlib import Path


def load_from_local(filename, map_location=None):
    """mmengine's loader of paths: a checkpoint of mmengine, of another library or `.safetensors`, by `read_checkpoint`."""
    from mmengine.runner import checkpoint

    from mmfreq.compat.safe_load import is_forced, read_checkpoint
    from mmfreq.weights.store import local_file

    path = Path(local_file(filename)).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{path} can not be found.')  # mmengine's own message
    if is_forced() and path.suffix != '.safetensors':
        return checkpoint.load_from_local(str(path), map_location)
    return read_checkpoint(path, map_location)


def load_from_url(filename, map_location=None):
    """mmengine's loader of http(s) URLs: resumed and complete downloads, and the published files by their URLs."""
    return _load_named(filename, map_location)


def load_from_mmfreq(filename, map_location=None):
    """mmengine's loader of `mmfreq://ARCH[/TAG]`."""
    return _load_named(filename, map_location)


def load_from_hub(filename, map_location=None):
    """mmengine's loader of `hf-hub:OWNER/NAME[@REVISION]`."""
    return _load_named(filename, map_location)


def _load_named(filename, map_location):
    from mmfreq.compat.safe_load import read_checkpoint
    from mmfreq.weights.store import local_file

    return read_checkpoint(local_file(filename), map_location)


def install_loaders():
    """Register the loaders with mmengine's `CheckpointLoader`, and let torch's safe unpickler read mmengine's checkpoints."""
    from mmengine.runner.checkpoint import CheckpointLoader

    from mmfreq.compat.onedl import load_safely
    from mmfreq.compat.safe_load import allow_mmengine_checkpoints

    allow_mmengine_checkpoints()
    load_safely()
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_url, force=True)
    CheckpointLoader.register_scheme('mmfreq://', load_from_mmfreq, force=True)
    CheckpointLoader.register_scheme('hf-hub:', load_from_hub, force=True)
