"""What a config calls a path: on this file system, or somewhere that only mmengine's file backends reach."""

import re
from pathlib import Path


def is_remote(path):
    """True for `https://...`, `s3://...`, `torchvision://...` and the like, which are never checked here."""
    return re.match(r'^[A-Za-z][\w+.-]*://', str(path)) is not None


def absolute(path):
    """The absolute form of a path, as an error message should show it; links are not followed."""
    return Path(path).expanduser().absolute()
