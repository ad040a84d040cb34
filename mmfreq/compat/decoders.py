"""Whether the package is installed with which mmcv decodes images."""

from importlib.util import find_spec

PACKAGES = {'tifffile': 'tifffile', 'turbojpeg': 'PyTurboJPEG'}  # imdecode_backend, also the module -> the package


def missing_decoder(backend: str | None) -> str:
    """The message about an `imdecode_backend` of LoadImageFromFile whose package is not installed; otherwise ''."""
    if backend not in PACKAGES or find_spec(backend) is not None:
        return ''
    return (
        f"Images are loaded with imdecode_backend='{backend}', but the package {PACKAGES[backend]} is not installed. "
        f'Run: pip install {PACKAGES[backend]}'
    )
