"""The page of the zoo and the index of its metafiles, as text."""

from collections.abc import Iterable
from pathlib import Path

from mmfreq.zoo.measure import COUNTED_ALIKE, agreements
from mmfreq.zoo.rows import Row, metafiles

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
  authors sees it (`mmfreq/analysis/paper_counts.py`). In brackets what they print; `*` marks what is off by more than 1 % and by
  more than half of the last digit printed, and is explained below the table.
- **{metrics}**: published, in per cent. `unknown`: in no source at hand. `-`: nothing is published.
- **here**: measured by `python tools/reproduce.py`, with the checkpoint that the row names.
- **weights**: the authors' file of exactly this model. `mmfreq/checkpoint/zoo.py` lists further ones, with licences.
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
