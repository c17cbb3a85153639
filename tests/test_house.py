"""The rules of the house: imports go down, names say what lies there, files stay small, nothing heavy is imported early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "yanmo"

LEVELS = (  # the lowest first; a room imports only from rooms below it, or from itself
    {"arriving", "errors", "progress", "memory", "native"},
    {"files"},
    {"recipe", "environment", "display"},
    {"corpus", "tokenizer"},
    {"shards", "batch", "labelled"},
    {"layers"},
    {"models"},
    {"optim", "checkpoint", "parallel", "card"},
    {"speed"},
    {"objectives", "adapt"},
    {"feed", "guard", "metrics", "loading", "scoring", "blocks", "players", "measured", "budget", "bleu"},
    {"beams", "gradients"},
    {"train", "filling", "generation", "vectors"},
    {"tasks"},
    {"frontier"},
    {"evaluation", "report", "verify", "latents"},
    {"pretrain", "summary", "finetune", "predict"},
    {"blank", "index", "talk", "lanes"},
    {"trials"},
    {"multitask"},
    {"run"},
    {"compare"},
    {"cli"},
)
FORBIDDEN = {"utils", "util", "common", "core", "base", "helpers", "helper", "misc"}
NOT_WITHOUT_NEED = ("torch", "tokenizers", "pyarrow", "transformers", "pandas", "pydantic")

modules = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level_of(room: str) -> int:
    found = [number for number, rooms in enumerate(LEVELS) if room in rooms]
    assert found, f"{room} is a new room: say in LEVELS where it stands"
    return found[0]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of the house that a file imports anywhere, `if TYPE_CHECKING` included."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "yanmo" else [f"yanmo.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("yanmo.")}
    return {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()}


@pytest.mark.parametrize("path", modules, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    upward = {other for other in imported_rooms(path) if other != room and level_of(other) >= level_of(room)}
    assert not upward, f"{path.name} stands beside or below what it imports: {upward}"


def test_files_are_small_and_named_for_what_they_hold() -> None:
    for path in modules:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 520, f"{path} is too long to be read at one sitting"
        assert not FORBIDDEN & set(path.relative_to(PACKAGE).with_suffix("").parts), f"{path}: the name says nothing"


def test_functions_are_short() -> None:
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno
                assert lines <= 70, f"{path.name}: {node.name} has {lines} lines"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("module", ["yanmo", "yanmo.cli"])
def test_nothing_heavy_is_imported_early(module: str) -> None:
    loaded = run_python(f"import sys, {module}; print(' '.join(sys.modules))").split()
    assert not set(NOT_WITHOUT_NEED) & set(loaded)


WITHOUT_TORCH = ("yanmo.corpus", "yanmo.tokenizer", "yanmo.labelled.data", "yanmo.shards", "yanmo.report", "yanmo.run")


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_text_is_prepared_without_torch(module: str) -> None:
    assert "torch" not in run_python(f"import sys, {module}; print(' '.join(sys.modules))").split()


def test_public_names_exist() -> None:
    import yanmo

    assert sorted(yanmo.__all__) == sorted(yanmo.HOMES)
    for name in yanmo.__all__:
        assert getattr(yanmo, name) is not None
    with pytest.raises(AttributeError):
        yanmo.no_such_thing  # noqa: B018
