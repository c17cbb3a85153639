"""Held-out figures of small run folders, against sums made by hand and by transformers."""

import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from yanmo import models, scoring
from yanmo.errors import UserError
from yanmo.evaluation import evaluate, fitting, held_out_sentences, most_frequent, sentences_of
from yanmo.models import Network
from yanmo.recipe import Recipe
from yanmo.scoring import manner_of, score
from yanmo.shards import Shards, write_shards
from yanmo.tokenizer import Encoded

HELD_OUT = (
    "北京是中国的首都，也是一座古老的城市。上海与北京之间有高速铁路。",
    "The quick brown fox sleeps. Language models give a probability to every sentence! Trains take 4.5 hours?",
    "这家酒店的服务很好，下次还会来！房间干净，早餐也不错。The dog jumps over the lazy fox, and it is likelier than others.",
    "a b.",
)
TRAIN = ("国务院，国务院，", "国务院召开会议，国务院，是，的，和，也，", "the dog, the dog，", "北京，，。")


def run_folder(folder: Path, pair: Any, held_out: tuple[str, ...] = HELD_OUT) -> Path:
    (folder / "corpus").mkdir(parents=True)
    for split, texts in (("train", TRAIN), ("validation", held_out)):
        pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / "corpus" / f"{split}-00000.parquet")
    write_shards(folder / "corpus", pair.tokens, folder / "shards", workers=1)
    return folder


def recipe_for(family: str, **parts: Any) -> Recipe:
    return Recipe.model_validate({"model": {"family": family}, "training": {"length": 32, "rows": 4}, **parts})


