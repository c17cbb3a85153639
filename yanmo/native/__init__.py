"""Kernels in C for what torch does slowly on a CPU with AMX, compiled on the machine that they run on.

Each file `NAME.c` here becomes a library of plain functions on pointers. Where there is no C compiler, no AMX or no
Linux, `ready` gives None and everything is computed by torch: slower, and otherwise the same.
"""

from yanmo.native.build import library, pointers, state
from yanmo.native.ready import ready

__all__ = ["library", "pointers", "ready", "state"]
