"""A function that is called as soon as a module is imported, without importing it."""

import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.util import find_spec


class AfterImport:
    """Meta-path finder for one module: it wraps the module's own loader, and leaves all other names alone."""

    def __init__(self, name: str, function: Callable[[], None]):
        self.name = name
        self.function = function
        self.searching = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name or self.searching:
            return None
        self.searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self.function)
        return spec


class _Then(Loader):
    """A loader, and a function that runs after it."""

    def __init__(self, loader, function):
        self.loader = loader
        self.function = function

    def __getattr__(self, name):  # get_source, get_resource_reader, ...
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.function()


def after_import(name: str, function: Callable[[], None]) -> None:
    """Call `function` after the first import of the module `name`, or now if it is imported already. Idempotent."""
    if name in sys.modules:
        function()
    elif not any(isinstance(finder, AfterImport) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport(name, function))
