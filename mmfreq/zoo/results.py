"""The file of results: one entry for each row, way of testing, checkpoint and config, kept over runs.

A measurement is never replaced by a failure, nor by the start of another evaluation.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmfreq.engine.errors import UserError
from mmfreq.zoo.rows import write_text

VERSION = 1
STARTED, MEASURED, FAILED, NO_DATA = 'started', 'measured', 'failed', 'no data'
STATES = (STARTED, MEASURED, FAILED, NO_DATA)


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        row: name of the row.
        test: way of testing, see `verdicts`.
        sha256: of the checkpoint; `checkpoint` is its path.
        config: sha256 of the config as it was tested, and where its data are.
        state: one of `STATES`.
        metrics: by the names of the metafiles, in per cent; `raw` are mmengine's.
        reason: why it failed, or where data were looked for.
        log: what was printed.
        date: end, as in '2026-11-21 10:30'.
        versions: of torch and mmfreq.
    """

    row: str
    test: str
    sha256: str
    config: str
    checkpoint: str
    state: str = STARTED
    metrics: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    reason: str = ''
    data: str = ''
    log: str = ''
    date: str = ''
    seconds: int = 0
    hardware: str = ''
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.row, self.test, self.sha256, self.config


class ResultsFile:
    """Results on disk, read again before every change, so that a second run beside this one loses nothing."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[tuple, Result]:
        """Results by their keys, oldest first; none if there is no file yet.

        Raises:
            UserError: the file is not one that was written here.
        """
        if not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding='utf-8'))
            version, entries = content['version'], content['results']
            results = [Result(**entry) for entry in entries] if version == VERSION else []
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{self.path} cannot be read ({error}): move it away to begin anew, or give another --out') from error
        if version != VERSION:
            raise UserError(f'{self.path} has version {version}, expected {VERSION}: give another --out')
        return {result.key: result for result in results}

    def record(self, result: Result) -> None:
        """Write a result, whole or not at all; a measurement of the same key that is there already stays."""
        results = self.read()
        before = results.pop(result.key, None)
        kept = before if before and before.state == MEASURED != result.state else result
        results[kept.key] = kept
        content = {'version': VERSION, 'results': [asdict(each) for each in results.values()]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(content, indent=1, allow_nan=False) + '\n')
