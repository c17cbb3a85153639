"""What an encoder-decoder writes of a source, against transformers' generate and against no cache at all."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.generation import generate

FAMILIES = ("t5", "bart")
PROMPTS = ("The quick", "北京是中国的", "Language models give a probability to", "a")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_that_of_transformers_token_by_token(pairs, family: str, penalty: float) -> None:
    pair = pairs(family)
    ours = generate(
        pair.network, pair.tokens, PROMPTS, max_new_tokens=20, temperature=0, repetition_penalty=penalty, stop_at_end=False
    )
    unused = list(range(pair.tokens.size, pair.network.config.vocabulary))
    for prompt, one in zip(PROMPTS, ours, strict=True):
        source = pair.tokenizer(prompt, return_tensors="pt")
        theirs = pair.theirs.generate(
            source["input_ids"],
            attention_mask=source["attention_mask"],
            do_sample=False,
            max_new_tokens=20,
            suppress_tokens=unused,
            eos_token_id=None,
            repetition_penalty=penalty,
        )
        assert theirs[0, 0] == pair.network.config.decoder_start
        assert list(one.tokens) == theirs[0, 1:].tolist()
        assert one.text.rstrip("\N{REPLACEMENT CHARACTER}") in pair.tokens.decode(one.tokens, skip_special=True)
    assert len({one.tokens for one in ours}) > 2, "the source is read"


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_with_a_cache_as_without(pairs, family: str) -> None:
    pair = pairs(family)
    [one] = generate(pair.network, pair.tokens, PROMPTS[2], max_new_tokens=12, temperature=0, stop_at_end=False)
    source, written = [*pair.tokens.prefix, *pair.tokens.encode([PROMPTS[2]])[0], *pair.tokens.suffix], []

    def packed(ids: list[int]) -> Packed:
        row = torch.tensor([ids])
        return Packed(row, torch.ones_like(row), torch.arange(len(ids))[None], whole=True)

    for token in one.tokens:
        hidden = pair.network(packed(source), packed([pair.network.config.decoder_start, *written]))
        assert int(pair.network.logits(hidden[0, -1])[: pair.tokens.size].argmax()) == token
        written.append(token)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.2, "top_k": 30, "repetition_penalty": 1.2}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_what_each_source_gives_alone(pairs, family: str, settings: dict) -> None:
    pair = pairs(family)
    together = generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=15, seed=5, **settings)
    alone = [generate(pair.network, pair.tokens, [prompt], max_new_tokens=15, seed=5, **settings)[0] for prompt in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_stop_early_leave_the_others_as_they_are(pairs, family: str) -> None:
    pair = pairs(family)
    settings = {"max_new_tokens": 25, "temperature": 1.0, "seed": 2}
    free = generate(pair.network, pair.tokens, PROMPTS, stop_at_end=False, **settings)
    counts = Counter(token for one in free for token in set(one.tokens))
    end = next(token for token, count in counts.most_common() if count < len(PROMPTS))
    names = pair.network.config.settings
    pair.network.config = replace(pair.network.config, settings={**names, "eos_token_id": end})
    try:
        stopped = generate(pair.network, replace(pair.tokens, suffix=pair.tokens.suffix), PROMPTS, **settings)
    finally:
        pair.network.config = replace(pair.network.config, settings=names)
    ends = {end, *pair.tokens.suffix[-1:]}
    for one, whole in zip(stopped, free, strict=True):
        first = next((place for place, token in enumerate(whole.tokens) if token in ends), None)
        assert one.tokens == (whole.tokens if first is None else whole.tokens[: first + 1])
    assert len({len(one.tokens) for one in stopped}) > 1


def test_positions_are_an_end_and_a_limit_of_sources(pairs) -> None:
    pair = pairs("bart")
    length = pair.network.config.length
    [one] = generate(pair.network, pair.tokens, "The quick", max_new_tokens=1000, temperature=0, stop_at_end=False)
    assert one.stopped == "positions"
    assert len(one.tokens) == length
    with pytest.raises(UserError, match=r"prompt 2 .* more than the 64 positions of this bart"):
        generate(pair.network, pair.tokens, ["a", "字" * 70])


def test_an_empty_source_is_the_end_of_text_alone(pairs) -> None:
    pair = pairs("t5")
    assert generate(pair.network, pair.tokens, "", max_new_tokens=3)[0].tokens
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(pair.network, replace(pair.tokens, suffix=()), "")
