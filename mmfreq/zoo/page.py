"""The pages of the zoo from its metafiles; and how measured numbers get into the metafiles.

`measure` counts parameters and FLOPs, `update_zoo` writes results of evaluations; `pages` renders `model_zoo.md`,
`model-index.yml`, and the paragraph of `README.md` with the results of training runs.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfreq.analysis.flops import build_for_counting, count, paper_macs
from mmfreq.errors import UserError
from mmfreq.zoo.evaluation import CONVERTED, TRAINED
from mmfreq.zoo.published import published_file
from mmfreq.zoo.results import MEASURED, SINGLE, Result
from mmfreq.zoo.rows import Row, load_rows, metafiles, read_metafile, update_models, write_text

PAGE, INDEX, README, MEASURED_HERE = 'model_zoo.md', 'model-index.yml', 'README.md', 'Measured here'
WRITTEN = '<!-- tools/build_zoo.py writes the next paragraph -->'  # a line of `README.md`
FIELDS = ('Parameters', 'FLOPs', "FLOPs, paper's counting", 'Image size')  # of `Metadata`
# key of `Published` -> key of `Metadata` that is counted in the same way
COUNTED_ALIKE = {'Parameters': 'Parameters', 'FLOPs': "FLOPs, paper's counting"}
UNITS = {'': 1, 'M': 1e6, 'G': 1e9}
AGREES_WITHIN = 0.01  # or half of the last printed digit
MARK = '\\*'  # of a published number that differs from the measured one
# dataset -> heading; other datasets have their own name as heading
SECTIONS = {
    'ImageNet-1k': 'Classification, ImageNet-1k',
    'ADE20K': 'Segmentation, ADE20K',
    'VOC 2012 + SBD': 'Segmentation, PASCAL VOC 2012',
    'CamVid': 'Segmentation, CamVid',
    'COCO': 'Detection, COCO',
    'fruits_nuts': 'Detection, fruits and nuts',
    'generated shapes': 'Toy data: generated shapes',
}
# task -> metrics of OpenMMLab's metafiles and their headings here
METRICS = {
    'cls': {'Top 1 Accuracy': 'top-1', 'Top 5 Accuracy': 'top-5'},
    'seg': {'mIoU': 'mIoU', 'mIoU(ms+flip)': 'mIoU ms+flip'},
    'det': {'box AP': 'box AP', 'mask AP': 'mask AP'},
}
OWN = 'none'  # first word of `Source` for this project's own configs
INTRO = """\
# Model zoo

`python tools/build_zoo.py` writes this page from the metafiles in `configs/`; do not edit it. Each row is one config.

- **params, GFLOPs**: counted on the model that the config builds, for one image of the given size. One multiply-add is one FLOP.
- **GFLOPs with FFT**: convolutions, matrix products, Fourier transforms and products of spectra. A real transform of an H x W map
  costs H W log2 W + 2 F H log2 H, with F = W // 2 + 1 (`mmfreq/ops/cost.py`).
- **GFLOPs, paper's method**: the same model, counted as its authors count (`mmfreq/analysis/flops.py`).
- **published**: as the authors print it; metrics in per cent. `*`: differs from the number counted here by more than 1 % and by
  more than half of the last printed digit; the notes below the table explain why. `unknown`: no available source states it.
  `-`: not published.
- **published weights, measured here**: published weights in this implementation, evaluated by `python tools/reproduce.py`.
- **trained here**: weights trained with this config, evaluated by the same tool.
- **weights**: the authors' file of exactly this model, ARCH/TAG. `mmfreq://ARCH/TAG` names it in configs and in `load_weights`;
  `python tools/weights.py get ARCH/TAG` downloads it, and `python tools/weights.py list` lists all files, with their licences.
"""


@dataclass(frozen=True)
class Agreement:
    """A measured number and the printed one, such as '924G'."""

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
    """The `FIELDS` of `Metadata` of a row's model, for one image of the published size; one multiply-add is one FLOP.

    `FLOPs` are convolutions, matrix products, transforms and products of spectra (`ops/cost.py`); norms, activations and the like
    are not counted, as usual. The paper's counting is `analysis.flops.paper_macs`.
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
    """924000000000.0 for '924G'."""
    number, unit = _split(text)
    return float(number) * UNITS[unit]


def last_digit(text: str) -> float:
    """The value of one step of the last digit: 1e8 for '4.5G'."""
    number, unit = _split(text)
    return UNITS[unit] / 10 ** len(number.partition('.')[2])


