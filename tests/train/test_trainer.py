"""The trainer: exact under accumulation, exact after a resume, careful with what goes wrong."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_training import LENGTH, ToyRows, objective, trainer, training
from transformers import get_linear_schedule_with_warmup

from yanmo import checkpoint, guard
from yanmo import train as train_module
from yanmo.errors import UserError
from yanmo.files import lock_folder
from yanmo.metrics import check_trackers
from yanmo.players import Players
from yanmo.train import Trainer


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines(folder):
    """The whole lines of metrics.jsonl; a process that still writes may have begun another."""
    return [json.loads(text) for text in (Path(folder) / "metrics.jsonl").read_text().split("\n")[:-1]]


def weights(folder):
    newest = checkpoint.latest(Path(folder) / "checkpoints")
    return checkpoint.load(newest)


def assert_same(left, right):
    """Two checkpoints are the same, bit for bit, but for the seconds they took."""
    assert left.weights.keys() == right.weights.keys()
    assert left.optimizer.keys() == right.optimizer.keys()
    for name, tensor in (left.weights | left.optimizer).items():
        assert torch.equal(tensor, (right.weights | right.optimizer)[name]), name
    assert {**vars(left.state), "seconds": 0} == {**vars(right.state), "seconds": 0}


# What a step computes


def gradient(toy, micro_rows, folder):
    """The summed gradient of the first step, before anything moves."""
    made = trainer(folder, toy=toy, micro_rows=micro_rows)
    made.players = Players(toy, made.training, torch.float32)
    made._interrupt = train_module.guard.threading.Event()
    batches = made.share[0]
    return batches, made._gradients(batches), made.players["model"].weights.finish()


def test_accumulation_changes_nothing(tmp_path):
    """8x1, 4x2, 3+3+2 and 1x8 rows with uneven targets; the reference is torch's mean over all targets at once."""
    toy = objective(dropout=0.0)
    batches, found, whole = gradient(objective(dropout=0.0), None, tmp_path / "whole")
    losses = toy(batches[0])
    mean = losses["token"].total / losses["token"].count + 0.5 * losses["pair"].total / losses["pair"].count
    mean.backward()
    assert found.loss == pytest.approx(mean.item(), rel=1e-6)
    reference = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in toy.parameters() if p.grad is not None))
    assert float(whole.norm()) == pytest.approx(reference, rel=1e-6)
    for micro_rows in (1, 2, 3, 4):
        batches, cut, parts = gradient(objective(dropout=0.0), micro_rows, tmp_path / str(micro_rows))
        assert len(batches) == -(-8 // micro_rows)
        assert len({batch.counts["token"] for batch in batches}) > 1
        assert cut.loss == pytest.approx(found.loss, rel=1e-6)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_changes_no_training(tmp_path, optimizer):
    whole = trainer(tmp_path / "whole", dropout=0.0, optimizer=optimizer).fit()
    cut = trainer(tmp_path / "cut", dropout=0.0, optimizer=optimizer, micro_rows=2).fit()
    assert cut.losses["loss"] == pytest.approx(whole.losses["loss"], rel=1e-5)


def test_a_step_without_targets_moves_nothing_and_is_no_error(tmp_path):
    class Empty(ToyRows):
        def row(self, number, /):
            made = super().row(number)
            piece = made.pieces[0]
            return type(made)((type(piece)(0, piece.tokens, piece.sentences, piece.words),), made.rng, made.other)

    made = Trainer(objective(), Empty(), None, training(optimizer="adamw"), tmp_path, say=print)
    before = {name: parameter.clone() for name, parameter in made.objective.named_parameters()}
    outcome = made.fit()
    assert outcome.skipped == 0
    assert outcome.best is None
    for name, parameter in made.objective.named_parameters():
        assert torch.equal(parameter, before[name])


def test_rates_are_counted_in_steps_and_not_in_micro_batches(tmp_path):
    made = trainer(tmp_path, steps=10, micro_rows=1, warmup=0.2, schedule="linear")
    made.fit()
    theirs = get_linear_schedule_with_warmup(torch.optim.SGD([torch.zeros(1)], lr=1e-2), 2, 10).lr_lambdas[0]
    written = [line["learning_rate"] for line in lines(tmp_path) if "learning_rate" in line]
    assert written == pytest.approx([1e-2 * theirs(step + 0.5) for step in range(10)])


def test_a_batch_is_learned_by_heart(tmp_path):
    rows = ToyRows(per_epoch=8)
    made = Trainer(objective(dropout=0.0), rows, rows, training(steps=150, validate_every=150), tmp_path, say=print)
    outcome = made.fit()
    assert outcome.losses["token"] < 0.02
    assert outcome.losses["right"] == 1.0
    assert outcome.validation["loss"] == pytest.approx(outcome.losses["loss"], abs=0.01)


def test_recomputed_activations_change_nothing(tmp_path):
    plain = trainer(tmp_path / "plain").fit()
    twice = trainer(tmp_path / "twice", checkpoint_activations=True).fit()
    assert twice.losses == plain.losses
    assert_same_weights(tmp_path / "plain", tmp_path / "twice")


def assert_same_weights(left, right):
    for name, tensor in weights(left).weights.items():
        assert torch.equal(tensor, weights(right).weights[name]), name


def test_recomputing_really_happens_and_is_undone(tmp_path):
    toy = objective()
    calls = []
    toy.network.blocks[0].fall.register_forward_hook(lambda *_: calls.append(1))
    trainer(tmp_path, toy=toy, steps=1, validate_every=100, checkpoint_activations=True).fit()
    training_calls = len(calls) - 2  # one validation before and one after
    assert training_calls == 2
    assert "forward" not in toy.network.blocks[0].__dict__


@pytest.mark.filterwarnings("ignore")  # inductor uses what torch deprecates
def test_compiled_blocks_compute_the_same(tmp_path):
    plain = trainer(tmp_path / "plain", dropout=0.0, steps=2).fit()
    said = []
    toy = objective(dropout=0.0)
    fast = trainer(tmp_path / "fast", toy=toy, say=said.append, steps=2, compile=True).fit()
    assert fast.losses["loss"] == pytest.approx(plain.losses["loss"], rel=1e-4)
    assert all("not compiled" in sentence for sentence in said)
    assert toy.network.blocks[0]._compiled_call_impl is None


def test_without_a_compiler_training_goes_on_and_says_so(tmp_path, monkeypatch):
    def broken(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    said = []
    outcome = trainer(tmp_path, say=said.append, compile=True).fit()
    assert outcome.step == 6
    assert "No working C++ compiler" in said[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tmp_path, workers):
    trainer(tmp_path / "none").fit()
    trainer(tmp_path / "some", loader_workers=workers).fit()
    assert_same_weights(tmp_path / "none", tmp_path / "some")


# Budgets


def test_budgets(tmp_path):
    rows = ToyRows(per_epoch=40)
    assert rows.places_per_epoch == 40 * LENGTH
    for index, (budget, steps) in enumerate(
        [({"steps": 7}, 7), ({"tokens": 8 * LENGTH * 4}, 4), ({"epochs": 0.4}, 2), ({"epochs": 2}, 10), ({"steps": None}, 5)]
    ):
        outcome = trainer(tmp_path / str(index), validate_every=100, **budget).fit()
        assert (outcome.step, outcome.steps, outcome.tokens) == (steps, steps, steps * 8 * LENGTH)


def test_minutes_become_steps(tmp_path):
    said = []
    made = trainer(tmp_path, say=said.append, minutes=0.02, validate_every=50, schedule="constant-decay")
    outcome = made.fit()
    assert outcome.steps > 20
    assert outcome.step == outcome.steps
    plan = weights(tmp_path).state.plan
    assert said[0].startswith(f"0.02 minutes are {plan[-1][1]} steps of ")
    assert f": {outcome.steps} in all instead of " in said[-1]
    assert weights(tmp_path).state.steps == outcome.steps == plan[-1][0]


class FakeClock:
    """Seconds that go by: `cost(n)` for the n-th step, those that are measured included, and `pause` for a validation."""

    def __init__(self, cost, pause=1.0):
        self.now, self.steps, self.cost, self.pause = 1000.0, 0, cost, pause

    def perf_counter(self):
        return self.now

    def time(self, made):
        turns, validate = made._turns, made._validate

        def timed_turns(*given):
            self.now += self.cost(self.steps)
            self.steps += 1
            return turns(*given)

        def timed_validate():
            self.now += self.pause
            validate()

        made._turns, made._validate = timed_turns, timed_validate
        return made


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant-decay", "inverse-sqrt"])
@pytest.mark.parametrize("first", [3.0, 1 / 3])
def test_a_budget_is_kept_though_the_first_steps_take_longer_or_shorter(tmp_path, monkeypatch, first, schedule):
    """150 s; the steps that are measured and some after them are not like the others; ten validations of half a second."""
    clock = FakeClock(lambda step: first if step < 20 else 1.0, 0.5)
    monkeypatch.setattr(train_module, "time", clock)
    began, said = clock.now, []
    made = trainer(tmp_path, minutes=2.5, validate_every=None, schedule=schedule, say=said.append)
    outcome = clock.time(made).fit()
    assert clock.now - began == pytest.approx(150, rel=0.03)
    planned = made.state.plan[-1][1]
    assert [sentence.split()[0] for sentence in said] == ["2.5", "after", "after", "after"]
    assert abs(planned - outcome.steps) > 0.5 * outcome.steps, "the first steps were no measure"
    rates = [line["learning_rate"] for line in lines(tmp_path) if "norm" in line]
    assert len(rates) == outcome.steps
    peak, usual = max(rates), trainer(tmp_path / "usual", steps=outcome.steps, schedule=schedule)
    usual.players = Players(usual.objective, usual.training, torch.float32)
    expected = [usual.players.rate(usual.objective.moment(step, outcome.steps)) for step in range(outcome.steps)]
    steepest = max(abs(after - before) for before, after in itertools.pairwise(expected))
    assert max(abs(after - before) for before, after in itertools.pairwise(rates)) < 3.5 * steepest, "nowhere does the rate jump"
    assert rates.index(peak) < 0.3 * len(rates)
    assert rates[-1] == pytest.approx(expected[-1], abs=0.03 * peak), "and it ends where it would have"


def test_a_budget_that_goes_as_measured_keeps_its_schedule(tmp_path, monkeypatch):
    clock = FakeClock(lambda step: 1.0, 0.5)
    monkeypatch.setattr(train_module, "time", clock)
    made = clock.time(trainer(tmp_path, minutes=2, validate_every=None))
    outcome = made.fit()
    assert clock.now == pytest.approx(1120, abs=2)
    assert outcome.steps == pytest.approx(made.state.plan[-1][1], abs=2)


def test_what_was_decided_again_lasts(tmp_path, monkeypatch):
    """A run that is stopped one step after its second decision goes on as one that was not, even when only that is left."""
    clock = FakeClock(lambda step: 3.0 if step < 20 else 1.0)
    monkeypatch.setattr(train_module, "time", clock)
    clock.time(trainer(tmp_path / "whole", minutes=3, validate_every=None)).fit()
    whole = weights(tmp_path / "whole").state
    assert len(whole.plan) == 5
    clock.now, clock.steps = 1000.0, 0
    stopped = clock.time(trainer(tmp_path / "stopped", minutes=3, validate_every=None))
    begin = stopped.objective.begin
    stopped.objective.begin = lambda *at: (stopped.state.step == whole.plan[2][0] and stopped._interrupt.set(), begin(*at))
    assert stopped.fit().interrupted
    saved = weights(tmp_path / "stopped").state
    assert saved.plan[:3] == whole.plan[:3]
    assert saved.step == whole.plan[2][0] + 1
    checkpoint._remove([checkpoint.latest(tmp_path / "stopped" / "checkpoints")])
    assert weights(tmp_path / "stopped").state.plan == saved.plan, "a checkpoint was written where it was decided"
    clock.time(trainer(tmp_path / "stopped", minutes=3, validate_every=None)).fit()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_validations_take_a_fifth_of_the_minutes_at_most(tmp_path):
    said = []
    made = trainer(tmp_path, say=said.append, minutes=1, validate_every=None)
    made._measure_steps = lambda began, share: [0.1]
    began = time.perf_counter()
    steps = made._decide_steps(began, 0.01)
    assert (steps, made.state.validations) == (pytest.approx(599, abs=2), 10)
    assert len(said) == 1
    assert made._decide_steps(began, 5.0) == pytest.approx(500, abs=2)  # 60 s: two of 5 s, the rest in steps
    assert made.state.validations == 2
    assert "2 of them instead of 10" in said[1]
    assert made._decide_steps(began, 40.0) == pytest.approx(480, abs=2)
    assert made.state.validations == 1


def test_ten_validations_at_most(tmp_path):
    made = trainer(tmp_path, validate_every=None)
    for steps in (1, 9, 10, 11, 19, 99, 1001):
        made.state.steps = steps
        due = []
        for made.state.step in range(1, steps + 1):
            due += [made.state.step] * made._validation_due()
        assert due[-1] == steps
        assert min(steps, 5) <= len(due) <= 10


def test_measuring_is_undone(tmp_path):
    made = trainer(tmp_path, minutes=1, validate_every=None)
    start = {name: parameter.detach().clone() for name, parameter in made.objective.named_parameters()}
    with train_module.ExitStack() as stack:
        made._interrupt = stack.enter_context(guard.interrupts())
        made._set_up(stack)
        made._start()
        assert made.state.steps > 100
        for name, tensor in made.players.weights().items():
            assert torch.equal(tensor, start[name])
        assert all(not tensor.any() for tensor in made.players.state().values())


# Resuming


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_three_steps_and_three_are_six(tmp_path, precision, optimizer, monkeypatch):
    changes = {"precision": precision, "optimizer": optimizer, "save_every": 1, "micro_rows": 3}
    trainer(tmp_path / "six", **changes).fit()
    stopping = trainer(tmp_path / "three", **changes)
    stop_after(stopping, 3)
    assert stopping.fit().interrupted
    assert weights(tmp_path / "three").state.step == 3
    said = []
    outcome = trainer(tmp_path / "three", say=said.append, **changes).fit()
    assert said == ["going on from step 3 of 6"]
    assert outcome.step == 6
    assert_same(weights(tmp_path / "six"), weights(tmp_path / "three"))
    timeless = [[{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in lines(tmp_path / run)]
                for run in ("six", "three")]
    assert timeless[0] == timeless[1]


def stop_after(made, steps):
    """Send this process what Ctrl-C sends, in the middle of a step."""
    inner, count = made._gradients, itertools.count(1)

    def gradients(batches, player):
        if next(count) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(batches, player)

    made._gradients = gradients


@pytest.fixture
def heard():
    """Ctrl-C does what it does at a terminal; what is started in the background is often told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, heard):
    said = []
    made = trainer(tmp_path, say=said.append, validate_every=100)
    stop_after(made, 2)
    outcome = made.fit()
    assert (outcome.interrupted, outcome.step, outcome.last.name) == (True, 2, "step-00000002")
    assert "same command goes on" in said[-1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_stops_at_once(tmp_path, heard):
    made = trainer(tmp_path)

    def gradients(batches, player):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    made._gradients = gradients
    with pytest.raises(KeyboardInterrupt):
        made.fit()


def test_a_finished_run_is_not_run_again(tmp_path):
    first = trainer(tmp_path).fit()
    before = weights(tmp_path)
    again = trainer(tmp_path).fit()
    assert again.step == first.step
    assert again.best == first.best
    assert_same(before, weights(tmp_path))


def test_a_changed_recipe_is_refused_and_what_changed_is_said(tmp_path):
    trainer(tmp_path).fit()
    with pytest.raises(UserError, match=r"training\.rows was 8 and is 4; training\.weight_decay was 0\.1 and is 0\.2"):
        trainer(tmp_path, rows=4, weight_decay=0.2).fit()
    with pytest.raises(UserError, match=r"training\.steps was 6 and is 12"):
        trainer(tmp_path, steps=12).fit()
    changed = Trainer(objective(), ToyRows(), ToyRows(), training(), tmp_path, 3, identity={"shards": {"hash": "ab"}})
    with pytest.raises(UserError, match=r"shards\.hash was None and is 'ab'"):
        changed.fit()


def test_what_changes_no_weight_may_change(tmp_path):
    made = trainer(tmp_path)
    stop_after(made, 3)
    made.fit()
    said = []
    outcome = trainer(tmp_path, say=said.append, keep=5, save_every=1, validate_every=2, loader_workers=1, micro_rows=4).fit()
    assert outcome.step == 6
    assert "training.micro_rows was None and is 4: the run goes on, the same but for rounding" in said
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-3:] == [f"step-0000000{i}" for i in (4, 5, 6)]


def kill_and_resume(folder, moments, **changes):
    """Kill a training process some milliseconds after it has written so many lines, each time, then let it finish."""
    arguments = [sys.executable, str(Path(__file__).parent / "toy_training.py"), str(folder)]
    arguments += [f"{key}={value}" for key, value in changes.items()]
    for wanted, milliseconds in moments:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not (folder / "metrics.jsonl").exists() or len(lines(folder)) < wanted):
            time.sleep(0.001)
        time.sleep(milliseconds / 1000)
        assert process.poll() is None, "it was to be killed and has ended"
        process.kill()
        process.wait()
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.splitlines()[-1].startswith("finished")


def killed_run_is_the_same(tmp_path, steps, moments, precision):
    changes = {"steps": steps, "save_every": 2, "validate_every": 17, "precision": precision, "micro_rows": 4}
    trainer(tmp_path / "whole", **changes).fit()
    kill_and_resume(tmp_path / "killed", moments, **changes)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    written = [line["step"] for line in lines(tmp_path / "killed") if "norm" in line]
    assert written == list(range(1, steps + 1))


def test_a_killed_process_goes_on_as_if_it_had_not_been(tmp_path):
    killed_run_is_the_same(tmp_path, 40, [(9, 3), (24, 11)], "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_process_killed_at_many_moments_goes_on(tmp_path, precision):
    generator = torch.Generator().manual_seed(0)
    delays = (40 * torch.rand(12, generator=generator)).tolist()
    moments = [(25 * number, delay) for number, delay in enumerate(delays)]
    killed_run_is_the_same(tmp_path, 500, moments, precision)


# The guard


def test_a_step_that_is_no_number_is_skipped_and_counted(tmp_path):
    toy, said = objective(), []
    toy.spoilt = {20}  # a row of the third step
    outcome = trainer(tmp_path, toy=toy, say=said.append, save_every=1, keep=10).fit()
    assert (outcome.skipped, outcome.returns, outcome.step) == (1, 0, 6)
    assert said == ["step 2 is skipped: the loss is nan"]
    two, three = (checkpoint.load(tmp_path / "checkpoints" / f"step-0000000{i}") for i in (2, 3))
    for name, tensor in two.weights.items():
        assert torch.equal(tensor, three.weights[name]) or name == "network.calls"
    assert [line.get("skipped") for line in lines(tmp_path) if "norm" in line][2] == "the loss is nan"
    assert math.isfinite(outcome.losses["loss"])


def test_a_spike_is_skipped(tmp_path):
    toy, said = objective(), []
    toy.loud = {8 * 20}
    outcome = trainer(tmp_path, toy=toy, say=said.append, steps=22, validate_every=30).fit()
    assert outcome.skipped == 1
    assert said[0].startswith("step 20 is skipped: the ")


def test_where_steps_are_not_alike_only_what_is_no_number_is_skipped(tmp_path):
    toy, said = objective(), []
    toy.steady, toy.loud, toy.spoilt = False, {8 * 20}, {8 * 21}
    outcome = trainer(tmp_path, toy=toy, say=said.append, steps=22, validate_every=30).fit()
    assert (outcome.skipped, said) == (1, ["step 21 is skipped: the loss is nan"])


def test_what_is_a_spike():
    losses, norms = [3.0] * 16, [1.0] * 16
    assert guard.refusal(3.1, 1.2, losses, norms) is None
    assert guard.refusal(5.4, 9.9, losses, norms) is None
    assert "usual is 3" in str(guard.refusal(5.6, 1.0, losses, norms))
    assert "usual is 1" in str(guard.refusal(3.0, 10.1, losses, norms))
    assert guard.refusal(99.0, 99.0, losses[:15], norms[:15]) is None
    for bad in (float("nan"), float("inf")):
        assert guard.refusal(bad, 1.0, [], []) == f"the loss is {bad}"
        assert guard.refusal(1.0, bad, [], []) == f"the norm of the gradient is {bad}"


def test_norms_that_stay_high_while_the_loss_is_usual_are_the_new_usual():
    losses, norms = [3.0] * 16, [1.0] * 16
    verdicts = []
    for _ in range(6):
        refused = sum(1 for verdict in verdicts if verdict)
        verdicts.append(guard.refusal(2.9, 15.0, losses, norms, refused))
        if verdicts[-1] is None:
            guard.remember(15.0, norms)
    assert [verdict is None for verdict in verdicts] == [False, False, True, True, True, True]
    assert norms == [15.0] * 4
    assert guard.refusal(6.0, 15.0, losses, norms, refused=2) is not None  # but not when the loss has left too


def test_after_repeated_failure_it_goes_back_and_takes_other_rows(tmp_path):
    toy, said = objective(), []
    toy.spoilt = set(range(8 * 4, 8 * 9))  # steps 4 to 8
    outcome = trainer(tmp_path, toy=toy, say=said.append, steps=12, save_every=3, validate_every=100).fit()
    assert (outcome.returns, outcome.skipped, outcome.step) == (1, 5, 12)
    # steps 4 to 8 failed; the checkpoint of step 6 was saved meanwhile, with the weights of step 4
    assert any("5 steps in a row failed; back to the checkpoint of step 6" in sentence for sentence in said)
    steps = [line["step"] for line in lines(tmp_path) if "norm" in line]
    assert steps == sorted(set(steps)) == list(range(1, 13))
    assert weights(tmp_path).state.shift == 3


def test_after_many_returns_it_stops(tmp_path):
    toy = objective()
    toy.spoilt = set(range(8, 10_000))
    with pytest.raises(UserError, match=r"after 3 returns to a checkpoint; lower training\.learning_rate"):
        trainer(tmp_path, toy=toy, steps=50).fit()


# The folder


def test_metrics_tell_what_the_run_did(tmp_path):
    outcome = trainer(tmp_path, validate_every=3).fit()
    written = lines(tmp_path)
    validated = [line for line in written if "validation" in line]
    assert [line["step"] for line in validated] == [0, 3, 6]
    assert validated[-1]["validation"] == outcome.validation
    step = [line for line in written if "norm" in line][-1]
    assert step["step"] == 6
    assert step["tokens"] == 6 * 8 * LENGTH
    assert {"loss", "token", "pair", "right", "norm", "learning_rate", "tokens_per_second", "seconds"} <= step.keys()
    assert step["loss"] == pytest.approx(step["token"] + 0.5 * step["pair"])
    assert outcome.best_loss == min(line["validation"]["loss"] for line in validated)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_tensorboard_holds_the_same_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("loss")}
    assert shown == pytest.approx({line["step"]: line["loss"] for line in lines(tmp_path) if "norm" in line}, rel=1e-6)
    assert [event.step for event in events.Scalars("validation/loss")] == [0, 3, 6]


def test_validation_is_the_same_each_time_and_leaves_no_trace(tmp_path):
    often = trainer(tmp_path / "often", validate_every=1).fit()
    seldom = trainer(tmp_path / "seldom", validate_every=6).fit()
    assert often.validation == seldom.validation
    assert_same_weights(tmp_path / "often", tmp_path / "seldom")


def test_progress_is_shown(tmp_path):
    shown = []
    made = trainer(tmp_path)
    made.progress = lambda done, total, unit, **figures: shown.append((done, total, unit, figures))
    made.fit()
    assert shown[-1][:3] == (6, 6, "steps")
    assert shown[-1][3].keys() == {"loss", "tokens_per_second", "left"}


def test_a_second_process_on_the_same_folder_is_refused(tmp_path):
    with lock_folder(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        trainer(tmp_path).fit()


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb is not installed; run `pip install wandb`"):
        trainer(tmp_path, trackers=("wandb",))


def test_a_tracker_is_given_the_figures(tmp_path, monkeypatch):
    class Stand:
        """What wandb, mlflow and trackio share: functions that take whatever comes."""

        def __init__(self):
            self.logged = []

        def init(self, **given):
            assert given["resume"] == "allow"
            return self

        def log(self, figures, step):
            self.logged.append((step, figures))

        def set_experiment(self, name):
            pass

        def search_runs(self, **given):
            return []

        def start_run(self, run_name, tags):
            pass

        def log_params(self, given):
            assert given["training.rows"] == "8"

        def log_metrics(self, figures, step):
            self.logged.append((step, figures))

        def finish(self):
            self.logged.append("end")

        end_run = finish

    for name in ("wandb", "mlflow", "trackio"):
        stand = Stand()
        stand.__spec__ = True
        monkeypatch.setitem(sys.modules, name, stand)
        check_trackers([name])
        trainer(tmp_path / name, trackers=(name,)).fit()
        assert stand.logged[-1] == "end"
        assert [step for step, figures in stand.logged[:-1] if "norm" in figures] == [1, 2, 3, 4, 5, 6]
        assert "validation/loss" in stand.logged[0][1]


def test_a_corpus_smaller_than_a_step_repeats(tmp_path):
    outcome = Trainer(objective(), ToyRows(per_epoch=3), ToyRows(per_epoch=1), training(), tmp_path, say=print).fit()
    assert outcome.step == 6
