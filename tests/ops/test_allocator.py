"""Freed memory stays with the process: what is resident after blocks were freed, in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

BLOCK, COUNT = 8 * 2**20, 4  # bytes, blocks

PROGRAM = f"""
import os, torch
from mmfreq.ops.allocator import keep_freed_memory

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

keep_freed_memory()
before = resident()
for _ in range(3):
    blocks = [torch.ones({BLOCK // 4}) for _ in range({COUNT})]
    del blocks
    print(resident() - before)
"""


def kept(**environment):
    """Bytes that are still resident after all blocks were freed, three times."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'LD_PRELOAD', 'GLIBC_TUNABLES'))}
    result = subprocess.run([sys.executable, '-c', PROGRAM], env=clean | environment, capture_output=True, text=True, check=True)
    return [int(line) for line in result.stdout.split()]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='a rule of glibc')
def test_freed_blocks_stay_unless_a_user_has_set_a_limit():
    assert min(kept()) > (COUNT - 1) * BLOCK
    assert max(kept(MALLOC_TRIM_THRESHOLD_='131072')) < BLOCK
