"""Say something in the log before mmengine's Runner is there, once for all processes of a distributed run."""

import logging
import os

from mmengine.logging import print_log

RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def process_rank():
    """The rank of this process over all machines, read from the launcher's variables: also before a process group exists."""
    return int(next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), 0))


def log_once(message, level=logging.INFO):
    """Log a message from the first process only."""
    if process_rank() == 0:
        print_log(message, logger='current', level=level)
