"""A pretrained model adapted to tasks by every method, and its folders used again by us and by transformers."""

import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml

import yanmo
from yanmo import cli, models
from yanmo.blank import make_blank
from yanmo.errors import Interrupted, UserError
from yanmo.finetune import RATES, Trial, identity, rate_of
from yanmo.labelled.data import read_data
from yanmo.labelled.examples import Tagged
from yanmo.recipe import Model, parse_task
from yanmo.tasks import TASKS
from yanmo.tasks.judged import MOST
from yanmo.tokenizer import load_tokenizer, save_tokenizer
from yanmo.trials import Trials, carry_out

GOOD, BAD = ["很好，下次还会来", "房间干净，服务好", "好书，推荐"], ["太差了，退货", "房间很脏，服务差", "不好看，浪费钱"]
SMALL = {"epochs": 4, "batch": 8, "precision": "fp32", "length": 64}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A file of labelled texts that one sign tells apart, and one of tagged ones."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = [
        {"text": f"{rng.choice(GOOD if good else BAD)}{number}", "label": "good" if good else "bad"}
        for number, good in enumerate(rng.integers(0, 2, 60).tolist())
    ]
    tags = ["B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
    tagged = [{"tokens": list(f"王小{sign}在上海。"), "tags": tags} for sign in "明红军华兰芳英杰涛超"]
    for name, lines in (("reviews", rows), ("names", tagged)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in lines), encoding="utf-8")
    return folder


def section_of(data, kind="classification", training=SMALL, **more):
    file = str(data / ("names.jsonl" if kind == "labelling" else "reviews.jsonl"))
    return parse_task({"kind": kind, "train": file, "test": file, "training": training, "lint": False, **more})


@pytest.fixture(scope="module")
def trials(finished, reviews, tmp_path_factory):
    """All methods with one seed, on the session's own pretrained model."""
    methods = ["scratch", "frozen", "adapter", "lora", "full"]
    found = Trials(section_of(reviews, methods=methods), finished[0] / "pretrain" / "model", tmp_path_factory.mktemp("trials"))
    return found, carry_out(found)


def test_every_method_is_measured_and_moves_what_it_says(trials):
    found = {one["method"]: one for one in trials[1]["trials"]}
    assert list(found) == ["scratch", "frozen", "adapter", "lora", "full"]
    learned = {method: one["learned"] for method, one in found.items()}
    assert learned["frozen"] < learned["lora"] < learned["full"] == learned["scratch"]
    assert learned["adapter"] < learned["full"] / 4
    assert all(set(one["test"]) >= {"accuracy", "macro_f1", "calibration_error"} for one in found.values())
    table = (trials[0].folder / "results.md").read_text(encoding="utf-8")
    assert all(f"| {method} |" in table for method in found)


def test_beside_a_network_a_label_of_a_whole_text_is_learned_slower_than_tags():
    assert rate_of(TASKS["classification"], "full") == rate_of(TASKS["labelling"], "full")
    for method in ("adapter", "lora"):
        assert rate_of(TASKS["classification"], method) < rate_of(TASKS["labelling"], method)


def test_a_trial_is_another_one_where_a_default_is_another(finished, reviews, monkeypatch):
    base, section = finished[0] / "pretrain" / "model", section_of(reviews, "labelling")
    ways = ("full", "adapter", "lora")

    def known() -> list[str]:
        return [identity(Trial(section, base, method, 0), {}) for method in ways]

    before = known()
    monkeypatch.setattr("yanmo.finetune.WIDTH", 64)
    assert [one == other for one, other in zip(before, known(), strict=True)] == [True, False, True]
    monkeypatch.setitem(RATES, "full", 1e-4)
    assert [one == other for one, other in zip(before, known(), strict=True)] == [False, False, True]