def their_masked(pair: Any, batch: Any) -> tuple[float, int]:
    """Summed loss and right answers of transformers' scores, with each document of a row by itself."""
    packed, total, right = batch.packed, 0.0, 0
    answer = dict(zip(batch.picked.tolist(), batch.answers.tolist(), strict=True))
    for row in range(len(packed.tokens)):
        for document in range(1, int(packed.documents[row].max()) + 1):
            places = (packed.documents[row] == document).nonzero()[:, 0]
            types = {} if packed.types is None else {"token_type_ids": packed.types[row, places][None]}
            ids = packed.tokens[row, places][None]
            with torch.no_grad():
                logits = pair.theirs(input_ids=ids, attention_mask=torch.ones_like(ids), **types).logits[0].double()
            for number, place in enumerate(places.tolist()):
                expected = answer.get(row * packed.tokens.shape[1] + place)
                if expected is not None:
                    total -= float(logits[number].log_softmax(-1)[expected])
                    right += int(logits[number].argmax()) == expected
    return total, right


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_causal_by_hand(pairs, family: str, tmp_path: Path) -> None:
    pair = pairs(family)
    folder = run_folder(tmp_path, pair)
    calls: list[tuple[float, float | None]] = []

    def progress(done: float, total: float | None, unit: str, **figures: float | str) -> None:
        calls.append((done, total))

    found = evaluate(pair.network, pair.tokens, recipe_for(family, training={"length": 64, "rows": 4}), folder, progress)
    nats, count = 0.0, 0
    for text in HELD_OUT:
        ids = pair.tokens.encode([text])[0]
        start = list(pair.tokens.prefix) or [pair.tokens.suffix[-1]]
        if len(start) + len(ids) > 65:
            nats -= score(pair.network, pair.tokens, [text])[0]  # in windows: proved for scores
        else:
            row = torch.tensor([start + ids])
            with torch.no_grad():
                logs = pair.theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].double().log_softmax(-1)
            nats -= sum(float(logs[len(start) - 1 + place, token]) for place, token in enumerate(ids))
        count += len(ids)
    size = sum(len(text.encode()) for text in HELD_OUT)
    assert found.losses == {"causal": pytest.approx(nats / count, rel=1e-5)}
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found.bits_per_byte_by == "likelihood"
    sentences = fitting(held_out_sentences(HELD_OUT, 50), pair.network, pair.tokens)
    length = sum(len(text.encode()) for text in sentences)
    assert found.counts == {"documents": 4, "tokens": count, "bytes": size, "sentences": len(sentences), "sentence_bytes": length}
    nats = -sum(score(pair.network, pair.tokens, sentences))
    assert found.sentence_bits_per_byte == pytest.approx(nats / math.log(2) / length)
    assert len(sentences) >= 6
    assert calls[-1][0] == calls[-1][1]
    assert set(json.loads(json.dumps(found.to_json()))) == {
        "losses",
        "perplexity",
        "bits_per_byte",
        "bits_per_byte_by",
        "sentence_bits_per_byte",
        "counts",
    }


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_masked_by_hand(pairs, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs(family)
    folder = run_folder(tmp_path, pair)
    recipe = recipe_for(family, objective={"kind": "masked", "rate": 0.6}, evaluation={"pseudo_likelihood": 3})
    batches = []
    from yanmo.objectives import Masked

    collate = Masked.collate
    monkeypatch.setattr(Masked, "collate", lambda *arguments: batches.append(collate(*arguments)) or batches[-1])
    monkeypatch.setattr("yanmo.evaluation.PLACES", 64)
    found = evaluate(pair.network, pair.tokens, recipe, folder)
    assert len(batches) > 1
    sums = [their_masked(pair, batch) for batch in batches]
    answers = np.concatenate([batch.answers.numpy() for batch in batches])
    [(frequent, often), (_, less)] = Counter(id for text in TRAIN for id in pair.tokens.encode([text])[0]).most_common(2)
    assert often > less
    assert found.losses == {"masked": pytest.approx(sum(total for total, _ in sums) / len(answers), rel=1e-5)}
    assert found.masked_accuracy == pytest.approx(sum(right for _, right in sums) / len(answers))
    assert found.baseline_accuracy == pytest.approx(float((answers == frequent).mean()))
    assert found.baseline_accuracy > 0
    assert found.counts["masked_targets"] == len(answers) > 10

    sentences = fitting(held_out_sentences(HELD_OUT, 3), pair.network, pair.tokens)[:3]
    nats = -sum(score(pair.network, pair.tokens, sentences))
    assert len(sentences) == found.counts["sentences"] == 3
    assert found.bits_per_byte_by == "pseudo-likelihood"
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / sum(len(one.encode()) for one in sentences))
    assert found.sentence_bits_per_byte == found.bits_per_byte
    count = sum(len(ids) for ids in pair.tokens.encode(sentences))
    assert found.pseudo_perplexity == pytest.approx(math.exp(nats / count))
    within = evaluate(pair.network, pair.tokens, recipe, folder, within_word=True)
    assert (within.losses, within.masked_accuracy) == (found.losses, found.masked_accuracy), "the masking is fixed"
    assert within.pseudo_perplexity != found.pseudo_perplexity


def test_the_size_of_a_batch_changes_nothing(pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("bert", "gpt2"):
        pair, folder = pairs(family), tmp_path / family
        run_folder(folder, pair)
        whole = evaluate(pair.network, pair.tokens, recipe_for(family), folder)
        monkeypatch.setattr(scoring, "PLACES", 64)
        monkeypatch.setattr("yanmo.evaluation.PLACES", 64)
        parts = evaluate(pair.network, pair.tokens, recipe_for(family), folder)
        assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
        assert parts.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-5)
        assert parts.counts == whole.counts


def test_without_pseudo_likelihood_there_are_no_bits_per_byte(pairs, tmp_path: Path) -> None:
    pair = pairs("bert")
    recipe = recipe_for("bert", evaluation={"pseudo_likelihood": 0})
    found = evaluate(pair.network, pair.tokens, recipe, run_folder(tmp_path, pair))
    assert (found.bits_per_byte, found.bits_per_byte_by, found.pseudo_perplexity) == (None, None, None)
    assert not {"bits_per_byte", "pseudo_perplexity", "sentence_accuracy"} & set(found.to_json())


