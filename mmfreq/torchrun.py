"""torchrun that can stop a run gracefully: `python -m mmfreq.torchrun`, with the arguments of torchrun.

On SIGTERM, torchrun gives its processes 30 s and exits with status 1. Here the first SIGTERM, and every SIGUSR1, is forwarded to
the processes, which save and exit; torchrun handles a second SIGTERM. If the processes exit as requested, with status 75, so does
this one; and if a process exits because of an error that the user can fix, with status 2.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

USER_ERROR = 2  # exit status of the tools for what the user can fix
STATUS = 75  # EX_TEMPFAIL of sysexits.h: not finished, start it again


def main(argv=None):
    """Run torchrun's main function; exits the process if the run was stopped on request, or failed."""
    terminate = api._terminate_process_handler  # torchrun installs it for SIGTERM whenever it starts processes
    requests = []

    def request_stop(number, frame):
        processes = children()
        if (number == signal.SIGTERM and requests) or not processes:
            terminate(number, frame)
        requests.append(number)
        for process in processes:
            os.kill(process, number)

    def handle(number, frame):
        (request_stop if number == signal.SIGTERM else terminate)(number, frame)

    api._terminate_process_handler = handle
    signal.signal(signal.SIGUSR1, request_stop)
    try:
        run.main(argv)
    except ChildFailedError as error:
        if any(failure.exitcode == STATUS for failure in error.failures.values()):
            print(f'The run was stopped on request: it saved its state and exits with status {STATUS}.', file=sys.stderr)
            raise SystemExit(STATUS) from None
        if error.get_first_failure()[1].exitcode == USER_ERROR:
            print(error, file=sys.stderr)
            raise SystemExit(USER_ERROR) from None
        raise
    finally:
        api._terminate_process_handler = terminate


def children():
    """Process ids of this process's children, all of them ranks; empty on a system without /proc."""
    found = []
    for status in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = status.read_text().rpartition(')')[2].split()
        except OSError:  # it has exited in the meantime
            continue
        if fields[0] != 'Z' and int(fields[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


if __name__ == '__main__':
    main()
