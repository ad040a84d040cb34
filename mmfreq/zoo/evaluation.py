"""One evaluation, in a process of its own.

A process for each, though its imports take seconds (a few, ten on a busy CPU): an evaluation of a real row takes minutes, and
what ends its process (the kernel when memory runs out, a crash in a CUDA kernel) must not end those that follow. It also gives
back the GPU's memory, and frees each evaluation from what mmengine keeps in globals: default scope, loggers, visualizers.

The folder of an evaluation holds `job.json`, `outcome.json`, `log.txt`, and what mmengine writes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from mmfreq.zoo.rows import first_sentence, write_text

JOB, OUTCOME, LOG = 'job.json', 'outcome.json', 'log.txt'
PATIENCE = 10  # seconds between asking a process to end and killing it
NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|MemoryError", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """What to evaluate; `options` are changes to the config, `multi` asks for test-time augmentation, `plain` for no `optimize`."""

    config: str
    checkpoint: str
    folder: str
    multi: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    plain: bool = False


@dataclass(frozen=True)
class Outcome:
    """What mmengine measured, or the reason why it did not."""

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ''
    hardware: str = ''
    versions: dict[str, str] = field(default_factory=dict)


def evaluate_apart(job: Job) -> Outcome:
    """Evaluate in a child process, which ends with this one; whatever happens to it becomes an outcome."""
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
        return Outcome(reason=_how_it_ended(child.returncode))
    return Outcome(**json.loads((folder / OUTCOME).read_text(encoding='utf-8')))


def _end(child: subprocess.Popen) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    child.stdin.close()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f'its process ended with status {status} and without a result'
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f'signal {-status}'
    return f'its process was ended by {name}' + (', as the system does when memory runs out' if name == 'SIGKILL' else '')


def reason_of(error: BaseException, job: Job) -> str:
    """An error in one line."""
    if NO_MEMORY.search(f'{type(error).__name__}: {error}'):
        return 'out of memory'
    from mmfreq.errors import is_user_error

    return ('' if is_user_error(error) else f'{type(error).__name__}: ') + first_sentence(error, Path(job.checkpoint))


def _evaluated(job: Job) -> Outcome:
    """Evaluate in this process; errors are printed and become an outcome."""
    import traceback

    try:
        import torch
        from mmengine.device import get_device

        from mmfreq.engine.launch import evaluate
        from mmfreq.version import __version__

        refuse_broken_weights(job.checkpoint)
        found = evaluate(job.config, job.checkpoint, work_dir=job.folder, tta=job.multi, cfg_options=job.options, plain=job.plain)
        metrics = {key: float(value) for key, value in found.items() if isinstance(value, Real)}
        device = get_device()
        hardware = torch.cuda.get_device_name() if device == 'cuda' else device.upper()
        return Outcome(metrics, '', hardware, {'torch': torch.__version__, 'mmfreq': __version__})
    except Exception as error:
        traceback.print_exc()
        return Outcome(reason=reason_of(error, job))


def refuse_broken_weights(path: str) -> None:
    """Raise a UserError if a weight is NaN or infinite: the score of such a model is a number, and means nothing."""
    from mmfreq.compat.safe_load import read_checkpoint
    from mmfreq.errors import UserError
    from mmfreq.weights.fit import broken_values, choose_entry

    state = choose_entry(read_checkpoint(path)).state
    broken = list(broken_values(state))
    if broken:
        raise UserError(f'{len(broken)} of {len(state)} tensors of the checkpoint hold NaN or infinity: {", ".join(broken[:3])}')


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""

    def wait():
        os.read(0, 1)  # nothing is ever written: returns when the other end is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: str) -> None:
    _end_with_parent()
    job = Job(**json.loads((Path(folder) / JOB).read_text(encoding='utf-8')))
    write_text(Path(folder) / OUTCOME, json.dumps(asdict(_evaluated(job))))


if __name__ == '__main__':
    main(sys.argv[1])
