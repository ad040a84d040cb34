"""The process group of a distributed run without GPUs.

mmengine calls `torch.cuda.set_device` before it makes a group, whatever the backend; here the group is made first, and
mmengine, which asks whether there is one, leaves it alone.
"""

import datetime
import os
import subprocess

import torch.distributed as dist

from mmfreq.engine.errors import UserError

# what each launcher calls the rank, the number of processes and the rank on this machine
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def init_cpu_group(launcher, dist_cfg):
    """Join the launcher's processes into a gloo group; does nothing if there is a group already.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        dist_cfg: `env_cfg.dist_cfg` of the config; `timeout` in seconds and `port` are used.

    Raises:
        UserError: the variables that the launcher sets are not there.
    """
    if dist.is_initialized():
        return
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher} expects the environment variables {", ".join(VARIABLES[launcher])}, and '
            f'{", ".join(missing)} not set: start through tools/dist_train.sh or the launcher itself, or leave --launcher out.'
        )
    for name, source in zip(VARIABLES['pytorch'], VARIABLES[launcher]):
        os.environ[name] = os.environ[source]
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_slurm_host() if launcher == 'slurm' else '127.0.0.1'
    os.environ.setdefault('MASTER_PORT', str(dist_cfg.get('port', 29500)))
    timeout = datetime.timedelta(seconds=dist_cfg.get('timeout', 1800))
    dist.init_process_group('gloo', timeout=timeout)


def _first_slurm_host():
    hosts = subprocess.run(
        ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], capture_output=True, text=True, check=True
    )
    return hosts.stdout.split()[0]
