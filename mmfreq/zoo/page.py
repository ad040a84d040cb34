"""Parameters and FLOPs of a row's model, and whether they are those that its authors print."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfreq.analysis.flops import build_for_counting, count, paper_macs
from mmfreq.errors import UserError
from mmfreq.zoo.results import MEASURED, Result
from mmfreq.zoo.rows import Row, load_rows, metafiles, read_metafile, update_models, write_text

UNITS = {'': 1, 'M': 1e6, 'G': 1e9}
AGREES_WITHIN = 0.01  # or half of the last digit printed
FIELDS = ('Parameters', 'FLOPs', "FLOPs, paper's counting", 'Image size')  # of `Metadata`
# key of `Published` -> key of `Metadata` that is counted alike
COUNTED_ALIKE = {'Parameters': 'Parameters', 'FLOPs': "FLOPs, paper's counting"}


@dataclass(frozen=True)
class Agreement:
    """A measured number beside the printed one, such as '924G'."""

    name: str
    printed: str
    measured: int

    @property
    def difference(self) -> float:
        """Relative to the printed number."""
        return self.measured / printed_value(self.printed) - 1

    @property
    def holds(self) -> bool:
        printed = printed_value(self.printed)
        return abs(self.measured - printed) <= max(AGREES_WITHIN * printed, last_digit(self.printed) / 2)


def measure(row: Row) -> dict[str, Any]:
    """What `Metadata` says of the model: one image of the published size, one multiply-add is one FLOP.

    `FLOPs` are convolutions, matrix products, transforms and products of spectra (`ops/cost.py`); norms, activations and the
    like are left out, as everywhere. The paper's counting is `analysis.flops.paper_macs`.
    """
    model, size = build_for_counting(str(row.config))
    size = tuple(row.published.get('Size', size))
    report = count(model, size)
    macs = report.macs
    counted = round(macs.conv_matmul + macs.fft + macs.spectral)
    as_published = round(paper_macs(model, report, row.family, row.task == 'cls'))
    return dict(zip(FIELDS, (report.params, counted, as_published, f'{size[0]}x{size[1]}'), strict=True))


def agreements(row: Row) -> list[Agreement]:
    """Every printed number of a row with the measured one."""
    metadata = row.entry['Metadata']
    return [
        Agreement(name, row.published[name], metadata[counted]) for name, counted in COUNTED_ALIKE.items() if name in row.published
    ]


def printed_value(text: str) -> float:
    """924000000000.0 of '924G'."""
    number, unit = _split(text)
    return float(number) * UNITS[unit]


def last_digit(text: str) -> float:
    """What one step of the last digit is worth: 1e8 in '4.5G'."""
    number, unit = _split(text)
    return UNITS[unit] / 10 ** len(number.partition('.')[2])


def _split(text: str) -> tuple[str, str]:
    found = re.fullmatch(r'(\d+(?:\.\d+)?)([MG]?)', text)
    if not found:
        raise ValueError(f'{text!r} is no printed number: expected digits and M or G, as in 52M or 4.5G')
    return found[1], found[2]


# The page of the zoo and the index of its metafiles, as text.


# data set -> heading; a data set that is not here gets a section of its own name
SECTIONS = {
    'ImageNet-1k': 'Classification, ImageNet-1k',
    'ADE20K': 'Segmentation, ADE20K',
    'VOC 2012 + SBD': 'Segmentation, PASCAL VOC 2012',
    'CamVid': 'Segmentation, CamVid',
    'COCO': 'Detection, COCO',
}
# task -> metrics of OpenMMLab's metafiles and their headings here
METRICS = {
    'cls': {'Top 1 Accuracy': 'top-1', 'Top 5 Accuracy': 'top-5'},
    'seg': {'mIoU': 'mIoU', 'mIoU(ms+flip)': 'ms+flip'},
    'det': {'box AP': 'box AP', 'mask AP': 'mask AP'},
}
MARK = {True: '', False: '\\*'}  # of a printed number that holds, or not
OWN = 'none'  # how the source of a config begins that nobody published
INTRO = """\
# Model zoo

Written by `python tools/build_zoo.py` from the metafiles in `configs/`; do not edit.

- **params, GFLOPs**: measured on the model that the config builds, one image of the size given, one multiply-add counted as one
  FLOP. *With FFT*: convolutions, matrix products, Fourier transforms and products of spectra; a real transform of an H x W map
  costs H W log2 W + 2 F H log2 H, F = W // 2 + 1 (`mmfreq/ops/cost.py`). *Paper's*: the same model as the counter of the paper's
  authors sees it (`mmfreq/analysis/flops.py`). In brackets what they print; `*` marks what is off by more than 1 % and by
  more than half of the last digit printed, and is explained below the table.
