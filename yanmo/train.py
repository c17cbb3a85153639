"""The trainer: one loop for whatever is learned. Fetch, loss, backward, clip, step, log, evaluate, save.

What a step computes is a function of (seed, step) and of the state that a checkpoint holds, and of nothing else:
resuming is setting a number. Losses are sums; they are divided once, by the counts of the whole step over all its
micro-batches and all ranks, so that how a step is cut up changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from yanmo import checkpoint, guard, recipe
from yanmo.batch import to_device
from yanmo.blocks import prepared_blocks
from yanmo.budget import MEASURED_SHARE, MEASURED_STEPS, VALIDATING_SHARE, Budget, mean_cost
from yanmo.checkpoint import State
from yanmo.errors import UserError
from yanmo.feed import FORKS, Feed, Rows, Share
from yanmo.files import lock_folder
from yanmo.gradients import add_up
from yanmo.measured import Measured, measured, totals_of
from yanmo.metrics import Metrics, check_trackers
from yanmo.objectives.objective import Moment, Objective
from yanmo.optim import choose_precision
from yanmo.parallel import Ranks
from yanmo.players import Players
from yanmo.progress import Progress, silent

CACHED_TOKENS = 2048
"""Tokens whose activations stay in a CPU's cache: matrix products then run two to three times as fast as from memory."""
VALIDATIONS = 10
"""Validations of a run, when the recipe does not say how often; fewer where they would take too much of a budget in minutes."""
PLACES = 1000
"""Steps of the run that is imagined when a step of each phase is measured."""
SAVE_SECONDS = 300.0
"""Between checkpoints, when the recipe does not say how often."""
FREE = ("trackers", "keep", "save_every", "validate_every", "loader_workers", "patience")
"""Settings of training that may change when a run goes on, because they change no weight."""
ROUNDING = ("compile", "checkpoint_activations", "micro_rows")
"""Those that may change too, because they change nothing but the order of sums (and which numbers dropout draws)."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. `last` and `best` are checkpoints; losses are means over targets, in nats, by name.

    interrupted: it was asked to stop, has saved, and goes on when it is started again. The network holds the last
    weights, in fp32.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    losses: dict[str, float]
    validation: dict[str, float]
    best_loss: float | None
    best_step: int | None
    best: Path | None
    last: Path
    skipped: int
    returns: int
    interrupted: bool


class Trainer:
    """Trains an objective on an order of rows, into `folder`: checkpoints, metrics.jsonl, TensorBoard.

    A folder that holds a checkpoint is gone on with. `identity` says what else a run depends on (model, objective, the
    hashes of tokenizer and shards); a checkpoint with another one is refused. `say` is given sentences for the user.
    Without a budget in the recipe there is one epoch. One in minutes counts from the start of `fit` and is turned into
    steps by measuring, again three times on the way; it is not enforced: on a machine that slows down later the run
    takes longer. `appraise` finds figures of the held-out data beside the losses, on the first rank.
    Raises UserError for rows that the ranks cannot share and for a tracker that is not installed.
    """

    def __init__(
        self,
        objective: Objective,
        order: Rows,
        validation_order: Rows | None,
        training: recipe.Training,
        folder: Path,
        seed: int = 0,
        *,
        ranks: Ranks | None = None,
        identity: Mapping[str, Any] | None = None,
        appraise: Callable[[], Mapping[str, float]] | None = None,
        progress: Progress = silent,
        say: Callable[[str], None] = print,
    ):
        self.objective, self.appraise = objective, appraise
        self.order, self.validation_order = order, validation_order
        self.training, self.folder, self.seed, self.progress = training, folder, seed, progress
        self.ranks = ranks or Ranks()
        self.say = say if self.ranks.is_first else _say_nothing
        first, count = self.ranks.rows(training.rows)
        check_trackers(training.trackers)
        self.identity = checkpoint.flatten(
            {"training": training.model_dump(mode="json"), "seed": seed, **(identity or {})}
        )
        self.checkpoints = folder / "checkpoints"
        micro = min(training.micro_rows or rows_at_once(self.ranks.device, objective.narrowest(training.length), count), count)
        if objective.mixes_rows:
            self.identity["rows of a micro-batch (training.micro_rows)"] = micro
        self.share = Share(objective, order, training.rows, first, count, micro, training.length)
        self.budget = Budget(training, objective.phases)
        self.state = State()
        self.losses: dict[str, float] = {}
        self.validation: dict[str, float] = {}

    def fit(self) -> Outcome:
        """Train to the end of the budget, or until Ctrl-C or SIGTERM: then the step is finished and a checkpoint saved.

        Raises UserError when the folder is in use, when what is there belongs to another recipe or is not whole, when
        the disk is full, and when the losses keep being no numbers.
        """
        with ExitStack() as stack:
            stack.enter_context(lock_folder(self.folder) if self.ranks.is_first else nullcontext())
            self._interrupt = stack.enter_context(guard.interrupts())
            self._set_up(stack)
            self._start()
            interrupted = self._loop()
            self.players.release()
        return self._outcome(interrupted)

    def _loop(self) -> bool:
        """Every step to the last, or to the one after which a stop was asked for: then True."""
        while self.state.step < self.state.steps and not self._tired():
            start = time.perf_counter()
            batches = self.feed.take(self.state.step + self.state.shift)
            torch.manual_seed(_seed_of(self.seed, self.state.step, self.ranks.rank))
            place = self.state.place()
            self.objective.begin(*place)
            moment = self.objective.moment(*place)
            rate = self.players.rate(moment)
            found, norm, refusal = self._turns(batches, moment)
            self.state.step += 1
            self.state.tokens += found.tokens
            self.budget.took(time.perf_counter() - start, moment.number)
            self._log(found, norm, rate, refusal, start)
            pausing, validates = time.perf_counter(), self._validation_due()
            if self.state.refused >= guard.PATIENCE:
                self._go_back()
            elif validates:
                self._validate()
            if self._decides_again() or self._save_due() or found.stop:
                self._save()
            if validates:
                self.budget.pause = time.perf_counter() - pausing
            if self._tired():
                self.say(f"{self.state.worse} validations were no better than that of step {self.state.best_step}: training ends")
            elif found.stop and self.state.step < self.state.steps:
                self.say(f"stopped after step {self.state.step}, all is saved; the same command goes on from there")
                return True
        return False

    # What a step is made of

    def _turns(self, batches: Sequence[Any], moment: Moment) -> tuple[Measured, float, str | None]:
        """Let the players of a phase move: what was found, the norm of all gradients, and why the last refusal was."""
        found, whole_norm, refused = Measured({}, 0.0, 0, False), 0.0, None
        for player in moment.phase.turns:
            turn = self._gradients(batches, player)
            norm = float(self.players[player].norm())
            refusal = self._judge(player if moment.number == 0 else f"{player}, phase {moment.number}", turn, norm)
            if refusal is None and turn.targets:
                self.players[player].step(moment.step, moment.steps, norm, moment.phase.pace)
                self.objective.took(player, turn.means)
            found, whole_norm, refused = found.with_(turn), math.hypot(whole_norm, norm), refusal or refused
        return found, whole_norm, refused

    def _gradients(self, batches: Sequence[Any], player: str = "model") -> Measured:
        """Make a player's gradient of a step's micro-batches: what was found in them."""
        names = sorted(self.objective.counts(batches[0]))
        counts, tokens = self._counts(names, batches)
        totals, weights, apart = add_up(self.objective, player, batches, counts, self.players[player].weights, self.ranks)
        *summed, stop = self.ranks.sum([*totals.flatten().tolist(), self._interrupt.is_set()])
        found = measured(names, summed, weights, tokens, stop > 0)
        if apart is not None:
            self.objective.join(apart, found.means)
        return found

    def _counts(self, names: Sequence[str], batches: Sequence[Any]) -> tuple[dict[str, float], int]:
        """Each loss's targets over all micro-batches and ranks, and the tokens read."""
        made = [self.objective.counts(batch) for batch in batches]
        own = [sum(counts[name] for counts in made) for name in names]
        read = sum(batch.tokens for batch in batches)
        *counts, tokens = self.ranks.sum([*own, read])
        return dict(zip(names, counts, strict=True)), round(tokens)

    def _judge(self, player: str, found: Measured, norm: float) -> str | None:
        """Why a player's step must not be taken, or None, and what the guard remembers of the player in this phase: of steps in
        which some of its losses had no targets, apart from the others."""
        state = self.state
        if not found.targets:
            return None
        player = ", without ".join((player, *found.without))
        losses, norms = (recent.setdefault(player, []) for recent in (state.recent_losses, state.recent_norms))
        refusal = guard.refusal(found.loss, norm, losses, norms, state.refused)
        if refusal is None:
            state.refused = 0
            if self.objective.steady:
                guard.remember(found.loss, losses)
                guard.remember(norm, norms)
        else:
            state.skipped += 1
            state.refused += 1
            self.say(f"step {state.step} is skipped: {refusal}")
        return refusal

    @torch.no_grad()
    def _validate(self) -> None:
        """Measure the fixed validation rows, always with the same masks, and keep the best."""
        if self.validation_order is None:
            return
        self.objective.eval()
        torch.manual_seed(_seed_of(self.seed, 0, self.ranks.rank))
        batches = self._validation_batches
        names = self.ranks.share(sorted(self.objective.counts(batches[0])) if batches else [])
        _, tokens = self._counts(names, batches)
        totals, weights, observed = [torch.zeros(2, len(names), device=self.ranks.device)], dict[str, float](), list[Tensor]()
        for batch in (to_device(batch, self.ranks.device) for batch in batches):
            losses, seen = self.objective.observe(batch)
            weights = {name: loss.weight for name, loss in losses.items()}
            totals.append(totals_of(losses, names))
            observed += [] if seen is None else [seen]
        self.objective.train()
        gathered = self.ranks.gather(torch.cat(observed) if observed else None)
        weights = self.ranks.share(weights)
        found = measured(names, self.ranks.sum(torch.stack(totals).sum(0).flatten().tolist()), weights, tokens)
        self.validation = {**found.means, "loss": found.loss}
        if gathered is not None:
            figures, sentences = self.objective.summarise(gathered, found.means)
            self.validation |= figures
            for sentence in sentences:
                self.say(f"step {self.state.step}: {sentence}")
        if self.appraise is not None:
            self.validation |= self.ranks.share(dict(self.appraise()) if self.ranks.is_first else {})
        if self.metrics is not None:
            self.metrics.write({"step": self.state.step, "tokens": self.state.tokens, "validation": self.validation})
        if found.targets and self.objective.keeps == "best":
            merit, state = self.objective.merit(self.validation), self.state
            is_best = state.best_loss is None or merit < state.best_loss
            state.worse = 0 if is_best else state.worse + 1
            if is_best:
                state.best_loss, state.best_step = merit, state.step

    def _log(self, found: Measured, norm: float, rate: float, refusal: str | None, start: float) -> None:
        """Write the step's line and show it; `start` is when the step began."""
        now = time.perf_counter()
        state, seconds = self.state, now - start
        state.seconds = now - self._origin
        self.losses = {**found.means, "loss": found.loss}
        self._speed = seconds if self._speed is None else 0.9 * self._speed + 0.1 * seconds
        line: dict[str, Any] = {"step": state.step, "tokens": state.tokens, **self.losses, "norm": norm}
        line |= {"learning_rate": rate, "tokens_per_second": found.tokens / seconds, "seconds": round(state.seconds, 3)}
        if refusal is not None:
            line["skipped"] = refusal
        if self.metrics is not None:
            self.metrics.write(line)
        if now - self._shown > 0.25 or state.step == state.steps:
            self._shown = now
            left = (state.steps - state.step) * self._speed
            shown = {"loss": found.loss, "tokens_per_second": found.tokens / self._speed, "left": left}
            self.progress(state.step, state.steps, "steps", **shown)

    # Saving, and going back

    def _save(self) -> None:
        """Write a checkpoint and remove those that are no longer kept; only the first rank does."""
        self._saved, self._saved_at = self.state.step, time.perf_counter()
        if not self.ranks.is_first:
            return
        checkpoint.save(self.checkpoints, self.state, self.players.weights() | self._buffers(), self.players.state())
        checkpoint.prune(self.checkpoints, self.training.keep, self.state.best_step)

    def _load(self, folder: Path | None) -> None:
        """Set everything to what a checkpoint holds (the first rank reads it), or make all ranks like the first."""
        if folder is not None:
            saved = checkpoint.load(folder)
            self._refuse_another_run(folder, saved.state)
            self.state = saved.state
            self.players.load(saved.weights, saved.optimizer)
            for name, buffer in self._buffers().items():
                buffer.copy_(saved.weights[name])
        self.state = self.ranks.share(self.state)
        self.ranks.share_(*self.players.flat(), *self._buffers().values())
        self.players.refresh()
        self._saved = self.state.step

    def _go_back(self) -> None:
        """Return to the last checkpoint, and go on with the rows that come after those that failed."""
        failed, before = self.state, self.state.step
        if failed.returns >= guard.RETURNS:
            raise UserError(
                f"training failed again at step {before} after {failed.returns} returns to a checkpoint; lower "
                "training.learning_rate, lengthen training.warmup, or set training.precision=fp32, and start a new run"
            )
        self._load(checkpoint.latest(self.checkpoints) if self.ranks.is_first else None)
        self.state.shift += before - self.state.step
        self.state.returns, self.state.skipped = failed.returns + 1, failed.skipped
        if self.metrics is not None:
            self.metrics.rewind(self.state.step)
        self.say(
            f"{guard.PATIENCE} steps in a row failed; back to the checkpoint of step {self.state.step}, "
            "going on with other rows"
        )

    def _refuse_another_run(self, folder: Path, state: State) -> None:
        free = [f"training.{name}" for name in (*FREE, *ROUNDING)]
        if changed := checkpoint.differences(state.identity, self.identity, free):
            raise UserError(
                f"{folder} belongs to another recipe or other data: {'; '.join(changed)}. "
                "Set back what has changed, or start a new run (another name, or an empty folder)"
            )
        for name in (f"training.{name}" for name in ROUNDING):
            before, now = state.identity.get(name), self.identity.get(name)
            if before != now:
                self.say(f"{name} was {before} and is {now}: the run goes on, the same but for rounding")
        if state.world != self.ranks.size:
            self.say(f"{state.world} processes before, {self.ranks.size} now: the run goes on, with other dropout")

    def _buffers(self) -> dict[str, Tensor]:
        """What is no parameter but lasts: part of the state."""
        lasting = self.objective.state_dict().keys()
        return {name: buffer for name, buffer in self.objective.named_buffers() if name in lasting}

    # When

    def _validation_due(self) -> bool:
        every = self.training.validate_every or max(1, math.ceil(self.state.steps / self.state.validations))
        return self.state.step % every == 0 or self.state.step == self.state.steps

    def _tired(self) -> bool:
        """Whether nothing has become better for as long as the recipe has patience."""
        return self.training.patience is not None and self.state.worse >= self.training.patience

    def _save_due(self) -> bool:
        state = self.state
        if state.step == self._saved:
            return False
        if state.step == state.steps or state.best_step == state.step or self._tired():
            return True
        if self.training.save_every is not None:
            return state.step % self.training.save_every == 0
        return time.perf_counter() - self._saved_at > SAVE_SECONDS

    # Setting up

    def _set_up(self, stack: ExitStack) -> None:
        """Everything that lives as long as `fit`: precision, optimizer, blocks, batches."""
        training, device = self.training, self.ranks.device
        self.objective.to(device).train()
        self.players = Players(self.objective, training, choose_precision(training.precision, device))
        stack.enter_context(prepared_blocks(self.objective, training, device, self.say))
        workers = training.loader_workers
        self.feed = Feed(self.share, workers if workers is not None else 2 if device.type == "cuda" and FORKS else 0)
        stack.callback(self.feed.close)
        self._validation_batches = list(self._make_validation())
        self.metrics: Metrics | None = None
        stack.callback(lambda: self.metrics and self.metrics.close())
        self._speed: float | None = None
        self._shown = 0.0

    def _make_validation(self) -> Iterator[Any]:
        """This rank's batches of the fixed validation rows."""
        if self.validation_order is None:
            return
        order, micro = self.validation_order, self.share.micro
        rows = range(min(self.training.validation_rows, order.rows_per_epoch))[self.ranks.rank :: self.ranks.size]
        for at in range(0, len(rows), micro):
            yield self.objective.collate([order.row(number) for number in rows[at : at + micro]], self.training.length)

    def _start(self) -> None:
        """Go on from the newest checkpoint, or validate, save and decide how many steps there will be."""
        began = time.perf_counter()
        found = checkpoint.latest(self.checkpoints) if self.ranks.is_first else None
        self._load(found)
        self._origin = began - self.state.seconds
        if self.ranks.is_first:
            begun = self.state.step if self.state.steps else -1
            self.metrics = Metrics(self.folder, self.training.trackers, self.identity, begun)
        self._saved_at = time.perf_counter()
        self.state.world, self.state.identity = self.ranks.size, self.identity
        if self.state.steps:
            self.say(f"going on from step {self.state.step} of {self.state.steps}")
            return
        validating = time.perf_counter()
        self._validate()
        self._save()  # a disk that cannot be written is found out now, and the guard has a place to go back to
        self.budget.pause = time.perf_counter() - validating
        self.state.decide(self._decide_steps(began, self.budget.pause))

    def _decide_steps(self, began: float, pause: float) -> int:
        """The budget in steps. pause: the seconds that one validation and one checkpoint take."""
        training, order = self.training, self.order
        tokens_per_row = order.places_per_epoch / order.rows_per_epoch
        if training.steps is not None:
            return training.steps
        if training.tokens is not None:
            return max(1, round(training.tokens / (tokens_per_row * training.rows)))
        if training.minutes is None:
            return max(1, round((training.epochs or 1.0) * order.rows_per_epoch / training.rows))
        self.state.costs = self.ranks.share(self._measure_steps(began, MEASURED_SHARE * self.budget.seconds))
        step = mean_cost(self.objective.phases, self.state.costs)
        left = self.budget.seconds - (time.perf_counter() - began)
        affordable = VALIDATIONS if training.validate_every else max(1, int(VALIDATING_SHARE * left / pause))
        self.state.validations = self.ranks.share(min(VALIDATIONS, affordable))
        steps = self.ranks.share(self.budget.steps(left, self.state, step, pause))
        if self.state.validations < VALIDATIONS:
            self.say(
                f"a validation and a checkpoint take {pause:.3g} s: {self.state.validations} of them instead of {VALIDATIONS}, "
                f"so as not to take more than {VALIDATING_SHARE:.0%} of the time"
            )
        self.say(f"{training.minutes:g} minutes are {steps} steps of {step:.3g} s on this machine now")
        return steps

    def _decides_again(self) -> bool:
        """Decide anew how many steps a budget in minutes is, when it is time for that."""
        before, steps = self.state.steps, self.ranks.share(self.budget.again(self.state, time.perf_counter() - self._origin))
        if steps is None:
            return False
        self.say(f"after {self.state.step} steps: {steps} in all instead of {before}, by what they take now")
        self.state.decide(steps)
        return True

    def _measure_steps(self, began: float, share: float) -> list[float]:
        """The seconds that a step of each phase takes: the median of real steps, whose effect is undone. Their first warms up.
        All phases together take about `share` seconds after `began`."""
        kept = {name: tensor.clone() for name, tensor in self.players.weights().items()}
        moments = {name: tensor.clone() for name, tensor in self.players.state().items()}
        buffers = {name: tensor.clone() for name, tensor in self._buffers().items()}
        state, phases, costs = self.state, self.objective.phases, list[float]()
        for number, phase in enumerate(phases):
            self.state = replace(state, steps=1, recent_losses={}, recent_norms={})
            place = round(phase.begins * PLACES), PLACES
            self.objective.begin(*place)
            costs.append(self._measure_step(self.objective.moment(*place), began + share * (number + 1) / len(phases)))
        self.state = state
        self.players.load(kept, moments)
        for name, buffer in self._buffers().items():
            buffer.copy_(buffers[name])
        return costs

    def _measure_step(self, moment: Moment, until: float) -> float:
        seconds: list[float] = []
        go_on = True
        while go_on:
            start = time.perf_counter()
            self._turns(self.feed.take(len(seconds)), moment)
            seconds.append(time.perf_counter() - start)
            enough = len(seconds) > MEASURED_STEPS or (len(seconds) > 3 and time.perf_counter() > until)
            go_on = self.ranks.share(not enough)
        return median(seconds[1:])

    def _outcome(self, interrupted: bool) -> Outcome:
        state = self.state
        best = None if state.best_step is None else checkpoint.folder_of(self.checkpoints, state.best_step)
        return Outcome(
            step=state.step,
            steps=state.steps,
            tokens=state.tokens,
            seconds=state.seconds,
            losses=self.losses,
            validation=self.validation,
            best_loss=state.best_loss,
            best_step=state.best_step,
            best=best,
            last=checkpoint.folder_of(self.checkpoints, state.step),
            skipped=state.skipped,
            returns=state.returns,
            interrupted=interrupted,
        )


def rows_at_once(device: torch.device, length: int, rows: int) -> int:
    """Rows of a micro-batch where the recipe does not say: all on an accelerator; on a CPU so few that they stay in its cache.
    length: tokens that are read at once in a row, at least."""
    return rows if device.type != "cpu" else max(1, CACHED_TOKENS // length)


def _seed_of(seed: int, step: int, rank: int) -> int:
    """A number for the generator of a step on a rank, far from those of its neighbours."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest(), "big") >> 1


def _say_nothing(sentence: str) -> None:
    pass
