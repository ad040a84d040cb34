"""torchrun, with a way to ask a run to stop: `python -m mmfreq.torchrun`, which takes the arguments of torchrun.

torchrun answers SIGTERM by giving its processes 30 s, and ends with status 1 whatever they did. Here the first SIGTERM, and every
SIGUSR1, goes to the processes, which save and end; a second SIGTERM is torchrun's own. Where the processes ended as they were asked
to, so does this one: with status 75.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

STATUS = 75  # EX_TEMPFAIL of sysexits.h: not finished, start it again


def main(argv=None):
    """Run torchrun's main function; ends the process where the run stopped as it was asked to, or failed."""
    stock = api._terminate_process_handler  # which it installs for SIGTERM whenever it starts processes
    asked = []

    def ask(number, frame):
        processes = children()
        if (number == signal.SIGTERM and asked) or not processes:
            stock(number, frame)
        asked.append(number)
        for process in processes:
            os.kill(process, number)

    def handle(number, frame):
        (ask if number == signal.SIGTERM else stock)(number, frame)

    api._terminate_process_handler = handle
    signal.signal(signal.SIGUSR1, ask)
    try:
        run.main(argv)
    except ChildFailedError as error:
        if any(failure.exitcode == STATUS for failure in error.failures.values()):
            print(f'The run was asked to stop: it saved its state and ends with status {STATUS}.', file=sys.stderr)
            raise SystemExit(STATUS) from None
        raise
    finally:
        api._terminate_process_handler = stock


def children():
    """Process numbers of this process's children, of which there are none but the ranks; [] where the system does not tell."""
    found = []
    for status in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = status.read_text().rpartition(')')[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields[0] != 'Z' and int(fields[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


if __name__ == '__main__':
    main()
