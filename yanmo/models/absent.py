"""What stands in a network where a part was that nothing there needs any more."""

from __future__ import annotations

from typing import Any

from torch import nn

from yanmo.errors import UserError


class AbsentPart(UserError, AttributeError):
    """Also an AttributeError: who only asks whether the part has something is told that it has not."""


class Absent(nn.Module):
    """A part without weights. Raises UserError with the reason as soon as anything is asked of it."""

    def __init__(self, reason: str):
        super().__init__()
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AbsentPart(self.reason) from None

    def forward(self, *_: Any, **__: Any) -> Any:
        raise AbsentPart(self.reason)
