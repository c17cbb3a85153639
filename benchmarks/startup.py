"""How long a person waits before anything happens, as whole processes against one that does nothing.

    python benchmarks/startup.py [--rounds 9]

The commands take turns, round after round, and each is run once before anything is measured, so that files are in memory and
Python's bytecode is written. Medians; `over python` is what is left when Python's own start is taken off.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

COMMANDS = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import yanmo": ([sys.executable, "-c", "import yanmo"], 0.3),
    "yanmo --help": ([str(Path(sys.executable).with_name("yanmo")), "--help"], 0.5),
}
"""What is started, and the most seconds it may take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rounds = [{name: _seconds(command) for name, (command, _) in COMMANDS.items()} for _ in range(1 + options.rounds)][1:]
    bare = median(one["python -c pass"] for one in rounds)
    print(f"{'':18}{'seconds':>9}{'range':>16}{'over python':>13}{'at most':>9}{'':>8}")
    for name, (_, most) in COMMANDS.items():
        seconds = [one[name] for one in rounds]
        middle = median(seconds)
        verdict = "" if most is None else f"{most:>9.1f}{'yes' if middle < most else 'NO':>8}"
        span = f"{min(seconds):.3f}-{max(seconds):.3f}"
        print(f"{name:18}{middle:>9.3f}{span:>16}{middle - bare:>13.3f}{verdict}")


def _seconds(command: list[str]) -> float:
    """One process from start to end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