def _split(text: str) -> tuple[str, str]:
    found = re.fullmatch(r'(\d+(?:\.\d+)?)([MG]?)', text)
    if not found:
        raise ValueError(f'Expected a printed number of digits and M or G, such as 52M or 4.5G, got {text!r}.')
    return found[1], found[2]


def is_own(row: Row) -> bool:
    """Whether a config is this project's own, without a published counterpart."""
    return row.published['Source'].startswith(OWN + ':')


def pages(root: Path, rows: Iterable[Row]) -> dict[str, str]:
    """The text of each file that is written from the metafiles, by its name; `README.md` only if it has a paragraph for them."""
    rows = list(rows)
    found = {INDEX: index_text(root), PAGE: page_text(rows)}
    readme = root / README
    before = readme.read_text(encoding='utf-8') if readme.is_file() else ''
    if WRITTEN in before:
        found[README] = readme_text(before, rows)
    return found


def readme_text(text: str, rows: Iterable[Row]) -> str:
    """The text with the results of training runs of `rows` in the paragraph after the line `WRITTEN`."""
    trained = [row for row in rows if _trained(row)]
    archs = Counter(row.name.split('_')[0] for row in trained)
    parts = []
    for dataset in dict.fromkeys(row.dataset for row in trained):
        scores = []
        for row in (row for row in trained if row.dataset == dataset):
            arch = row.name.split('_')[0]
            scores.append(f'[{arch if archs[arch] == 1 else row.name}]({row.entry["Config"]}) {_seeds(row)}')
        parts.append(f'{dataset}: {", ".join(scores)}.')
    paragraph = f'Trained here, one score for each seed. {" ".join(parts)}' if parts else 'Nothing was trained here.'
    before, after = text.split(f'{WRITTEN}\n')
    _, end, rest = after.partition('\n\n')
    return f'{before}{WRITTEN}\n{paragraph}{end}{rest}'


def _seeds(row: Row) -> str:
    """The first metric of each training run, as in '38.9 / 39.2 mIoU'."""
    results = _trained(row)
    name = next(iter(results[0]))
    return f'{" / ".join(f"{metrics[name]:.1f}" for metrics in results)} {name}'


def _trained(row: Row) -> list[Mapping[str, float]]:
    """The metrics of each training run, tested at a single scale."""
    return [result['Metrics'] for result in row.measured if (result['Test'], _origin(result)) == (SINGLE, TRAINED)]


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


def page_text(rows: Iterable[Row]) -> str:
    """`model_zoo.md`."""
    by_dataset: dict[str, list[Row]] = {dataset: [] for dataset in SECTIONS}
    for row in rows:
        by_dataset.setdefault(row.dataset, []).append(row)
    return '\n'.join([INTRO, *(_section(dataset, rows) for dataset, rows in by_dataset.items() if rows)])


def _section(dataset: str, rows: list[Row]) -> str:
    lines = [f'## {SECTIONS.get(dataset, dataset[:1].upper() + dataset[1:])}', '']
    for task in dict.fromkeys(row.task for row in rows):
        lines += [*_table(task, [row for row in rows if row.task == task]), '']
    notes = _notes(rows)
    return '\n'.join([*lines, 'Notes:', '', *notes, ''] if notes else lines)