def test_what_came_out_wrong_is_kept(trials, reviews):
    for found in trials[1]["trials"]:
        folder = trials[0].folder / f"{found['method']}-seed0"
        errors = [json.loads(line) for line in (folder / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = (reviews / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
        assert found["judged"] == len(rows) == 60
        assert found["wrong"] == round(60 * (1 - found["test"]["accuracy"]))
        assert len(errors) == min(found["wrong"], MOST)
        for error in errors:
            row = json.loads(rows[int(error["origin"].rpartition(":")[2]) - 1])
            assert (error["given"], error["gold"]) == (row["text"], row["label"]) != (row["text"], error["predicted"])
        confusion = json.loads((folder / "confusion.json").read_text(encoding="utf-8"))
        counts = np.array(confusion["counts"])
        assert confusion["labels"] == ["bad", "good"]
        assert counts.trace() == 60 - found["wrong"]
        assert counts.sum(1).tolist() == [sum(json.loads(row)["label"] == label for row in rows) for label in ("bad", "good")]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    ("method", "library"),
    [("scratch", "transformers"), ("full", "transformers"), ("lora", "peft"), ("adapter", "yanmo")],
)
def test_the_card_says_what_lies_there_and_how_to_load_it(trials, reviews, method, library, monkeypatch):
    folder = trials[0].folder / f"{method}-seed0" / "model"
    card = (folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": library, "pipeline_tag": "text-classification", "tags": ["yanmo", "bert", "classification"]}
    (found,) = [one for one in trials[1]["trials"] if one["method"] == method]
    assert f"| accuracy | {100 * found['test']['accuracy']:.2f} |" in card
    assert "Labels: `bad`, `good`." in card
    assert "- `reviews.jsonl`" in card
    assert str(reviews) not in card, "no paths of this machine"
    assert ("bert-zh/pretrain/model" in card) == (method != "scratch")
    monkeypatch.chdir(folder)
    base = str(trials[0].base)
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        made = {}
        exec(block.replace("bert-zh/pretrain/model", base), made)
        assert "yanmo" in block or made["model"].config.num_labels == 2


def test_what_is_finished_is_not_done_again(trials, reviews):
    before = (trials[0].folder / "full-seed0" / "result.json").stat().st_mtime_ns
    assert carry_out(trials[0])["table"] == trials[1]["table"]
    assert (trials[0].folder / "full-seed0" / "result.json").stat().st_mtime_ns == before
    other = Trials(section_of(reviews, class_weights="balanced"), trials[0].base, trials[0].folder)
    with pytest.raises(UserError, match="holds a trial of another task"):
        carry_out(other)


@pytest.mark.parametrize("method", ["full", "frozen", "adapter", "lora"])
def test_a_folder_predicts_what_was_measured(trials, reviews, method):
    model = yanmo.load(trials[0].folder / f"{method}-seed0" / "model")
    (found,) = [one for one in trials[1]["trials"] if one["method"] == method]
    rows = [json.loads(line) for line in (reviews / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    right = [one.label == row["label"] for one, row in zip(model.predict([row["text"] for row in rows]), rows, strict=True)]
    assert np.mean(right) == pytest.approx(found["test"]["accuracy"])


def test_transformers_reads_the_folder(trials):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = trials[0].folder / "model"
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    texts = GOOD + BAD
    with torch.no_grad():
        chances = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    ours = yanmo.load(folder).predict(texts)
    assert [list(one.probabilities.values()) for one in ours] == [pytest.approx(row, abs=1e-5) for row in chances.tolist()]


def test_a_network_and_its_tokenizer_come_apart_as_before(trials):
    network, tokenizer = yanmo.load(trials[0].folder / "model")
    assert network.config.tokens == tokenizer.size


def test_an_adapter_is_refused_on_another_base(trials, finished, tmp_path):
    from safetensors.torch import load_file, save_file

    from yanmo.tasks.folder import load_task

    base = tmp_path / "base"
    shutil.copytree(trials[0].base, base)
    weights = load_file(base / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1e-3}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="another base"):
        load_task(trials[0].folder / "lora-seed0" / "model", base)


def test_names_are_learned_with_the_transitions_between_tags(finished, reviews, tmp_path):
    section = section_of(reviews, "labelling", {**SMALL, "learning_rate": 3e-3}, decoder="crf", adaptation={"method": "lora"})
    found = Trials(section, finished[0] / "pretrain" / "model", tmp_path / "names")
    before = carry_out(found)
    model = yanmo.load(found.folder / "model")
    assert model.task.crf.transitions.abs().sum() > 0
    again = model.task.appraise([Tagged(tokens=tuple("王小明在上海。"), tags=("O",) * 7)])
    assert set(again) >= {"f1", "precision"}
    assert before["trials"][0]["metric"] == "f1"


def test_lines_of_text_and_of_json_are_predicted_in_their_order(trials):
    from yanmo.predict import predicted_lines

    model = yanmo.load(trials[0].folder / "model")
    lines = ["\ufeff很好，下次还会来\n", "\n", '{"text": "太差了，退货", "label": "unheard of"}\n', "  房间很脏\n"]
    found = [json.loads(line) for line in predicted_lines(model, io.StringIO("".join(lines)))]
    asked = ["很好，下次还会来", "太差了，退货", "  房间很脏"]
    assert [one["label"] for one in found] == [one.label for one in model.predict(asked)]
    said = predicted_lines(model, [*lines, "{不是 JSON\n", "很好\n"])
    assert [json.loads(next(said)) for _ in found] == found, "what stands before a bad line is not lost"
    with pytest.raises(UserError, match=r"line 5: begins as a JSON object and is none \(Expecting property name"):
        next(said)
    with pytest.raises(UserError, match="nested too deeply"):
        list(predicted_lines(model, ['{"text": ' + "[" * 100_000]))
    with pytest.raises(UserError, match="a list of inputs"):
        model.predict("很好")
    with pytest.raises(UserError, match=r"line 1"):
        list(predicted_lines(model, ['{"words": "x"}']))


def test_a_pretrained_model_has_no_task(finished):
    with pytest.raises(UserError, match="has no task yet"):
        yanmo.load(finished[0] / "pretrain" / "model").predict(["x"])


def test_settings_are_tuned_by_halving(finished, reviews, tmp_path):
    section = section_of(reviews, training={**SMALL, "epochs": 2}, tune={"learning_rate": [1e-5, 1e-3, 3e-3]})
    found = Trials(section, finished[0] / "pretrain" / "model", tmp_path / "tuned")
    results = carry_out(found)
    rounds = sorted(path.name for path in (found.folder / "tune").iterdir())
    assert [sum(f"round{number}" in name for name in rounds) for number in range(2)] == [3, 2]
    steps = {name: json.loads((found.folder / "tune" / name / "result.json").read_text())["steps"] for name in rounds}
    short = [count for name, count in steps.items() if "round0" in name]
    assert all(count * 2 == pytest.approx(results["trials"][0]["steps"], abs=1) for count in short)


def test_a_round_of_tuning_has_its_share_of_the_usual_budget():
    training = parse_task({"kind": "classification", "train": "x"}).training
    whole = training.resolved(8, 64, 1e-3, 80, "full")
    assert training.resolved(8, 64, 1e-3, 80, "full", share=0.25).epochs == whole.epochs / 4
    assert training.model_copy(update={"steps": 10}).resolved(8, 64, 1e-3, 80, "full", share=0.25).steps == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune": {"learning_rate": [-1.0]}}, "tune.learning_rate.0: .* greater than 0"),
        ({"tune": {"learning_rate": []}}, "tune.learning_rate: "),
        ({"tune": {"batch": [8, 16.5]}}, "a whole number of examples"),
        ({"tune": {"epochs": [1, 2]}, "training": {"steps": 9}}, "tune.epochs: training.steps is the budget already"),
        ({"tune": {"batch": [8, 16]}, "training": {"rows": 4}}, "tune.batch: training.rows says already"),
        ({"tune": {"learning_rate": [1e-3, 1e-3]}}, "tune.learning_rate: 0.001 is named twice"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 is named twice"),
        ({"methods": ["full", "full"]}, "methods: full is named twice"),
    ],
)
def test_what_would_be_tried_twice_or_not_at_all_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        parse_task({"kind": "classification", "train": "x", **given})


def test_a_method_without_a_place_is_refused_before_anything_is_trained(finished, reviews, tmp_path):
    tokens = load_tokenizer(finished[0] / "pretrain" / "model")
    lstm = models.build(
        Model(family="lstm", size="tiny"), vocabulary=tokens.size, length=64, special=models.Special(pad=tokens.pad)
    )
    models.save(lstm, tmp_path / "base")
    save_tokenizer(tokens, tmp_path / "base", 64)
    found = Trials(section_of(reviews, methods=["full", "lora"]), tmp_path / "base", tmp_path / "out")
    with pytest.raises(UserError, match="a lstm has no such layers"):
        carry_out(found)
    assert not found.folder.exists()


def test_a_test_set_that_is_named_later_is_measured(finished, reviews, tmp_path):
    section, base = section_of(reviews), finished[0] / "pretrain" / "model"
    one = identity(Trial(section.model_copy(update={"test": ()}), base, "full", 0), {})
    other = identity(Trial(section.model_copy(update={"test": ("sample:names/test",)}), base, "full", 0), {})
    assert one != other


def test_a_run_that_was_moved_finds_the_base_of_its_adapters(trials, finished, tmp_path):
    moved = tmp_path / "elsewhere"
    for part in ("pretrain", "tasks"):
        shutil.copytree({"pretrain": finished[0] / "pretrain", "tasks": trials[0].folder}[part], moved / part)
    told = json.loads((moved / "tasks" / "lora-seed0" / "model" / "adapter.json").read_text(encoding="utf-8"))
    told["base"]["folder"] = "/nowhere/any more/run/pretrain/model"
    (moved / "tasks" / "lora-seed0" / "model" / "adapter.json").write_text(json.dumps(told), encoding="utf-8")
    before = yanmo.load(trials[0].folder / "lora-seed0" / "model").predict(GOOD)
    assert yanmo.load(moved / "tasks" / "lora-seed0" / "model").predict(GOOD) == before
    shutil.rmtree(moved / "pretrain")
    with pytest.raises(UserError, match=r"its base /nowhere/any more/run/pretrain/model is not there.*load\(folder, base="):
        yanmo.load(moved / "tasks" / "lora-seed0" / "model")
    again = yanmo.load(moved / "tasks" / "lora-seed0" / "model", base=trials[0].base)
    assert again.predict(GOOD) == before


def test_the_model_to_adapt_is_never_replaced(finished, reviews, tmp_path, monkeypatch):
    base = finished[0] / "pretrain" / "model"
    before = (base / "model.safetensors").read_bytes()
    words = ["finetune", str(base), "--task", "classification", "--train", str(reviews / "reviews.jsonl")]
    monkeypatch.setattr(sys, "argv", ["yanmo", *words, "--out", str(tmp_path / "out"), "model={family: bert, size: tiny}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    blank = parse_task({"kind": "classification", "train": "x", "model": {"family": "bert", "size": "tiny"}})
    with pytest.raises(UserError, match="is there already, and nothing that was made for this"):
        make_blank(blank, read_data(section_of(reviews)).train, base)
    assert (base / "model.safetensors").read_bytes() == before


def test_results_do_not_go_over_the_model_that_they_are_from(finished, reviews, tmp_path):
    shutil.copytree(finished[0] / "pretrain", tmp_path / "pretrain")
    base = tmp_path / "pretrain" / "model"
    before = (base / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="is there already, and no task has made it"):
        carry_out(Trials(section_of(reviews), base, base.parent))
    assert (base / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match=r"nowhere: no such folder\. Models found: "):
        carry_out(Trials(section_of(reviews), tmp_path / "nowhere", tmp_path / "out"))


def test_a_metric_that_there_is_not_is_named_before_the_first_step(finished, reviews, tmp_path):
    found = Trials(section_of(reviews, metric="accurracy"), finished[0] / "pretrain" / "model", tmp_path / "out")
    with pytest.raises(UserError, match="metric 'accurracy': classification finds accuracy"):
        carry_out(found)
    lines = (tmp_path / "out" / "full-seed0" / "metrics.jsonl").read_text(encoding="utf-8") if found.folder.exists() else ""
    assert '"step": 1' not in lines


def test_a_stop_of_finetune_says_how_it_goes_on(finished, reviews, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise Interrupted

    monkeypatch.setattr("yanmo.trials.carry_out", stop)
    words = ["finetune", str(finished[0] / "pretrain" / "model"), "--task", "classification", "--train", "x.jsonl"]
    monkeypatch.setattr(sys, "argv", ["yanmo", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "To go on: yanmo finetune" in "".join(capsys.readouterr())


def test_trials_side_by_side_find_what_they_find_one_after_another(finished, reviews, tmp_path):
    short = {**SMALL, "epochs": 1}
    base = finished[0] / "pretrain" / "model"
    both = section_of(reviews, training=short, seeds=[0, 1], parallel=2)
    together = carry_out(Trials(both, base, tmp_path / "two"))["trials"]
    after = carry_out(Trials(section_of(reviews, training=short, seeds=[0, 1]), base, tmp_path / "one"))["trials"]
    assert [one["seed"] for one in together] == [0, 1]
    for one, other in zip(together, after, strict=True):
        assert one["test"] == pytest.approx(other["test"], abs=1e-6)
    assert together[0]["test"] != together[1]["test"] or together[0]["valid"] != together[1]["valid"]
    before = (tmp_path / "two" / "full-seed0" / "metrics.jsonl").stat().st_mtime_ns
    carry_out(Trials(section_of(reviews, training=short, seeds=[0, 1, 2]), base, tmp_path / "two"))
    assert (tmp_path / "two" / "full-seed0" / "metrics.jsonl").stat().st_mtime_ns == before, "how many at once is no new trial"


def test_a_stop_keeps_everything(finished, reviews, tmp_path, monkeypatch):
    import signal

    from yanmo.tasks import Task

    section, base = section_of(reviews), finished[0] / "pretrain" / "model"
    whole = carry_out(Trials(section, base, tmp_path / "whole"))
    check, calls = Task.check, []

    def stopped(task, examples):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return check(task, examples)

    monkeypatch.setattr(Task, "check", stopped)
    with pytest.raises(Interrupted):
        carry_out(Trials(section, base, tmp_path / "stopped"))
    again = carry_out(Trials(section, base, tmp_path / "stopped"))
    assert again["trials"][0]["test"] == whole["trials"][0]["test"]


def test_a_run_goes_on_to_its_tasks(reviews, tmp_path, monkeypatch):
    from short_runs import ROOT, short_recipe

    from yanmo.run import carry_out as run_all

    task = {"kind": "classification", "train": str(reviews / "reviews.jsonl"), "training": {**SMALL, "epochs": 1}, "lint": False}
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", tmp_path, f"tasks={json.dumps({'sentiment': task})}")
    run = run_all(recipe)
    assert yanmo.load(run.folder / "tasks" / "sentiment" / "model").predict(["很好"])[0].label in ("good", "bad")
    assert "sentiment" in (run.folder / "report.html").read_text(encoding="utf-8")
    before = (run.folder / "tasks" / "sentiment" / "full-seed0" / "result.json").stat().st_mtime_ns
    from yanmo import trials

    with monkeypatch.context() as patch:                   # nothing is read again of what is finished
        patch.delattr(trials, "read_data")
        run_all(recipe)
    assert (run.folder / "tasks" / "sentiment" / "full-seed0" / "result.json").stat().st_mtime_ns == before


def test_bad_examples_are_found_before_any_text_is_read(reviews, tmp_path):
    from short_runs import ROOT, short_recipe

    from yanmo.run import carry_out as run_all

    task = {"kind": "classification", "train": str(reviews / "names.jsonl")}
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", tmp_path, f"tasks={json.dumps({'sentiment': task})}")
    with pytest.raises(UserError, match=r"^tasks\.sentiment: .*names\.jsonl:1: no field 'text'"):
        run_all(recipe)
    assert not any(tmp_path.rglob("corpus"))


def test_nothing_is_trained_on_examples_of_which_lint_says_do_not(finished, reviews, tmp_path):
    with pytest.raises(UserError, match=r"overlap: .* of the different inputs of test are in train.*yanmo lint"):
        carry_out(Trials(section_of(reviews, lint=True), finished[0] / "pretrain" / "model", tmp_path / "looked"))
    assert not (tmp_path / "looked").exists()


def test_verify_looks_at_tasks_and_adapters(trials):
    from yanmo.verify import verify

    looked, broken = verify(trials[0].folder)
    assert not broken
    assert sum(line.startswith("task ") for line in looked) == 6
