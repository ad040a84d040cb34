"""Which files are there: each folder is listed once, since asking for each file is slow on network file systems."""

import os


class Folders:
    """Names of files by folder, listed at the first question."""

    def __init__(self):
        self._names = {}

    def names(self, folder):
        """The names in one folder; none where there is no such folder."""
        folder = folder or '.'
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
        return self._names[folder]

    def holds(self, path):
        """Whether there is a file of this path."""
        folder, name = os.path.split(path)
        return name in self.names(folder)

    def listed(self):
        """Paths of everything in the folders that were asked for."""
        return [os.path.join(folder, name) for folder, names in self._names.items() for name in names]


def some(paths, count=3):
    """The first few of some paths, by name, for a message."""
    names = sorted(str(path) for path in paths)
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if len(names) > count else '')
