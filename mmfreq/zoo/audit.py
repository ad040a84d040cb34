"""Each config's recipe against the recorded one. Needs neither data nor weights."""

from dataclasses import dataclass
from typing import Any

from mmfreq.zoo.facts import recipe
from mmfreq.zoo.rows import Row

MISSING = 'missing'


@dataclass(frozen=True)
class Difference:
    """A key of the recipe in which a config and the record differ."""

    key: str
    config: Any
    recorded: Any


@dataclass(frozen=True)
class Audit:
    """What comparing one row gave.

    Attributes:
        compared: how many keys a source gives, and ours.
    """

    row: Row
    compared: tuple[int, int]
    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences


def audit(row: Row) -> Audit:
    """Compare a row's config with its recorded recipe; a key that only one of them has is a difference.

    Raises:
        ValueError: as in `facts.recipe`.
        FileNotFoundError: the config is not there.
    """
    found, recorded = recipe(row.config), row.recipe
    keys = [*recorded, *(key for key in found if key not in recorded)]
    differences = tuple(
        Difference(key, found.get(key, MISSING), recorded.get(key, MISSING))
        for key in keys
        if found.get(key, MISSING) != recorded.get(key, MISSING)
    )
    return Audit(row, (len(recorded) - len(row.ours), len(row.ours)), differences)
