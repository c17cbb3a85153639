"""What every part of a recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe. The sentence under each field is what `yanmo schema` prints."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