def test_next_sentence_is_measured_beside_the_masks(tmp_path: Path, pairs) -> None:
    pair = pairs("bert")
    recipe = recipe_for("bert", objective={"kind": "masked", "sentences": "next"}, evaluation={"pseudo_likelihood": 0})
    torch.manual_seed(0)
    tiny = recipe.model.model_copy(update={"size": "tiny", "width": 32, "layers": 1, "heads": 2})
    network = models.build(tiny, vocabulary=pair.tokens.size, length=32, pair=True).eval()
    found = evaluate(network, pair.tokens, recipe, run_folder(tmp_path, pair))
    assert set(found.losses) == {"masked", "next"}
    assert found.sentence_accuracy is not None
    assert 0 <= found.sentence_accuracy <= 1
    assert found.counts["next_targets"] >= 3


def test_the_most_frequent_token(pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("bert")
    train = Shards.open(run_folder(tmp_path, pair) / "shards", "train")
    counts = Counter(token for text in TRAIN for token in pair.tokens.encode([text])[0])
    assert counts[most_frequent(train, pair.tokens)] == max(counts.values())
    monkeypatch.setattr("yanmo.evaluation.COUNTED", train.token_total // 4)
    sparse = Counter(token for text in TRAIN[::4] for token in pair.tokens.encode([text])[0])
    assert sparse[most_frequent(train, pair.tokens)] == max(sparse.values())


def test_sentences() -> None:
    assert sentences_of("北京。上海！“好。”他说。 It is 4.5 hours. Is it?\n\n标题\n正文") == [
        "北京。",
        "上海！",
        "“好。”",
        "他说。",
        "It is 4.5 hours.",
        "Is it?",
        "标题",
        "正文",
    ]
    assert sentences_of(" \n ") == sentences_of("") == []


def test_held_out_sentences() -> None:
    texts = [f"第{number}篇的第一句话在这里。第{number}篇的第二句话在这里。短。{'长' * 99}。" for number in range(40)]
    drawn = held_out_sentences(iter(texts), 30, seed=1)
    assert drawn == held_out_sentences(texts, 30, seed=1)
    assert drawn != held_out_sentences(texts, 30, seed=2)
    assert len({sentence.split("篇")[0] for sentence in drawn[:30]}) == 30, "one of each text, while there are texts"
    every = held_out_sentences(texts, 100)
    assert len(every) == len(set(every)) == 80, "neither the short nor the long ones"
    assert held_out_sentences(texts, 0) == held_out_sentences([], 5) == []


def test_every_family_is_measured_on_the_same_sentences(pairs, tmp_path: Path) -> None:
    """Tokenizers of four kinds and two seeds: the same bytes; bits per byte are those of the scores, each in its own manner."""
    texts = tuple(f"{text}第{number}句在这里写完。And this is number {number}." for number, text in enumerate(HELD_OUT))
    sentences = held_out_sentences(texts, 3)[:3]
    size = sum(len(sentence.encode()) for sentence in sentences)
    manners = {"bert": "pseudo-likelihood", "gpt2": "likelihood", "llama": "likelihood", "t5": "gap", "bart": "gap"}
    for seed, (family, manner) in enumerate(manners.items()):
        pair = pairs(family)
        folder = run_folder(tmp_path / family, pair, texts)
        found = evaluate(pair.network, pair.tokens, recipe_for(family, seed=seed, evaluation={"pseudo_likelihood": 3}), folder)
        bits = -sum(score(pair.network, pair.tokens, sentences)) / math.log(2) / size
        assert (found.counts["sentences"], found.counts["sentence_bytes"]) == (3, size), family
        assert found.sentence_bits_per_byte == pytest.approx(bits), family
        assert found.bits_per_byte_by == manner
        assert (found.bits_per_byte == found.sentence_bits_per_byte) is (manner != "likelihood"), "else whole documents"


def small(family: str, vocabulary: int, length: int = 64) -> Network:
    """A network of random weights, so large that its choices are far apart."""
    torch.manual_seed(0)
    heads = {} if family == "lstm" else {"heads": 2, "feedforward": 32}
    recipe = recipe_for(family, model={"family": family, "layers": 1, "width": 16, **heads})
    network = models.build(recipe.model, vocabulary=vocabulary, length=length).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(1 if "norm" in name or "latent" in name or "posterior" in name else 4)
    return network


@pytest.mark.parametrize(("family", "manner", "words"), [("xlnet", "permutation", "bert"), ("vae", "bound", "gpt2")])
def test_other_networks_have_a_code_of_sentences(pairs, family: str, manner: str, words: str, tmp_path: Path) -> None:
    tokens = pairs(words).tokens
    network, folder = small(family, tokens.size), run_folder(tmp_path, pairs(words))
    found = evaluate(network, tokens, recipe_for(family, evaluation={"pseudo_likelihood": 3}), folder)
    sentences = fitting(held_out_sentences(HELD_OUT, 3), network, tokens)[:3]
    bits = -sum(score(network, tokens, sentences)) / math.log(2) / sum(len(sentence.encode()) for sentence in sentences)
    assert found.bits_per_byte == found.sentence_bits_per_byte == pytest.approx(bits)
    assert found.bits_per_byte_by == manner == manner_of(network)


@dataclass(frozen=True)
class Letters:
    """A tokenizer of twelve tokens, eight of which stand in texts."""

    prefix: tuple[int, ...] = (8,)
    suffix: tuple[int, ...] = (9,)
    pad: int = 10
    mask: int = 11
    size: int = 12

    def group(self, name: str) -> tuple[int, ...] | None:
        return (self.mask,) if name == "mask" else None


@pytest.mark.parametrize("family", ["gpt2", "lstm", "t5", "bart", "xlnet", "vae"])
def test_what_is_called_a_code_is_one(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kraft's inequality: the chances of all texts of two tokens (one, by samples of latents) add up to one where they are exact,
    and to no more where they are a mean over orders."""
    network = small(family, 12)
    ids = list(itertools.product(range(network.config.vocabulary), repeat=1 if family == "vae" else 2))
    given = [Encoded(np.array(text), np.zeros(1, np.int64), np.arange(len(text))) for text in ids]
    monkeypatch.setattr(scoring, "encode_documents", lambda tokens, texts: [given[int(text)] for text in texts])
    total = float(np.exp(score(network, Letters(), [str(number) for number in range(len(ids))])).sum())  # type: ignore[arg-type]
    if manner_of(network) == "permutation":
        assert 0.2 < total < 1.01
    else:
        assert total == pytest.approx(1, abs=0.05 if family == "vae" else 1e-4)


def test_a_network_that_gives_no_text_a_probability_has_no_bits(pairs, tmp_path: Path) -> None:
    pair = pairs("bert")
    folder = run_folder(tmp_path, pair)
    found = evaluate(pair.network, pair.tokens, recipe_for("bert", objective={"kind": "contrast", "dropout": 0.1}), folder)
    assert (found.bits_per_byte, found.bits_per_byte_by, found.sentence_bits_per_byte) == (None, None, None)


def test_what_cannot_be_measured(pairs, tmp_path: Path) -> None:
    pair = pairs("gpt2")
    folder = run_folder(tmp_path / "run", pair)
    with pytest.raises(UserError, match=r"manifest.json is missing"):
        evaluate(pair.network, pair.tokens, recipe_for("gpt2"), tmp_path)
    with pytest.raises(UserError, match="made with another tokenizer"):
        evaluate(pairs("llama").network, pairs("llama").tokens, recipe_for("llama"), folder)
    with pytest.raises(UserError, match="does not fit gpt2"):
        evaluate(pair.network, pair.tokens, recipe_for("bert"), folder)
    with pytest.raises(UserError, match="nothing was held out"):
        evaluate(pair.network, pair.tokens, recipe_for("gpt2"), run_folder(tmp_path / "empty", pair, ("",)))
