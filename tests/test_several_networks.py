"""Runs in which more than one network takes part: a discriminator with its generator, a student with its teacher."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from short_runs import ROOT, short_recipe

import yanmo
from yanmo.errors import UserError
from yanmo.evaluation import evaluate
from yanmo.pretrain import check_early
from yanmo.recipe import Recipe, parse_recipe
from yanmo.run import carry_out
from yanmo.summary import summary


@pytest.fixture(scope="module")
def electra(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    recipe = short_recipe(ROOT / "recipes" / "electra-en.yaml", tmp_path_factory.mktemp("electra"))
    return carry_out(recipe).folder, recipe


def last_validation(folder: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    return [line["validation"] for line in lines if "validation" in line][-1]


def test_the_generator_lies_beside_the_discriminator_and_fills_gaps(electra: tuple[Path, Recipe]) -> None:
    transformers = pytest.importorskip("transformers")
    model = electra[0] / "pretrain" / "model"
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(model / "generator").eval()
    assert type(theirs) is transformers.ElectraForMaskedLM
    judge = transformers.AutoModelForPreTraining.from_pretrained(model)
    assert torch.equal(theirs.electra.embeddings.word_embeddings.weight, judge.electra.embeddings.word_embeddings.weight)
    generator, tokens = yanmo.load(model / "generator")
    filled = yanmo.fill(generator, tokens, "The [MASK] statement.", k=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model / "generator")
    ids = tokenizer("The [MASK] statement.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chances = theirs(input_ids=ids).logits[0, int((ids[0] == tokens.mask).nonzero())].softmax(-1)
    assert [one.probability for one in filled[0]] == pytest.approx(chances.topk(3).values.tolist(), rel=1e-3)


def test_evaluation_is_with_the_generator_that_was_trained(electra: tuple[Path, Recipe]) -> None:
    folder, recipe = electra
    found = json.loads((folder / "evaluation" / "report.json").read_text())
    assert set(found["losses"]) == {"masked", "replaced"}
    assert set(found["accuracies"]) == {"masked_accuracy", "replaced_accuracy", "original_accuracy"}
    shown = dict(summary(recipe, folder, "report"))
    assert shown["original accuracy"] == f"{found['accuracies']['original_accuracy']:.1%}"
    assert shown["try"].startswith(f"yanmo fill {folder}/pretrain/model/generator ")
    written = last_validation(folder)
    assert written.keys() >= {*found["losses"], *found["accuracies"]}
    network, tokens = yanmo.load(folder / "pretrain" / "model")
    for use in (yanmo.fill, lambda *given: yanmo.score(*given[:2], [given[2]])):
        with pytest.raises(UserError, match="its generator fills gaps, in the folder generator/ inside the model's"):
            use(network, tokens, "The [MASK] statement.")
    again = evaluate(network, tokens, recipe, folder)
    assert again.losses == pytest.approx(found["losses"], rel=1e-5)
    alone = folder / "alone"
    shutil.copytree(folder / "pretrain" / "model", alone, ignore=shutil.ignore_patterns("generator"))
    with pytest.raises(UserError, match="it has no generator/, with which objective replaced is measured"):
        evaluate(network, tokens, recipe, folder, model=alone)


def test_going_on_starts_where_both_were(electra: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, _ = electra
    start = folder / "pretrain" / "model"
    more = [f"model={{family: electra, start: {json.dumps(str(start))}}}", f"tokenizer.file={start}/tokenizer.json"]
    recipe = short_recipe(ROOT / "recipes" / "electra-en.yaml", tmp_path, *more, "name=further", "training.learning_rate=1e-9")
    made = carry_out(recipe, until="pretrain").folder / "pretrain" / "model"
    for part in (Path(), Path("generator")):
        before, after = (yanmo.load(one / part).network for one in (start, made))
        for (name, one), other in zip(before.named_parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6, msg=f"{part} {name}")


def test_a_student_is_measured_without_its_teacher(finished: tuple[Path, Recipe], tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(finished[0] / "pretrain" / "model", teacher)
    more = [f"objective={{kind: distillation, teacher: {json.dumps(str(teacher))}, hidden: cosine}}", "model.layers=1"]
    recipe = short_recipe(ROOT / "recipes" / "bert-zh.yaml", tmp_path, *more, f"tokenizer.file={teacher}/tokenizer.json")
    folder = carry_out(recipe, until="pretrain").folder
    assert last_validation(folder).keys() == {"masked", "accuracy", "teacher", "hidden", "loss"}
    assert not list((folder / "pretrain" / "model").glob("*/config.json"))
    shutil.rmtree(teacher)
    found = json.loads((carry_out(recipe, until="evaluation").folder / "evaluation" / "report.json").read_text())
    assert set(found["losses"]) == {"masked"}
    assert found["pseudo_perplexity"] > 1


def test_a_teacher_that_is_not_there_is_missed_at_once() -> None:
    with pytest.raises(UserError, match=r"objective\.teacher: nowhere: no model folder there"):
        check_early(parse_recipe({"objective": {"kind": "distillation", "teacher": "nowhere"}}, "test"))