- **{metrics}**: published, in per cent. `unknown`: in no source at hand. `-`: nothing is published.
- **here**: measured by `python tools/reproduce.py`, with the checkpoint that the row names.
- **weights**: the authors' file of exactly this model. `mmfreq/weights/files.py` lists further ones, with licences.
"""


def page_text(rows: Iterable[Row]) -> str:
    """`model_zoo.md`."""
    rows = list(rows)
    datasets = [*SECTIONS, *dict.fromkeys(row.dataset for row in rows if row.dataset not in SECTIONS)]
    intro = INTRO.format(metrics=', '.join(heading for of_task in METRICS.values() for heading in of_task.values()))
    return '\n'.join([intro, *(_section(dataset, [row for row in rows if row.dataset == dataset]) for dataset in datasets)])


def index_text(root: Path) -> str:
    """`model-index.yml`."""
    lines = (f'- {path.relative_to(root).as_posix()}' for path in metafiles(root))
    return '\n'.join(
        [
            '# The metafiles of the model zoo, for mim. mmengine needs this file even to inherit a config by name.',
            'Import:',
            *lines,
            '',
        ]
    )


def _section(dataset: str, rows: list[Row]) -> str:
    tasks = dict.fromkeys(row.task for row in rows)
    parts = [f'## {SECTIONS.get(dataset, dataset[:1].upper() + dataset[1:])}', '']
    for task in tasks:
        parts += [*_table(task, [row for row in rows if row.task == task]), '']
    notes = _notes(rows)
    return '\n'.join([*parts, *notes, ''] if notes else parts)


def _table(task: str, rows: list[Row]) -> list[str]:
    headings = ['config', 'params, M', 'size', 'GFLOPs with FFT', "paper's", *METRICS[task].values(), 'here', 'weights']
    left = (0, len(headings) - 2, len(headings) - 1)
    rule = ['---' if i in left else '--:' for i in range(len(headings))]
    return [_line(headings), _line(rule), *(_line(_cells(row)) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _cells(row: Row) -> list[str]:
    metadata = row.entry['Metadata']
    printed = {each.name: f' ({each.printed}{MARK[each.holds]})' for each in agreements(row)}
    return [
        f'[{row.name}]({row.entry["Config"]})',
        f'{metadata["Parameters"] / 1e6:.2f}{printed.get("Parameters", "")}',
        metadata['Image size'],
        _giga(metadata['FLOPs']),
        f'{_giga(metadata[COUNTED_ALIKE["FLOPs"]])}{printed.get("FLOPs", "")}',
        *(_metric(row, name) for name in METRICS[row.task]),
        '; '.join(measured_words(each) for each in row.measured) or '-',
        f'[file]({row.weights})' if row.weights else '-',
    ]


def _giga(number: int) -> str:
    return f'{number / 1e9:.{2 if number < 1e11 else 1}f}'


def _metric(row: Row, name: str) -> str:
    if name in row.metrics:
        return f'{row.metrics[name]:.1f}'
    first = name == next(iter(METRICS[row.task])) or (name == 'mask AP' and 'mask-rcnn' in row.name)
    return 'unknown' if first and not (is_own(row) or row.metrics) else '-'


def is_own(row: Row) -> bool:
    """Whether nobody but us has this config."""
    return row.published['Source'].startswith(OWN + ':')


def measured_words(result) -> str:
    """One result of `tools/reproduce.py`, as in '49.1 mIoU (tiny-gf.pth, 2026-11-21, NVIDIA H200)'."""
    values = ', '.join(f'{value:.1f} {name}' for name, value in result['Metrics'].items())
    return f'{values} ({result["Checkpoint"]}, {result["Date"]}, {result["Hardware"]})'


def _notes(rows: list[Row]) -> list[str]:
    """The notes, each once with the rows that have it."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        if row.published.get('Note'):
            by_note.setdefault(row.published['Note'], []).append(row.name)
    return [f'- {", ".join(f"`{name}`" for name in names)}: {note}' for note, names in by_note.items()]


# Results into the metafiles, as `Measured here`, and from there onto the page of the zoo.


FIELD, PAGE = 'Measured here', 'model_zoo.md'


def check_writable(root: Path) -> None:
    """Raise a UserError unless the zoo below `root` is a source tree that may be changed."""
    if root.name == '.mim':
        raise UserError(
            f'--update-zoo changes the metafiles of a source tree; those of this mmfreq are part of an installed package, {root}. '
            'Clone the repository and call its own tools/reproduce.py'
        )
    targets = [root / PAGE if (root / PAGE).exists() else root, *metafiles(root)]
    refused = [path for path in targets for each in (path, path.parent) if not os.access(each, os.W_OK)]
    if refused:
        raise UserError(f'--update-zoo cannot write {refused[0]}: it needs a source tree of your own; check the permissions')


def entry_of(result: Result) -> dict:
    """A result as a metafile lists it."""
    return {
        'Metrics': {name: round(value, 2) for name, value in result.metrics.items()},
        'Test': result.test,
        'Checkpoint': Path(result.checkpoint).name,
        'sha256': result.sha256[:12],
        'Date': result.date[:10],
        'Hardware': result.hardware,
        'Versions': dict(result.versions),
    }


def merged(listed: Iterable[Mapping], results: Iterable[Result]) -> list[Mapping]:
    """The list of a row with its results, the newest for each way of testing, those by their dates."""
    by_test = {entry['Test']: entry for entry in listed}
    for result in sorted(results, key=lambda result: result.date):
        if result.date[:10] >= by_test.get(result.test, {'Date': ''})['Date']:
            by_test[result.test] = entry_of(result)
    return [by_test[test] for test in sorted(by_test, reverse=True)]  # single scale first


def update_zoo(root: Path, results: Iterable[Result]) -> list[Row]:
    """Write measurements into the metafiles below `root`, and `model_zoo.md` from them.

    Returns:
        The rows that changed.

    Raises:
        UserError: as in `check_writable`.
    """
    check_writable(root)
    of_row: dict[str, list[Result]] = {}
    for result in results:
        if result.state == MEASURED:
            of_row.setdefault(result.row, []).append(result)
    before = {row.name: row.measured for row in load_rows(root)}

    def change(entry):
        found = of_row.get(entry['Name'])
        return {**entry, FIELD: merged(entry.get(FIELD, []), found)} if found else entry

    for path in metafiles(root):
        if any(model['Name'] in of_row for model in read_metafile(path)['Models']):
            update_models(path, change)
    rows = load_rows(root)
    write_text(root / PAGE, page_text(rows))
    return [row for row in rows if row.measured != before.get(row.name)]
