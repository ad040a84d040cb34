"""What every tool does before it imports mmfreq: a checkout becomes importable where mmfreq is not installed.

And one warning is silenced, that of setuptools about the `pkg_resources` which mmengine imports: it comes once for each inherited
config, and a user can do nothing about it.
"""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
if find_spec('mmfreq') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
