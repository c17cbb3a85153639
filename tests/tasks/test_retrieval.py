"""Vectors of queries and texts: InfoNCE by its formula, what is right never counted as wrong, ranks over all that is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import TEXTS, alone, batches_of, learn, network_of, task_of, tokens_of

import yanmo
from yanmo.errors import UserError
from yanmo.finetune import Trial, start
from yanmo.labelled.examples import Retrieved
from yanmo.labelled.reading import read_examples
from yanmo.models import save
from yanmo.objectives.contrast import VECTOR_KEY
from yanmo.recipe import RetrievalTask, parse_task
from yanmo.tasks.folder import load_task, save_task
from yanmo.tasks.retrieval import Ranked, Retrieval, shared_out
from yanmo.tokenizer import save_tokenizer
from yanmo.vectors import embed, embed_parts

DATA = Path(__file__).parents[3] / "shared/data/mt-tatoeba-en-zh"
FAMILIES = ["bert", "roberta", "modernbert", "electra", "xlnet", "gpt2", "llama", "lstm"]
PAIRS = [
    Retrieved(query="who makes bread", positive="a baker makes bread", negatives=("a company sells it", "in 1863", "in Ghent")),
    Retrieved(query="北京在哪", positive="北京位于华北平原", negatives=("该公司由王小明创立",)),
    Retrieved(query="who makes it", positive="a baker makes bread"),
    Retrieved(query="北京在哪", positive="北京是中国的首都"),
    Retrieved(query="when was it founded", positive="it was founded in 1863", negatives=("it was sold in 1864",)),
]


def retrieval(family: str = "bert", examples: Any = PAIRS, **given: Any) -> Any:
    return task_of(family, "retrieval", examples, **{"length": 128, **given})


def vectors_alone(task: Retrieval, texts: list[str]) -> torch.Tensor:
    """Each text by itself, with what the tokenizer puts around it."""
    found = []
    for ids in task.tokens.encode(texts):
        tokens = np.array([*task.tokens.prefix, *ids, *task.tokens.suffix])
        hidden = task.network(alone(type("One", (), {"tokens": tokens, "types": None})()))[0]  # pyright: ignore[reportArgumentType]
        found.append({"mean": hidden.mean(0), "first": hidden[0], "last": hidden[-1]}[task.vector])
    return F.normalize(torch.stack(found), dim=-1)


def by_hand(task: Retrieval, examples: list[Retrieved], negatives: int, both: bool) -> tuple[float, int]:
    """-log e^(s(q, own)/t) over the sum of e^(s(q, c)/t) over own and all c that are not right for q."""
    temperature = task.section.temperature
    right = {one.query: {other.positive for other in PAIRS if other.query == one.query} for one in examples}
    texts = [(number, text) for number, one in enumerate(examples) for text in (one.positive, *one.negatives[:negatives])]
    own = [next(place for place, (number, _) in enumerate(texts) if number == at) for at in range(len(examples))]
    queries = vectors_alone(task, [one.query for one in examples])
    scores = (queries @ vectors_alone(task, [text for _, text in texts]).T / temperature).exp()
    total, hits = 0.0, 0
    for at, one in enumerate(examples):
        wrong = [place for place, (_, text) in enumerate(texts) if text not in right[one.query]]
        each = float(-(scores[at, own[at]] / (scores[at, own[at]] + scores[at, wrong].sum())).log())
        hits += bool((scores[at, own[at]] > scores[at, wrong]).all())
        if both:
            others = [place for place, other in enumerate(examples) if one.positive not in right[other.query]]
            back = -(scores[at, own[at]] / (scores[at, own[at]] + scores[others, own[at]].sum())).log()
            each = (each + float(back)) / 2
        total += each
    return total, hits


@pytest.mark.parametrize(
    ("family", "given"),
    [(family, {}) for family in FAMILIES]
    + [("bert", {"vector": "first"}), ("bert", {"both": False}), ("bert", {"negatives": 0}), ("bert", {"negatives": 2}),
       ("xlnet", {"vector": "last"}), ("gpt2", {"vector": "mean"}), ("bert", {"temperature": 0.5})],
)  # fmt: skip
def test_the_loss_is_the_formulas_whatever_shares_a_row(family: str, given: dict[str, Any]) -> None:
    task = retrieval(family, **given)
    batches = batches_of(task, PAIRS, at_once=100)
    (batch,) = batches
    assert len(np.unique(batch.packed.documents)) > 3, "several share a row"
    order = [PAIRS[piece.example] for row in rows_of(task) for piece in row.pieces]
    with torch.no_grad():
        found = task(batch)
        total, hits = by_hand(task, order, given.get("negatives", 1), given.get("both", True))
    assert float(found["retrieval"].total) == pytest.approx(total, rel=2e-4)
    assert found["retrieval"].count == len(PAIRS) == batch.counts["retrieval"]
    assert float(found["accuracy"].total) == hits


def rows_of(task: Retrieval) -> list[Any]:
    order = task.order(PAIRS, seed=3, shuffle=False)
    return [order.row(number) for number in range(order.rows_per_epoch)]


def test_one_pair_alone_teaches_nothing() -> None:
    task = retrieval(negatives=0)
    (batch,) = batches_of(task, PAIRS[:1])
    assert batch.counts == {"retrieval": 0, "accuracy": 0}
    task.train()
    loss = task(batch)["retrieval"]
    loss.total.backward()
    assert float(loss.total.detach()) == 0
    (batch,) = batches_of(retrieval(), PAIRS[:1])
    assert batch.counts["retrieval"] == 1, "with a negative of its own it does"


def test_what_is_too_long_is_shortened_fairly_and_said() -> None:
    assert shared_out([5, 100, 3, 40], 60) == [5, 26, 3, 26]
    assert shared_out([1, 2, 3], 60) == [1, 2, 3]
    assert shared_out([9, 9], 5) == [2, 3]
    task = retrieval(length=32)
    long = Retrieved(query="who", positive=TEXTS[0], negatives=(TEXTS[1],), origin="x:1")
    windows = task.encode([PAIRS[0], long])
    assert windows[1].places == 32
    whole = [len(ids) for ids in task.tokens.encode(["who", TEXTS[0], TEXTS[1]])]
    assert windows[1].unread == sum(whole) - (32 - 2 * 3)
    (note,) = task.notes(windows)
    assert "1 of 2 examples have no place in a row of 32: their texts are read from the beginning" in note
    assert f"and {windows[1].unread} tokens" in note
    assert "about 24 texts of others (and its own)" in task.beside(25.3)[0]
    with pytest.raises(UserError, match=r"training.length 8 has no room for 3 texts"):
        retrieval(length=8).encode([PAIRS[0]])


def test_figures_are_over_all_held_out_texts() -> None:
    task = retrieval()
    found = task.predictions(PAIRS)
    texts = list(dict.fromkeys(text for one in PAIRS for text in (one.positive, *one.negatives)))
    with torch.no_grad():
        scores = vectors_alone(task, [one.query for one in PAIRS]) @ vectors_alone(task, texts).T
    for one, row, ranked in zip(PAIRS, scores, found, strict=True):
        assert ranked.best == texts[int(row.argmax())]
        assert ranked.score == pytest.approx(float(row.max()), abs=1e-5)
        right = {other.positive for other in PAIRS if other.query == one.query}
        order = [texts[place] for place in row.argsort(descending=True).tolist()]
        assert list(ranked.ranks) == sorted(order.index(text) + 1 for text in right)
    figures = task.appraise(PAIRS)
    unique = {one.query: ranked.ranks for one, ranked in zip(PAIRS, found, strict=True)}
    assert figures["mrr@10"] == pytest.approx(np.mean([1 / min(ranks) for ranks in unique.values()]))
    assert {"recall@1", "recall@5", "recall@10", "ndcg@10"} <= figures.keys()
    assert task.merit(figures) == -figures["mrr@10"]
    assert task.predictions([]) == []
    assert task.figures(PAIRS[:1], [Ranked((1,), "", 1.0)])["mrr"] == 1


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet"])
def test_long_texts_have_a_vector_of_each_part(family: str) -> None:
    task = retrieval(family)
    network, tokens = task.network, task.tokens
    long = " ".join(TEXTS) * 3
    parts = embed_parts(network, tokens, ["bread", long, "baker"])
    assert parts.firsts[0] == 0
    assert parts.firsts[1] == 1
    if family == "xlnet":                                 # knows no longest text
        assert parts.firsts.tolist() == [0, 1, 2, 3]
        return
    assert parts.firsts[2] > 2
    assert len(parts.vectors) == parts.firsts[-1] == parts.firsts[2] + 1
    torch.testing.assert_close(parts.vectors[[0, -1]], embed(network, tokens, ["bread", "baker"]))
    (ids,) = tokens.encode([long])
    room = network.config.length - len(tokens.prefix) - len(tokens.suffix)
    last = np.array([*tokens.prefix, *ids[-room:], *tokens.suffix])
    with torch.no_grad():
        hidden = network(alone(type("One", (), {"tokens": last, "types": None})()))[0]  # pyright: ignore[reportArgumentType]
    vector = hidden.mean(0) if family == "bert" else hidden[-1]
    torch.testing.assert_close(parts.vectors[-2], F.normalize(vector, dim=-1), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="positions"):
        embed(network, tokens, [long])


@pytest.mark.parametrize("family", ["bert", "electra", "llama"])
def test_pairs_are_learned_by_heart_and_the_folder_is_a_pretrained_one(family: str, tmp_path: Path) -> None:
    given: Any = {"fields": {"query": "source", "positive": "target"}}
    pairs = read_examples(str(DATA / "valid.jsonl"), "retrieval", given["fields"])[:12] if DATA.exists() else PAIRS
    task = retrieval(family, pairs)
    task.network.start()
    learn(task, pairs, 40)
    task.eval()
    figures = task.appraise(pairs)
    assert figures["mrr@10"] > 0.95
    save_task(task, tmp_path, tmp_path)
    assert task.vector == ("last" if family == "llama" else "mean")
    assert json.loads((tmp_path / "config.json").read_text())[VECTOR_KEY] == task.vector
    again = load_task(tmp_path)
    assert again.predictions(pairs) == task.predictions(pairs)
    texts = [one.positive for one in pairs]
    network, tokens = yanmo.load(tmp_path)
    ours = yanmo.embed(network, tokens, texts)
    theirs_are_the_same(tmp_path, texts, ours, task.vector)


def theirs_are_the_same(folder: Path, texts: list[str], ours: torch.Tensor, vector: str) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder)
    for text, own in zip(texts, ours, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if vector == "last":
            ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], 1)
        with torch.no_grad():
            hidden = network(ids).last_hidden_state[0]
        theirs = F.normalize(hidden.mean(0) if vector == "mean" else hidden[-1], dim=0)
        torch.testing.assert_close(theirs, own, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_done_is_refused() -> None:
    for family in ("t5", "bart", "vae", "ngram"):
        with pytest.raises(UserError, match=f"retrieval does not fit family {family}"):
            parse_task({"kind": "search", "train": "x", "model": {"family": family}})
    tokens = tokens_of("t5")
    with pytest.raises(UserError, match=r"retrieval: a t5 has no state that stands for a text; these families do: bert"):
        Retrieval(network_of("t5", tokens, 32), None, tokens, RetrievalTask(), (), 64)
    with pytest.raises(UserError, match="vector first: of a gpt2 there are last, mean"):
        retrieval("gpt2", vector="first")
    with pytest.raises(UserError, match="all examples to learn from have the same text"):
        Retrieval.labels_of(RetrievalTask(), PAIRS[:1])
    with pytest.raises(UserError, match="does not read both ways"):
        embed(network_of("gpt2", tokens_of("gpt2"), 32), tokens_of("gpt2"), ["a"])
    assert RetrievalTask().training.batch == 128
    assert retrieval().mixes_rows


def test_where_nothing_would_be_learned_it_is_said(tmp_path: Path) -> None:
    task = retrieval()
    save(task.network, tmp_path)
    save_tokenizer(task.tokens, tmp_path)
    for top in (None, 1):
        section = parse_task({"kind": "search", "train": "x", "adaptation": {"method": "frozen", "top": top}})
        trial = Trial(section, tmp_path, "frozen", 0)
        if top is None:
            with pytest.raises(UserError, match=r"method frozen: retrieval has no head.*; set adaptation\.top"):
                start(trial, PAIRS)
        else:
            assert {name for name, one in start(trial, PAIRS).named_parameters() if one.requires_grad} == {
                name for name, _ in task.named_parameters() if ".blocks.1." in name
            }
