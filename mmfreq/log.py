"""Logging before mmengine's Runner exists, once for all processes of a distributed run."""

import logging
import os

from mmengine.logging import print_log

RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # of torchrun, Slurm and MPI
COUNT_VARIABLES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')


def process_rank():
    """The global rank of this process from the launcher's variables; also valid before there is a process group."""
    return int(next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), 0))


def process_count():
    """The number of processes of a distributed run from the launcher's variables; also valid before there is a process group."""
    return int(next((os.environ[name] for name in COUNT_VARIABLES if name in os.environ), 1))


def log_once(message, level=logging.INFO):
    """Log a message from the first process only."""
    if process_rank() == 0:
        print_log(message, logger='current', level=level)
