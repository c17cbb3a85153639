"""Filling in: the probabilities of transformers' own scores, and sentences that read as they were written."""

from dataclasses import replace

import pytest
import torch

from yanmo.errors import UserError
from yanmo.filling import fill


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("text", ["北京是中国的[MASK]都。", "The quick <mask> fox [MASK] on.", "[MASK]"])
def test_probabilities_are_those_of_transformers(pairs, family: str, text: str) -> None:
    pair = pairs(family)
    spelled = text.replace("[MASK]", pair.tokenizer.mask_token).replace("<mask>", pair.tokenizer.mask_token)
    inputs = pair.tokenizer(spelled, return_tensors="pt")
    places = (inputs["input_ids"][0] == pair.tokenizer.mask_token_id).nonzero()[:, 0]
    with torch.no_grad():
        chances = pair.theirs(**inputs).logits[0, places].softmax(-1)[:, : pair.tokens.size]
    found = fill(pair.network, pair.tokens, text, k=4)
    assert len(found) == len(places) == text.count("[MASK]") + text.count("<mask>")
    for gap, row in zip(found, chances, strict=True):
        best = row.topk(4)
        assert [one.probability for one in gap] == pytest.approx(best.values.tolist(), rel=1e-4)
        for one, index in zip(gap, best.indices.tolist(), strict=True):
            assert one.token in (pair.tokenizer.decode([index]), pair.tokenizer.convert_ids_to_tokens(index))


def puts_first(network, pieces: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network prefer these tokens, in order."""

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(*hidden.shape[:-1], network.config.vocabulary)
        scores[..., pieces] = torch.arange(len(pieces), 0, -1.0) * 3
        return scores

    monkeypatch.setattr(network, "logits", logits)


def test_candidates_stand_in_the_text_as_it_was_written(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("bert")
    vocabulary = pair.tokens.tokenizer.get_vocab()
    ending = next(token for token in vocabulary if token.startswith("##"))
    puts_first(pair.network, [vocabulary["京"], vocabulary[ending]], monkeypatch)
    [first, second] = fill(pair.network, pair.tokens, "北[MASK]，the dog<mask> x", k=2)
    assert [one.text for one in first] == ["北京，the dog<mask> x", f"北{ending[2:]}，the dog<mask> x"]
    assert [one.text for one in second] == ["北[MASK]，the dog京 x", f"北[MASK]，the dog{ending[2:]} x"]
    assert [one.token for one in first] == ["京", ending]


def test_a_space_that_belongs_to_the_token_is_not_written_twice(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("roberta")
    vocabulary = pair.tokens.tokenizer.get_vocab()
    part = next(token for token in vocabulary if pair.tokens.decode([vocabulary[token]]) == "\N{REPLACEMENT CHARACTER}")
    puts_first(pair.network, [vocabulary["Ġdog"], vocabulary["s"], vocabulary[part]], monkeypatch)
    [gap] = fill(pair.network, pair.tokens, "The <mask>.", k=3)
    assert [one.text for one in gap] == ["The dog.", "The s.", f"The {part}."]
    assert [one.token for one in gap] == [" dog", "s", part]
    [gap] = fill(pair.network, pair.tokens, "dogs<mask>.", k=1)
    assert gap[0].text == "dogs dog."


def test_what_cannot_be_filled(pairs) -> None:
    bert, gpt2 = pairs("bert"), pairs("gpt2")
    with pytest.raises(UserError, match=r"'北京' has no gap; write \[MASK\]"):
        fill(bert.network, bert.tokens, "北京")
    with pytest.raises(UserError, match=r"a gpt2 continues text.*use generate"):
        fill(gpt2.network, gpt2.tokens, "[MASK]")
    with pytest.raises(UserError, match="no mask token"):
        fill(bert.network, replace(bert.tokens, mask=None), "[MASK]")
    with pytest.raises(UserError, match="k 0"):
        fill(bert.network, bert.tokens, "[MASK]", k=0)
    with pytest.raises(UserError, match="64 positions"):
        fill(bert.network, bert.tokens, "京" * 70 + "[MASK]")
