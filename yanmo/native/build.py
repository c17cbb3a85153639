"""Compile a C file once, keep the library in the user's cache, and load it into this process.

The libraries use the OpenMP threads of torch: they are compiled with OpenMP and linked without it, so that its names
are found in the runtime that torch has loaded. A second runtime would have threads of its own, fighting for the cores.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).parent
FLAGS = (
    "-O3", "-march=native", "-std=gnu11", "-fPIC", "-fopenmp",
    "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
)
SWITCH = "YANMO_NATIVE"
"""Set to 0 in the environment, it keeps everything with torch."""
COMPILING_SECONDS = 120


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The functions of NAME.c, compiled if need be, or None where they cannot be had: `state` says why."""
    found = _load(name)
    return found if isinstance(found, ctypes.CDLL) else None


def state() -> str:
    """One phrase for a table of the environment: what the kernels are compiled by, or why they are not used."""
    for name in sorted(path.stem for path in SOURCES.glob("*.c")):
        if isinstance(found := _load(name), str):
            return f"not used: {found}"
    return f"compiled by {_compiler()}"


def pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
    """The addresses of tensors on a CPU, for a function of a library; None is a null pointer."""
    return [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]


@cache
def _load(name: str) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    if not sys.platform.startswith("linux") or not torch.cpu._is_amx_tile_supported():
        return "the kernels are for AMX on Linux"
    compiler = _compiler()
    if compiler is None:
        return "there is no C compiler (cc or gcc)"
    try:
        return ctypes.CDLL(str(_compiled(name, compiler)))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed on {name}.c ({(error.stderr.strip() or 'no message').splitlines()[0]})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}.c cannot be compiled or loaded ({error})"


def _compiler() -> str | None:
    return next((path for name in (os.environ.get("CC"), "gcc", "cc") if name and (path := shutil.which(name))), None)


def _compiled(name: str, compiler: str) -> Path:
    """The library's file. Processes that compile it at once each write a file of their own; the last name wins."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yanmo" / "kernels"
    target = folder / f"{name}-{_fingerprint(name, compiler)}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        compiled, linked = Path(work, f"{name}.o"), Path(work, target.name)
        _run(compiler, *FLAGS, "-c", str(SOURCES / f"{name}.c"), "-o", str(compiled))
        _run(compiler, "-shared", str(compiled), "-o", str(linked), "-lm")
        linked.replace(target)
    return target


def _fingerprint(name: str, compiler: str) -> str:
    """What the compiled file depends on: the source, what it includes, the compiler and the processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    asked = [compiler, "-march=native", "-Q", "--help=target"]
    target = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    sources = [SOURCES / f"{name}.c", *sorted(SOURCES.glob("*.h"))]
    text = "\0".join([*(source.read_text() for source in sources), version, target, *FLAGS])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILING_SECONDS)
