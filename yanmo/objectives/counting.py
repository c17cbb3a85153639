"""Counting: what is learned in one pass over the text and not by gradients (n-gram models)."""

from __future__ import annotations

from yanmo.batch import Documents
from yanmo.models.ngram import NGram
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.objective import Loss
from yanmo.progress import Progress, silent
from yanmo.recipe import CausalObjective, CountingObjective
from yanmo.tokenizer import Tokens


class Counting(Causal):
    """Asked what it has learned, next-token prediction with documents apart; taught by `count`, once, and not by a trainer."""

    def __init__(self, network: NGram, tokens: Tokens, recipe: CountingObjective):
        super().__init__(network, tokens, CausalObjective())
        self.network: NGram = network  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower

    def count(self, documents: Documents, progress: Progress = silent) -> None:
        """Count all texts, each as `places` and `collate` lay them out, whole. Raises UserError for a too large order."""
        self.network.count(documents, self.prefix, self.suffix, progress)

    def losses(self, batch: CausalBatch, turn: str) -> dict[str, Loss]:
        contexts_NC = hidden_at(self.network(batch.packed), batch.places)
        total = -self.network.log_probabilities(contexts_NC, batch.answers).sum()
        return {"causal": Loss(total, len(batch.answers))}
