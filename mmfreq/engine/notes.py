"""Say something in the log before mmengine's Runner is there, once for all processes of a distributed run."""

import logging
import os

from mmengine.logging import print_log

RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def say(message, level=logging.INFO):
    """Log a message from the first process only; the rank is read from the launcher's variables, as no group exists yet."""
    if next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), '0') == '0':
        print_log(message, logger='current', level=level)
