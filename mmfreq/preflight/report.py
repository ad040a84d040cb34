"""What the checks of a run saw, for the log and for the summary of `tools/train.py --dry-run`."""

from dataclasses import dataclass, field


@dataclass
class ImageCounts:
    """What is known of one data set: `total` pictures in its files, `kept` that will be read; None: not counted."""

    total: int | None = None
    kept: int | None = None
    classes: int | None = None


@dataclass
class Report:
    """What one run's checks saw.

    Attributes:
        data: by config key of the data set.
        facts: what was found on checkpoints, memory and versions, a sentence each.
        warnings: what is likely a mistake.
        notes: what is done without a word otherwise, such as samples that are left out.
    """

    data: dict[str, ImageCounts] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def size_text(count):
    """A number of bytes for people: '1.8 GiB'."""
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if count < 1024 or unit == 'GiB':
            return f'{count:.0f} B' if unit == 'B' else f'{count:.1f} {unit}'
        count /= 1024


# What a run would do, as a table.
