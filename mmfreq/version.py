"""The version, in a file that pyproject.toml reads without importing the package."""

__version__ = '0.2.0'
