"""The result of the checks before a run, for the log and for the summary of `tools/train.py --dry-run`."""

from dataclasses import dataclass, field


@dataclass
class ImageCounts:
    """Size of one dataset; None where it was not counted.

    Attributes:
        total: images in its files.
        kept: images that the dataset reads after its filters.
    """

    total: int | None = None
    kept: int | None = None
    classes: int | None = None


@dataclass
class Report:
    """What the checks of one run found. The checks append to it; errors are raised instead.

    Attributes:
        data: config key of each dataset -> its `ImageCounts`.
        facts: topic -> a sentence; the topics are 'versions', 'starts from', 'checkpoints' and 'memory'.
        warnings: probable mistakes that do not stop the run.
        notes: what the libraries do silently, such as samples that they skip.
    """

    data: dict[str, ImageCounts] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def size_text(count):
    """A number of bytes with its unit, such as '1.8 GiB'."""
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if count < 1024 or unit == 'GiB':
            return f'{count:.0f} B' if unit == 'B' else f'{count:.1f} {unit}'
        count /= 1024
