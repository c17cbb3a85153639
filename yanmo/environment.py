"""What a run ran on: versions, processor, accelerator, compiler; for `yanmo env`, bug reports and the report."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from yanmo import __version__

PACKAGES = (
    "torch",
    "numpy",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "pydantic",
    "rjieba",
    "rensa",
    "transformers",
    "peft",
    "ray",
)
ALWAYS_SHOWN = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow")

ABILITIES = {  # what a person reads: how Linux (x86, then ARM) and macOS (sysctl) spell it
    "AVX2": ("avx2",),
    "AVX512": ("avx512f",),
    "AVX512-VNNI": ("avx512_vnni",),
    "AVX512-bf16": ("avx512_bf16",),
    "AMX-bf16": ("amx_bf16",),
    "AMX-int8": ("amx_int8",),
    "NEON": ("asimd", "hw.optional.neon", "hw.optional.advsimd"),
    "SVE": ("sve",),
    "bf16": ("bf16", "hw.optional.arm.feat_bf16"),
    "i8mm": ("i8mm", "hw.optional.arm.feat_i8mm"),
    "SME": ("sme", "hw.optional.arm.feat_sme"),
}


def environment() -> dict[str, str]:
    """Name to value, in a stable order; what cannot be found out is "unknown", never an error. Imports torch."""
    flags, model = _processor()
    found = {"yanmo": __version__, "python": f"{platform.python_version()} ({platform.python_implementation()})"}
    found |= _packages()
    found["system"] = platform.platform(terse=False)
    found["processor"] = model
    found["cores"] = _cores()
    found["memory"] = _memory()
    found["instructions"] = ", ".join(abilities(flags)) or "unknown"
    found["accelerator"] = _accelerator()
    found["c++ compiler"] = _compiler()
    found["kernels"] = _kernels()
    if threads := os.environ.get("OMP_NUM_THREADS"):
        found["OMP_NUM_THREADS"] = threads
    return found


def as_text(values: dict[str, str]) -> str:
    """One `name  value` a line, aligned, to paste into a bug report."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def abilities(flags: Iterable[str]) -> list[str]:
    """The entries of ABILITIES among the names that /proc/cpuinfo or sysctl gives, in the table's order."""
    present = {flag.lower() for flag in flags}
    return [name for name, spellings in ABILITIES.items() if present.intersection(spellings)]


def _packages() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in ALWAYS_SHOWN:
                versions[name] = "not installed"
    return versions


def _processor() -> tuple[set[str], str]:
    """Feature names and model name."""
    if sys.platform == "darwin":
        listing = _output("sysctl", "machdep.cpu", "hw.optional")
        pairs = dict(line.partition(":")[::2] for line in listing.splitlines())
        switched_on = {name.lower() for name, value in pairs.items() if value.strip() == "1"}
        intel = " ".join(pairs.get(f"machdep.cpu.{name}", "") for name in ("features", "leaf7_features")).lower().split()
        return switched_on | set(intel), pairs.get("machdep.cpu.brand_string", "").strip() or platform.machine()
    try:
        listing = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set(), platform.processor() or platform.machine() or "unknown"
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", listing, re.MULTILINE)
    model = re.search(r"^model name\s*:\s*(.*)$", listing, re.MULTILINE)
    name = re.sub(r"\s+", " ", re.sub(r"\((?:R|TM)\)", "", model[1])).strip() if model else platform.machine()
    return set(flags[1].split()) if flags else set(), name or "unknown"


def _cores() -> str:
    """Cores of the machine, and how many of them this process may use where that is fewer."""
    total = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        share = total if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        share = total
    usable = min(allowed, share)
    return str(total) if usable >= total else f"{total} ({usable:g} usable)"


def _memory() -> str:
    """Memory of the machine, and the container's limit where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no cgroup, or "max"
        limit = total
    shown = f"{total / 2**30:.1f} GiB"
    return shown if limit >= total else f"{shown} ({limit / 2**30:.1f} GiB usable)"


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return "unknown"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        platform_name = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        return f"{platform_name}: {', '.join(names)}"
    return "MPS" if torch.backends.mps.is_available() else "none"


def _kernels() -> str:
    try:
        from yanmo import native
    except ImportError:
        return "unknown"
    return native.state()


def _compiler() -> str:
    """The compiler that torch.compile would call on a CPU (torch/_inductor/config.py, cpp.cxx)."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    path = shutil.which(command)
    if path is None:
        return f"{command} not found (torch.compile needs it on a CPU)"
    return next(iter(_output(path, "--version").splitlines()), command)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
