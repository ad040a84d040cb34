"""Makes the checkout importable where mmfreq is not installed: every tool imports this before it imports mmfreq."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec('mmfreq') is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
