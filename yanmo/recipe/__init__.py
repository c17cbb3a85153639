"""The recipe: one typed tree that says everything a run does.

A recipe is read from defaults, then a YAML file, then the command line (`training.minutes=10`). An unknown key or value
is an error that offers the nearest known one. Reading a recipe opens no file but the recipe and touches no network.
"""

from yanmo.recipe.model import KIND_OF, USES, FamilyName, Model, NetworkKind, Size, Use, families_of
from yanmo.recipe.objectives import DEFAULT_KIND, KINDS, CausalObjective, MaskedObjective, Objective
from yanmo.recipe.reading import parse_recipe, read_recipe, write_yaml
from yanmo.recipe.section import Section
from yanmo.recipe.text import (
    Clean,
    Corpus,
    Decontaminate,
    Deduplicate,
    Filter,
    Format,
    PersonalData,
    Source,
    Tokenizer,
    TokenizerKind,
)
from yanmo.recipe.training import BUDGETS, Evaluation, Training
from yanmo.recipe.tree import Recipe, article

__all__ = [
    "BUDGETS",
    "DEFAULT_KIND",
    "KINDS",
    "KIND_OF",
    "USES",
    "CausalObjective",
    "Clean",
    "Corpus",
    "Decontaminate",
    "Deduplicate",
    "Evaluation",
    "FamilyName",
    "Filter",
    "Format",
    "MaskedObjective",
    "Model",
    "NetworkKind",
    "Objective",
    "PersonalData",
    "Recipe",
    "Section",
    "Size",
    "Source",
    "Tokenizer",
    "TokenizerKind",
    "Training",
    "Use",
    "article",
    "families_of",
    "parse_recipe",
    "read_recipe",
    "write_yaml",
]
