"""Memory that is freed and soon wanted again should stay with the process.

The C library of Linux hands large blocks back to the system when they are freed. Every page of the next such block is cleared anew
when it is first touched, which can take longer than what is computed in it, on a virtual machine above all.
"""

from functools import cache

import torch

LARGEST_LIMIT = 32 * 2**20  # bytes; glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems


@cache
def keep_freed_memory() -> None:
    """Raise the limits above which glibc hands freed memory back to their largest values, 32 MiB a block and 64 MiB in all.

    By its own rule: the limits follow the largest block that has been freed (mallopt(3), M_MMAP_THRESHOLD). This one is never
    touched, so it costs nothing. Changes nothing where a user has set limits (`MALLOC_*`), or uses another allocator.
    """
    torch.empty(LARGEST_LIMIT - 2**16, dtype=torch.uint8)  # below the limit with the allocator's own bytes
