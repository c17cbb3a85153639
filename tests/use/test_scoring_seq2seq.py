"""An encoder-decoder's score of a text: transformers' log-softmax, given a source in which all of it is missing."""

from dataclasses import replace

import pytest
import torch

from yanmo.errors import UserError
from yanmo.scoring import score

TEXTS = ("北京是中国的首都。", "The quick brown fox, unbelievably lazy, sleeps on.", "a", "这家酒店的服务很好 today!")


@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_a_text_is_scored_as_what_is_written_for_a_gap(pairs, family: str) -> None:
    pair = pairs(family)
    tokens, start = pair.tokens, pair.network.config.decoder_start
    gap = [tokens.tokenizer.token_to_id({"t5": "<extra_id_0>", "bart": "<mask>"}[family])]
    assert gap[0] is not None
    source = torch.tensor([[*tokens.prefix, *gap, *tokens.suffix]])
    lead = [start, *tokens.prefix, *(gap if family == "t5" else [])]
    for text, found in zip(TEXTS, score(pair.network, tokens, TEXTS), strict=True):
        ids = tokens.encode([text])[0]
        logits = pair.theirs(input_ids=source, decoder_input_ids=torch.tensor([[*lead, *ids]])).logits[0]
        logs = logits.double().log_softmax(-1)[len(lead) - 1 : -1]
        assert found == pytest.approx(float(logs.gather(1, torch.tensor(ids)[:, None]).sum()), rel=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_batches_and_empty_texts_change_nothing(pairs, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs(family)
    together = score(pair.network, pair.tokens, [*TEXTS, ""])
    monkeypatch.setattr("yanmo.scoring.PLACES", 1)
    assert score(pair.network, pair.tokens, [*TEXTS, ""]) == pytest.approx(together, rel=1e-5)
    assert together[-1] == 0
    assert not pair.network.training


def test_a_tokenizer_without_gaps_and_a_text_that_is_too_long(pairs) -> None:
    pair = pairs("bart")
    plain = replace(pair.tokens, mask=None)
    assert score(pair.network, plain, ["a"]) != score(pair.network, pair.tokens, ["a"])
    with pytest.raises(UserError, match=r"text 2 has .* tokens, more than the 64 positions of this bart"):
        score(pair.network, pair.tokens, ["a", "字" * 70])
