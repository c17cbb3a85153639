"""What the machine is said to be, against what the system itself says."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from yanmo import __version__
from yanmo.environment import ABILITIES, abilities, as_text, environment


@pytest.fixture(scope="module")
def values() -> dict[str, str]:
    return environment()


def test_versions_are_those_installed(values: dict[str, str]) -> None:
    import numpy
    import torch

    assert values["yanmo"] == __version__
    assert values["python"].startswith(platform.python_version())
    assert values["torch"] == torch.__version__
    assert values["numpy"] == numpy.__version__


def test_same_names_in_the_same_order(values: dict[str, str]) -> None:
    assert list(environment()) == list(values)
    assert all(isinstance(value, str) and value for value in values.values())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux only")
def test_instructions_are_the_flags_of_the_kernel(values: dict[str, str]) -> None:
    listing = Path("/proc/cpuinfo").read_text()
    for ability, spellings in ABILITIES.items():
        if platform.machine() == "x86_64" and ability.startswith(("AVX", "AMX")):
            assert (ability in values["instructions"].split(", ")) == any(f" {name} " in listing for name in spellings)
    assert values["cores"].split()[0] == str(os.cpu_count())


def test_abilities_of_other_processors() -> None:
    xeon = ["fpu", "avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    assert abilities(xeon) == ["AVX2", "AVX512", "AVX512-bf16", "AMX-bf16"]
    assert abilities(["asimd", "sve", "bf16"]) == ["NEON", "SVE", "bf16"]
    assert abilities(["hw.optional.AdvSIMD", "hw.optional.arm.FEAT_BF16"]) == ["NEON", "bf16"]
    assert abilities([]) == []


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler not found" in environment()["c++ compiler"]


def test_text_is_aligned() -> None:
    assert as_text({"a": "1", "long name": "2"}) == "a          1\nlong name  2"


def test_import_is_light() -> None:
    program = "import sys, yanmo.environment; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
