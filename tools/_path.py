"""Imported by every tool before mmfreq: adds the checkout to sys.path if mmfreq is not installed.

It also silences setuptools' warning about `pkg_resources`, which mmengine imports: it is repeated for each inherited config, and a
user cannot avoid it.
"""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
if find_spec('mmfreq') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