def _table(task: str, rows: list[Row]) -> list[str]:
    columns = {
        'config': '---',
        'image size': '---',
        'params, M': '--:',
        'params, published': '--:',
        'GFLOPs with FFT': '--:',
        "GFLOPs, paper's method": '--:',
        'GFLOPs, published': '--:',
        **{f'{heading}, published': '--:' for heading in METRICS[task].values()},
        'published weights, measured here': '---',
        'trained here': '---',
        'weights': '---',
    }
    return [_line(columns), _line(columns.values()), *(_line(_cells(row)) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _cells(row: Row) -> list[str]:
    metadata = row.entry['Metadata']
    printed = {each.name: each.printed + ('' if each.holds else MARK) for each in agreements(row)}
    return [
        f'[{row.name}]({row.entry["Config"]})',
        metadata['Image size'],
        f'{metadata["Parameters"] / 1e6:.2f}',
        printed.get('Parameters', '-'),
        _giga(metadata['FLOPs']),
        _giga(metadata[COUNTED_ALIKE['FLOPs']]),
        printed.get('FLOPs', '-'),
        *(_metric(row, name) for name in METRICS[row.task]),
        *(_measured(row, origin) for origin in (CONVERTED, TRAINED)),
        _weights(row),
    ]


def _weights(row: Row) -> str:
    """The name of the published file of exactly this model, with its URL; 'none' if there is none."""
    file = published_file(row)
    if file is None:
        return 'none'
    return f'[{file.arch}/{file.tag}]({file.url})' if file.urls else f'{file.arch}/{file.tag}, [by hand]({file.pages[0]})'


def _giga(number: int) -> str:
    return f'{number / 1e9:.{2 if number < 1e11 else 1}f}'


def _metric(row: Row, name: str) -> str:
    if name in row.metrics:
        return f'{row.metrics[name]:.1f}'
    is_expected = name == next(iter(METRICS[row.task])) or (name == 'mask AP' and 'mask-rcnn' in row.name)
    return 'unknown' if is_expected and not (is_own(row) or row.metrics) else '-'


def _measured(row: Row, origin: str) -> str:
    """The results with weights of one origin, as in '49.1 mIoU (tiny-gf.pth, 2026-11-21, NVIDIA H200)'."""
    texts = []
    for result in row.measured:
        if _origin(result) == origin:
            values = ', '.join(f'{value:.1f} {name}' for name, value in result['Metrics'].items())
            seed = [f'seed {result["Seed"]}'] if 'Seed' in result else []
            texts.append(f'{values} ({", ".join([*seed, result["Checkpoint"], result["Date"], result["Hardware"]])})')
    return '; '.join(texts) or '-'


def _origin(entry: Mapping) -> str:
    return entry.get('Origin', CONVERTED)


def _notes(rows: list[Row]) -> list[str]:
    """The notes, each once with the rows that have it."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        if row.published.get('Note'):
            by_note.setdefault(row.published['Note'], []).append(row.name)
    return [f'- {", ".join(f"`{name}`" for name in names)}: {note}' for note, names in by_note.items()]


def check_writable(root: Path) -> None:
    """Raise a UserError unless `root` is a source tree with write permission."""
    if root.name == '.mim':
        raise UserError(
            f'--update-zoo changes the metafiles of a source tree, but those of this mmfreq are in an installed package, {root}. '
            'Clone the repository and run its tools/reproduce.py.'
        )
    targets = [path if path.exists() else root for path in (root / PAGE, root / INDEX, root / README)] + metafiles(root)
    refused = [path for path in targets for each in (path, path.parent) if not os.access(each, os.W_OK)]
    if refused:
        raise UserError(f'--update-zoo cannot write {refused[0]}. Check the permissions, or use your own source tree.')


def entry_of(result: Result) -> dict:
    """A result as a metafile lists it."""
    return {
        'Metrics': {name: round(value, 2) for name, value in result.metrics.items()},
        'Test': result.test,
        'Origin': result.origin or CONVERTED,
        **({} if result.seed is None else {'Seed': result.seed}),
        'Checkpoint': Path(result.checkpoint).name,
        'sha256': result.sha256[:12],
        'Date': result.date[:10],
        'Hardware': result.hardware,
        'Versions': dict(result.versions),
    }


def merged(listed: Iterable[Mapping], results: Iterable[Result]) -> list[Mapping]:
    """The list of a row with its results added: the newest for each way of testing, origin of the weights, and seed."""
    newest = {_key(entry): entry for entry in listed}
    for result in sorted(results, key=lambda result: result.date):
        entry = entry_of(result)
        key = _key(entry)
        if entry['Date'] >= newest.get(key, {'Date': ''})['Date']:
            newest[key] = entry
    return [newest[key] for key in sorted(newest, key=lambda key: (key[0] != SINGLE, key))]


def _key(entry: Mapping) -> tuple[str, str, int]:
    """(test, origin, seed) that identifies an entry; the seed is -1 if it is unknown."""
    return entry['Test'], _origin(entry), entry.get('Seed', -1)


def update_zoo(root: Path, results: Iterable[Result]) -> list[Row]:
    """Write measurements into the metafiles below `root`, and the pages from them.

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
        return {**entry, MEASURED_HERE: merged(entry.get(MEASURED_HERE, []), found)} if found else entry

    for path in metafiles(root):
        if any(model['Name'] in of_row for model in read_metafile(path)['Models']):
            update_models(path, change)
    rows = load_rows(root)
    for name, text in pages(root, rows).items():
        write_text(root / name, text)
    return [row for row in rows if row.measured != before.get(row.name)]
