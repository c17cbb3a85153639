"""The examples of a section: what cannot be read, files by a glob, and what lint says of them."""

import gzip
import json
import shlex

import pytest

from yanmo import cli
from yanmo.errors import UserError
from yanmo.labelled.data import read_data, sums_of
from yanmo.labelled.examples import Classified
from yanmo.labelled.reading import draw
from yanmo.recipe import parse_task


def written(path, rows):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def reviews(count, begin=0):
    numbers = range(begin, begin + count)
    return [{"text": f"review number {number}", "label": "bad" if number % 2 else "good"} for number in numbers]


def test_unreadable_examples_are_refused_or_left_out_and_said(tmp_path):
    rows = reviews(40)
    rows[6]["text"] = "  "
    train = written(tmp_path / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"^tasks\.stars: .*train\.jsonl:7: field 'text' is empty"):
        read_data(parse_task({"kind": "classification", "train": train}), "stars")
    said = []
    data = read_data(parse_task({"kind": "classification", "train": train, "on_error": "skip"}), say=said.append)
    assert len(data.train) + len(data.valid) == 39
    assert said[0].startswith("1 of 40 examples cannot be read and are left out; the first: ")
    assert "train.jsonl:7" in said[0]


def test_answers_that_are_not_in_their_place_are_refused_or_left_out(tmp_path):
    context = "The mill stands by the river and turns."
    rows = [
        {"id": str(number), "context": f"{number} {context}", "question": "Where?", "answers": [answer]}
        for number in range(10, 40)
        for answer in [{"text": "by the river", "answer_start": 19 if number > 10 else 20}]
    ]
    section = {"kind": "answering", "train": written(tmp_path / "asked.jsonl", rows)}
    with pytest.raises(UserError, match=r"places of answers: 1 \(3.3%\) of 30 answers .*asked.jsonl:1.*yanmo lint"):
        read_data(parse_task({**section, "validation": 0.01}), say=lambda _: None)
    said = []
    data = read_data(parse_task({**section, "on_error": "skip"}), say=said.append)
    assert len(data.train) + len(data.valid) == 29
    assert "1 of 30 examples cannot be read and are left out; the first: " in said[0]
    assert "asked.jsonl:1: answer 'by the river' is not at character 20 of its context" in said[0]


def test_files_of_a_glob_are_summed_each_and_compressed_ones_as_they_lie(tmp_path):
    written(tmp_path / "part1.jsonl", reviews(20))
    written(tmp_path / "part2.jsonl.gz", reviews(20, begin=20))
    section = parse_task({"kind": "classification", "train": str(tmp_path / "part*"), "lint": False})
    before = sums_of(section)
    assert len(before) == 2
    assert len(set(before.values())) == 2
    assert len(read_data(section).train) == 36
    assert read_data(section).sums == before
    written(tmp_path / "part1.jsonl", reviews(21))
    assert [name.endswith("part1.jsonl") for name in before if sums_of(section)[name] != before[name]] == [True]


def test_a_limit_draws_from_all_examples_and_keeps_their_order(tmp_path):
    train = written(tmp_path / "train.jsonl", reviews(100))
    data = read_data(parse_task({"kind": "classification", "train": train, "limit": 20}))
    numbers = [int(example.text.split()[-1]) for example in data.train]
    assert len(numbers) == 20
    assert numbers == sorted(numbers)
    assert numbers[-1] > 50


def test_the_command_that_shows_all_of_it_names_all_that_was_read(tmp_path, monkeypatch, capsys):
    rows = [{"review": row["text"], "label": [row["label"]]} for row in reviews(60)]
    for name, part in (("a b", rows[:30]), ("c", rows[30:]), ("valid", rows[:10])):
        written(tmp_path / f"{name}.jsonl", part)
    train = [str(tmp_path / f"{name}.jsonl") for name in ("a b", "c")]
    known = {"kind": "classification", "several": True, "fields": {"text": "review"}, "valid": str(tmp_path / "valid.jsonl")}
    said = []
    read_data(parse_task({**known, "train": train, "lint": False}), say=said.append)
    command = said[-1].split("`")[1]
    monkeypatch.setattr("sys.argv", [*shlex.split(command), "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = json.loads(capsys.readouterr().out)
    assert shown["parts"] == {"train": 60, "valid": 10}
    assert "overlap" in said[-1]
    assert next(one for one in shown["sections"] if one["name"] == "overlap")["verdict"] != "ok"


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_loses_no_label_and_is_even_beside_that(seed):
    examples = [Classified(text=f"text {number}", label="rare" if number == 41 else "often") for number in range(1000)]
    drawn = draw(examples, 200, seed)
    assert len(set(drawn)) == 200
    assert drawn == [example for example in examples if example in set(drawn)]
    assert examples[41] in drawn
    assert 70 < sum(example in set(drawn) for example in examples[:500]) < 130  # of 200: the mean and four standard deviations
    assert {example.label for example in draw(examples, 2, seed)} == {"rare", "often"}
    assert len(draw(examples, 1, seed)) == 1
