"""Return of freed memory to the operating system, which glibc's malloc would keep."""

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Return freed memory to the operating system, where malloc keeps it.

    Tensors of a batch change their sizes from step to step, and leave gaps. With SmolLM2-135M in bfloat16, a process
    had 5.2 GB after five shards of 168 rows, and used 0.9. A call took at most 0.2 of the 20 seconds of a shard.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it
        trim(0)
