"""What must hold before numpy, torch and pyarrow are imported in a process that will fork."""

from __future__ import annotations

import gc
import os
import sys


def prepare_to_fork() -> None:
    """Keeps libraries from starting threads, which would not be there in a forked process."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    os.environ["DO_NOT_TRACK"] = "1"
    gc.disable()  # imports take a quarter less time; the harness switches it on after them
    sys.dont_write_bytecode = True  # a file that is written is taken for a fault
