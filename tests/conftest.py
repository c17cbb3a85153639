"""One finished run, for every test that looks at one."""

from pathlib import Path

import pytest
from short_runs import ROOT, short_recipe

from yanmo.recipe import Recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A recipe of BERT carried out on little text; not to be changed."""
    from yanmo.run import carry_out

    recipe = short_recipe(ROOT / "recipes" / "bert-zh.yaml", tmp_path_factory.mktemp("runs"))
    return carry_out(recipe).folder, recipe
