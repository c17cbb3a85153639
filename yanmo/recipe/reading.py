"""Reading a recipe: defaults, then a YAML file, then the command line; and saying what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from yanmo.errors import UserError
from yanmo.recipe.objectives import KINDS
from yanmo.recipe.section import Section
from yanmo.recipe.tasks import TASK_KINDS
from yanmo.recipe.training import BUDGETS
from yanmo.recipe.tree import Recipe


def read_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Defaults, then the file, then `key.sub=value` overrides (values are YAML).

    Raises UserError for a file that is missing or is not YAML, and for an unknown or impossible key or value.
    """
    tree: dict[str, Any] = {} if path is None else _read_yaml(Path(path))
    for override in overrides:
        apply_override(tree, override)
    return parse_recipe(tree, "command line" if path is None else str(path))


def parse_recipe(tree: Mapping[str, Any], origin: str) -> Recipe:
    """A Recipe from a plain tree; `origin` names it in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: " + "\n".join(_explain(problem) for problem in error.errors())) from None


ALIASES = {
    "classify": "classification",
    "sentiment": "classification",
    "pairs": "classification",
    "label": "labelling",
    "ner": "labelling",
    "relations": "relation",
    "qa": "answering",
    "translate": "translation",
    "summarise": "summarisation",
    "summarize": "summarisation",
    "summarization": "summarisation",
    "chat": "dialogue",
    "search": "retrieval",
}
"""What people call tasks besides."""


def parse_task(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """A task's section from a plain tree and `key.sub=value` overrides. Raises UserError as read_recipe does."""
    full = {**tree, "kind": ALIASES.get(str(tree.get("kind")), tree.get("kind"))}
    for override in overrides:
        apply_override(full, override)
    return parse_recipe({"tasks": {"task": full}}, "task").tasks["task"]


def write_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out, as YAML that reads back to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise UserError(f"{self.name}:{line}: {key.value} is there already, in line {lines[key.value]}; keep one of both")
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, origin: str) -> Any:
    """YAML as plain values; `origin` names it in errors. Raises UserError for a key that stands twice, and yaml.YAMLError."""
    loader = _Loader(text)
    loader.name = origin
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; `recipes/own-text.yaml` is the one to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a recipe: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a tree of keys, this is a {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in the tree. A budget on the command line replaces the file's."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"{override!r} is not an override; write key.sub=value, for example training.minutes=10")
    try:
        value = parse_yaml(text, override)
    except yaml.YAMLError:
        raise UserError(f"{override!r}: the value is not YAML") from None
    *parents, last = dotted.strip().split(".")
    branch = tree
    for parent in parents:
        child = branch.get(parent)
        if child is None:
            child = branch[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"{override!r}: {parent} is not a section of the recipe")
        branch = child
    if parents[-1:] == ["training"] and last in BUDGETS and value is not None:
        for other in BUDGETS:
            branch.pop(other, None)
    branch[last] = value


def _explain(problem: Mapping[str, Any]) -> str:
    """One validation problem as a sentence with the field's full name and, for an unknown key, the nearest one."""
    kinds = tuple(_kinds_at(problem["loc"]))
    location = [part for place, part in enumerate(problem["loc"]) if not _is_kind(problem["loc"], place)]
    field = ".".join(str(part) for part in location) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such key{_nearest(str(location[-1]), _known_keys(problem['loc'][:-1]))}"
    given = problem.get("input")
    if problem["type"] == "union_tag_invalid":
        kind = problem["ctx"]["tag"]
        return f"{field}.kind: {kind!r} is not known{_nearest(kind, kinds)}; allowed: {', '.join(kinds)}"
    if problem["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{field}: {given!r} is not known{_nearest(str(given), allowed)}; allowed: {', '.join(allowed)}"
    shown = "" if isinstance(given, Mapping | Section) else f" (given: {given!r})"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(known)}"


def _known_keys(location: Sequence[Any]) -> list[str]:
    """The keys of the section at `location`, walking the types and not the values."""
    section: type[BaseModel] = Recipe
    for place, part in enumerate(location):
        if _is_kind(location, place):
            section = _kinds_at(location)[part]
        elif part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _kinds_at(location: Sequence[Any]) -> Mapping[str, type[Section]]:
    return TASK_KINDS if location[:1] == ("tasks",) else KINDS


def _is_kind(location: Sequence[Any], place: int) -> bool:
    """Whether a part of a place says which of several sections it is in: tasks have one after their name, which is free."""
    return location[place] in _kinds_at(location) and (location[0] != "tasks" or place == 2)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The Section inside an annotation such as Clean, Source or tuple[Source, ...]; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_of(inner):
            return found
    return None
