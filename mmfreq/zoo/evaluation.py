"""One evaluation, in a process of its own.

An evaluation takes minutes, so importing again for some seconds does not matter. What ends its process (the system when memory
runs out, a crash in a CUDA kernel) does not end the evaluations after it. The process also frees the GPU's memory, and isolates
what mmengine keeps in globals: default scope, loggers, visualizers.

The folder of an evaluation has `job.json`, `outcome.json`, `log.txt`, and what mmengine writes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from mmfreq.zoo.rows import write_text

JOB, OUTCOME, LOG = 'job.json', 'outcome.json', 'log.txt'
KILL_AFTER = 10  # seconds between terminating and killing a process
MAX_LENGTH = 300  # of a reason, in characters
NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|MemoryError", re.IGNORECASE)
TRAINED, CONVERTED = 'trained', 'converted'  # origins of weights
TIME = re.compile(r'_\d{8}_\d{6}$')  # mmengine puts it after the name of the config


@dataclass(frozen=True)
class Job:
    """What to evaluate: `options` change the config, `multi` is test-time augmentation, `plain` skips `mmfreq.optimize`."""

    config: str
    checkpoint: str
    folder: str
    multi: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    plain: bool = False


@dataclass(frozen=True)
class Outcome:
    """What mmengine measured, or the reason why it did not; `origin`, `seed`: of the weights, see `origin_of`, `seed_of`."""

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ''
    hardware: str = ''
    versions: dict[str, str] = field(default_factory=dict)
    origin: str = ''
    seed: int | None = None


def evaluate_in_subprocess(job: Job) -> Outcome:
    """Evaluate in a child process, which ends with this one; a crash of it is an outcome, too."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTCOME).unlink(missing_ok=True)
    write_text(folder / JOB, json.dumps(asdict(job)))
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get('PYTHONPATH')]))
    with (folder / LOG).open('w') as log:
        child = subprocess.Popen(
            [sys.executable, '-m', __name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': path},
        )
        try:
            child.wait()
        finally:
            _end(child)
    if not (folder / OUTCOME).is_file():
        return Outcome(reason=_exit_reason(child.returncode))
    return Outcome(**json.loads((folder / OUTCOME).read_text(encoding='utf-8')))


def _end(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(KILL_AFTER)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    child.stdin.close()


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f'the process exited with status {status} and without a result'
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f'signal {-status}'
    return f'the process was ended by {name}' + (', as the system does when memory runs out' if name == 'SIGKILL' else '')


def reason_of(error: BaseException, job: Job) -> str:
    """An error in one line."""
    if NO_MEMORY.search(f'{type(error).__name__}: {error}'):
        return 'out of memory'
    from mmfreq.errors import is_user_error

    return ('' if is_user_error(error) else f'{type(error).__name__}: ') + first_line(error, Path(job.checkpoint))


def first_line(error: object, file: Path) -> str:
    """The first line of a message about a file, without the file's folder, and of text in brackets only the first sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = text.replace(str(file.absolute()), file.name).replace(str(file), file.name)
    text = re.sub(rf'\b([Tt]he checkpoint) {re.escape(file.name)}', r'\1', text).removesuffix('.')
    text = re.sub(r'\(([^()]*?\w)\. [^()]*\)', r'(\1)', text)
    return text if len(text) <= MAX_LENGTH else f'{text[: MAX_LENGTH - 3]}...'


def noted_config(content: Any) -> str:
    """Stem of the config that mmengine notes in the files of its training runs; '' if there is no note."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    name = meta.get('experiment_name') if isinstance(meta, Mapping) else None
    return TIME.sub('', name) if isinstance(name, str) else ''


def origin_of(content: Any) -> str:
    """`TRAINED` for a file of a training run of mmengine, which notes its config; else `CONVERTED`, from published weights."""
    return TRAINED if noted_config(content) else CONVERTED


def seed_of(content: Any) -> int | None:
    """The seed that mmengine notes in the files of its training runs; None if there is no note."""
    seed = content['meta'].get('seed') if noted_config(content) else None
    return seed if isinstance(seed, int) else None


def _evaluate(job: Job) -> Outcome:
    """Evaluate in this process; errors are printed and become an outcome."""
    import traceback

    try:
        import torch
        from mmengine.device import get_device

        from mmfreq.compat.safe_load import read_checkpoint
        from mmfreq.engine.launch import evaluate
        from mmfreq.version import __version__

        content = read_checkpoint(job.checkpoint)
        refuse_not_finite(content)
        found = evaluate(job.config, job.checkpoint, work_dir=job.folder, tta=job.multi, cfg_options=job.options, plain=job.plain)
        metrics = {key: float(value) for key, value in found.items() if isinstance(value, Real)}
        device = get_device()
        hardware = torch.cuda.get_device_name() if device == 'cuda' else device.upper()
        versions = {'torch': torch.__version__, 'mmfreq': __version__}
        return Outcome(metrics, '', hardware, versions, origin_of(content), seed_of(content))
    except Exception as error:
        traceback.print_exc()
        return Outcome(reason=reason_of(error, job))


def refuse_not_finite(content: Any) -> None:
    """Raise a UserError if a weight is NaN or infinite: such a model has a score, but it means nothing."""
    from mmfreq.errors import UserError
    from mmfreq.weights.fit import choose_entry
    from mmfreq.weights.load import count_not_finite

    state = choose_entry(content).state
    names = list(count_not_finite(state))
    if names:
        raise UserError(
            f'{len(names)} of {len(state)} tensors of the checkpoint are NaN or infinite in part: {", ".join(names[:3])}'
        )


def _end_with_parent() -> None:
    """End this process when its parent ends, in whatever way."""

    def wait():
        os.read(0, 1)  # nothing is ever written: returns when the parent's end is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: str) -> None:
    _end_with_parent()
    job = Job(**json.loads((Path(folder) / JOB).read_text(encoding='utf-8')))
    write_text(Path(folder) / OUTCOME, json.dumps(asdict(_evaluate(job))))


if __name__ == '__main__':
    main(sys.argv[1])
