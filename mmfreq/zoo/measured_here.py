"""Results into the metafiles, as `Measured here`, and from there onto the page of the zoo."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmfreq.engine.errors import UserError
from mmfreq.zoo.render import page_text
from mmfreq.zoo.results import MEASURED, Result
from mmfreq.zoo.rows import Row, load_rows, metafiles, read_metafile, update_models, write_text

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
