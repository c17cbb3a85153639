"""Scores of texts: sums of transformers' log-softmax for decoders, an explicit loop over masks for encoders."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from yanmo import scoring
from yanmo.errors import UserError
from yanmo.models import network as network_module
from yanmo.scoring import score
from yanmo.tokenizer import encode_documents

TEXTS = ("北京是中国的首都。", "The quick brown fox, unbelievably lazy, sleeps on.", "a", "这家酒店的服务很好 today!")


def their_log_probabilities(pair, ids: list[int]) -> torch.Tensor:
    """(T, V): of the token after each place for a decoder, of each place for an encoder."""
    with torch.no_grad():
        row = torch.tensor([ids])
        return pair.theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].double().log_softmax(-1)


def pseudo(pair, ids: list[int], masked: dict[int, list[int]]) -> float:
    """The sum over places of the log-probability of what stands there when `masked[place]` are masked."""
    around = [*pair.tokens.prefix, *ids, *pair.tokens.suffix]
    first, total = len(pair.tokens.prefix), 0.0
    for place, hidden in masked.items():
        row = list(around)
        for other in hidden:
            row[first + other] = pair.tokens.mask
        total += float(their_log_probabilities(pair, row)[first + place, ids[place]])
    return total


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_decoder_scores_as_transformers_log_softmax(pairs, family: str) -> None:
    pair = pairs(family)
    for text, found in zip(TEXTS, score(pair.network, pair.tokens, TEXTS), strict=True):
        start = list(pair.tokens.prefix) or [pair.tokens.suffix[-1]]
        ids = pair.tokens.encode([text])[0]
        logs = their_log_probabilities(pair, start + ids)
        expected = sum(float(logs[len(start) - 1 + place, token]) for place, token in enumerate(ids))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_an_encoder_scores_as_a_loop_over_masks(pairs, family: str) -> None:
    pair = pairs(family)
    for text, found in zip(TEXTS, score(pair.network, pair.tokens, TEXTS), strict=True):
        ids = pair.tokens.encode([text])[0]
        assert found == pytest.approx(pseudo(pair, ids, {place: [place] for place in range(len(ids))}), rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_within_word_masks_the_rest_of_the_word(pairs, family: str) -> None:
    pair = pairs(family)
    differs = 0
    for text, found in zip(TEXTS, score(pair.network, pair.tokens, TEXTS, within_word=True), strict=True):
        ids = pair.tokens.encode([text])[0]
        starts = {int(start) for start in encode_documents(pair.tokens, [text])[0].words}
        masked = {}
        for place in range(len(ids)):
            end = place + 1
            while end < len(ids) and end not in starts:
                end += 1
            masked[place] = list(range(place, end))
        differs += any(len(hidden) > 1 for hidden in masked.values())
        assert found == pytest.approx(pseudo(pair, ids, masked), rel=1e-5)
    assert differs >= 2, "some words here have several tokens"


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_small_batches_and_chunks_change_nothing(pairs, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs(family)
    whole = score(pair.network, pair.tokens, TEXTS)
    monkeypatch.setattr(scoring, "PLACES", 40)
    monkeypatch.setattr(network_module, "SCORE_BYTES", 4 * 3 * pair.network.config.vocabulary)
    assert score(pair.network, pair.tokens, TEXTS) == pytest.approx(whole, rel=1e-5)
    assert [score(pair.network, pair.tokens, [text])[0] for text in TEXTS] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_long_text_is_read_in_windows(pairs, family: str) -> None:
    pair = pairs(family)
    text = "The quick brown fox jumps over the lazy dog. " * 30
    ids = pair.tokens.encode([text])[0]
    start = list(pair.tokens.prefix) or [pair.tokens.suffix[-1]]
    room = pair.network.config.length - 1
    assert len(ids) > 2 * room
    expected = 0.0
    last = min(len(ids) - 1, room)
    rows = [(start + ids[:last], len(start) - 1, ids[: last + 1])]
    while last < len(ids) - 1:
        asked, last = last + 1, min(len(ids) - 1, last + room - room // 2)
        first, lead = last - room, list(pair.tokens.prefix)
        rows.append((lead + ids[first:last], len(lead) + asked - first - 1, ids[asked : last + 1]))
    for row, place, answers in rows:
        assert len(row) <= pair.network.config.length
        logs = their_log_probabilities(pair, row)
        expected += sum(float(logs[place + offset, token]) for offset, token in enumerate(answers))
    assert sum(len(answers) for _, _, answers in rows) == len(ids)
    assert score(pair.network, pair.tokens, [text])[0] == pytest.approx(expected, rel=1e-5)


def test_windows_ask_for_every_token_once() -> None:
    lengths = np.array([0, 1, 2, 5, 6, 7, 8, 30, 31])
    for room in (1, 2, 3, 6, 7):
        for blind in (False, True):
            asked: dict[int, list[int]] = {}
            for part in scoring._windows(lengths, room, blind=blind):
                assert part.last - part.first <= room
                assert part.first < part.asked or part.first == part.asked == 0
                assert part.first == 0 or part.asked - part.first >= room // 2
                asked.setdefault(part.document, []).extend(range(part.asked, part.last + 1))
            assert asked == {
                document: list(range(int(blind), length)) for document, length in enumerate(lengths) if length > int(blind)
            }


def test_a_first_token_that_nothing_stands_before_costs_a_blind_guess(pairs) -> None:
    pair = pairs("gpt2")
    tokens = replace(pair.tokens, suffix=())
    ids = tokens.encode([TEXTS[1]])[0]
    logs = their_log_probabilities(pair, ids)
    expected = sum(float(logs[place, token]) for place, token in enumerate(ids[1:])) - math.log(pair.network.config.tokens)
    assert score(pair.network, tokens, [TEXTS[1], ""]) == pytest.approx([expected, 0.0], rel=1e-5)


def test_empty_texts_score_nothing(pairs) -> None:
    for family in ("gpt2", "bert"):
        assert score(pairs(family).network, pairs(family).tokens, ["", ""]) == [0, 0]
        assert score(pairs(family).network, pairs(family).tokens, []) == []


def test_training_mode_is_left_as_it_was(pairs) -> None:
    pair = pairs("bert")
    pair.network.train()
    try:
        first = score(pair.network, pair.tokens, TEXTS)
        assert pair.network.training
    finally:
        pair.network.eval()
    assert score(pair.network, pair.tokens, TEXTS) == first, "no dropout while scoring"


def test_what_an_encoder_cannot_score(pairs) -> None:
    pair = pairs("bert")
    with pytest.raises(UserError, match=r"text 2 has .* more than the 64 positions"):
        score(pair.network, pair.tokens, ["a", "京" * 63])
    with pytest.raises(UserError, match="no mask token"):
        score(pair.network, replace(pair.tokens, mask=None), ["a"])


def test_memory_is_bounded(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("bert")
    monkeypatch.setattr(scoring, "PLACES", 100)
    monkeypatch.setattr(network_module, "SCORE_BYTES", 4 * 5 * pair.network.config.vocabulary)
    rows, chunks = [], []
    forward, logits = pair.network.forward, pair.network.logits
    monkeypatch.setattr(pair.network, "forward", lambda packed: rows.append(packed.tokens.shape) or forward(packed))
    monkeypatch.setattr(pair.network, "logits", lambda hidden: chunks.append(len(hidden)) or logits(hidden))
    score(pair.network, pair.tokens, TEXTS)
    assert len(rows) > 4
    assert all(count * length <= 100 or count == 1 for count, length in rows)
    assert max(chunks) == 5
