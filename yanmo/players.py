"""The players of an objective, each with an optimizer of its own. Most objectives have one; a game has several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from yanmo import recipe
from yanmo.objectives.objective import Moment, Objective
from yanmo.optim import Frozen, Optimizer


class Players:
    """Optimizers by player. What they hold goes into a checkpoint under the objective's own names of parameters; what is frozen
    is not in it."""

    def __init__(self, objective: Objective, training: recipe.Training, dtype: torch.dtype):
        width = objective.network.config.width
        paces = objective.paces()
        unknown = sorted(paces.keys() - {name for name, _ in objective.named_parameters()})
        assert not unknown, f"paces are of parameters that there are, not of {', '.join(unknown)}"
        self._frozen = Frozen(objective, dtype)
        parts = objective.players().items()
        self._optimizers = {name: Optimizer(objective, training, width, dtype, part, paces) for name, part in parts}
        moved = [name for optimizer in self._optimizers.values() for name in optimizer.weights.parameters]
        learned = {name for name, parameter in objective.named_parameters() if parameter.requires_grad}
        assert sorted(moved) == sorted(learned), "every parameter that is learned belongs to one player"

    def __getitem__(self, player: str) -> Optimizer:
        return self._optimizers[player]

    def rate(self, moment: Moment) -> float:
        """The learning rate of AdamW at a step, the same for all players but for their widths."""
        return next(iter(self._optimizers.values())).rates(moment.step, moment.steps, moment.phase.pace)[0]

    def weights(self) -> dict[str, Tensor]:
        """The fp32 masters of all parameters, by name."""
        each = [optimizer.weights.named(optimizer.weights.masters) for optimizer in self._optimizers.values()]
        return {name: tensor for named in each for name, tensor in named.items()}

    def state(self) -> dict[str, Tensor]:
        """Every optimizer's state, `PLAYER.` before each name."""
        each = self._optimizers.items()
        return {f"{player}.{name}": tensor for player, optimizer in each for name, tensor in optimizer.state().items()}

    def load(self, weights: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Set masters and optimizers to what `weights` and `state` gave."""
        for player, optimizer in self._optimizers.items():
            start = f"{player}."
            own = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
            optimizer.load(weights, own)

    def flat(self) -> list[Tensor]:
        """Every tensor that changes from step to step."""
        return [tensor for optimizer in self._optimizers.values() for tensor in optimizer.flat()]

    def refresh(self) -> None:
        """Copy the masters to the parameters."""
        for optimizer in self._optimizers.values():
            optimizer.weights.refresh()

    def release(self) -> None:
        """Give the parameters back to the objective in fp32, those that are frozen as they were."""
        for optimizer in self._optimizers.values():
            optimizer.weights.release()
        self._frozen.release()
