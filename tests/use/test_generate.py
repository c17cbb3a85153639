"""Continuing text: what transformers' generate gives, whatever else is in the batch, and whole characters."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers.generation import logits_process

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.generation import Generated, Sampling, TextStream, generate

DECODERS = ("gpt2", "llama", "qwen3")
PROMPTS = ("The quick", "北京是中国的", "Language models give a probability to", "a")


def their_continuation(pair, prompt: str, **settings) -> list[int]:
    """Their greedy choice among the tokens that the tokenizer has."""
    ids = torch.tensor([[*pair.tokens.prefix, *pair.tokens.encode([prompt])[0]]])
    unused = list(range(pair.tokens.size, pair.network.config.vocabulary))
    found = pair.theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, suppress_tokens=unused, **settings)
    return found[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_that_of_transformers_token_by_token(pairs, family: str, penalty: float) -> None:
    pair = pairs(family)
    ours = generate(
        pair.network, pair.tokens, PROMPTS, max_new_tokens=20, temperature=0, repetition_penalty=penalty, stop_at_end=False
    )
    for prompt, one in zip(PROMPTS, ours, strict=True):
        theirs = their_continuation(pair, prompt, max_new_tokens=20, eos_token_id=None, repetition_penalty=penalty)
        assert list(one.tokens) == theirs
        assert one.stopped == "length"


@pytest.mark.parametrize("family", DECODERS)
def test_with_a_cache_as_without(pairs, family: str) -> None:
    pair = pairs(family)
    [one] = generate(pair.network, pair.tokens, PROMPTS[0], max_new_tokens=12, temperature=0, stop_at_end=False)
    ids = [*pair.tokens.prefix, *pair.tokens.encode([PROMPTS[0]])[0]]
    for token in one.tokens:
        row = torch.tensor([ids])
        with torch.no_grad():
            hidden = pair.network(Packed(row, torch.ones_like(row), torch.arange(len(ids))[None], whole=True))
        logits = pair.network.logits(hidden[0, -1])[: pair.tokens.size]
        assert int(logits.argmax()) == token
        ids.append(token)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"temperature": 1.2, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2}]
)
@pytest.mark.parametrize("family", DECODERS)
def test_a_batch_gives_what_each_prompt_gives_alone(pairs, family: str, settings: dict) -> None:
    pair = pairs(family)
    together = generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=15, seed=5, **settings)
    alone = [generate(pair.network, pair.tokens, [prompt], max_new_tokens=15, seed=5, **settings)[0] for prompt in PROMPTS]
    assert together == alone


def test_rows_that_stop_early_leave_the_others_as_they_are(pairs) -> None:
    pair = pairs("qwen3")
    free = generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=25, temperature=0, stop_at_end=False)
    end = Counter(free[1].tokens[3:]).most_common(1)[0][0]
    tokens = replace(pair.tokens, suffix=(end,))
    stopped = generate(pair.network, tokens, PROMPTS, max_new_tokens=25, temperature=0)
    for one, whole in zip(stopped, free, strict=True):
        expected = whole.tokens[: whole.tokens.index(end) + 1] if end in whole.tokens else whole.tokens
        assert one.tokens == expected
        assert one.stopped == ("end" if end in whole.tokens else "length")
    assert {one.stopped for one in stopped} == {"end", "length"}
    assert len({len(one.tokens) for one in stopped}) > 1


def test_more_prompts_than_fit_in_a_batch(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("gpt2")
    whole = generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=5, seed=1)
    monkeypatch.setattr("yanmo.generation.ROWS", 3)
    assert generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=5, seed=1) == whole
    monkeypatch.setattr("yanmo.generation.PLACES", 1)
    assert generate(pair.network, pair.tokens, PROMPTS, max_new_tokens=5, seed=1) == whole


def test_the_end_of_text_that_the_model_folder_names_stops_too(pairs) -> None:
    pair = pairs("gpt2")
    free = generate(pair.network, pair.tokens, "The quick", max_new_tokens=10, temperature=0, stop_at_end=False)[0]
    end = free.tokens[4]
    settings = pair.network.config.settings
    pair.network.config = replace(pair.network.config, settings={**settings, "eos_token_id": [9999, end]})
    try:
        one = generate(pair.network, pair.tokens, "The quick", max_new_tokens=10, temperature=0)[0]
    finally:
        pair.network.config = replace(pair.network.config, settings=settings)
    assert one.stopped == "end"
    assert one.tokens == free.tokens[: free.tokens.index(end) + 1]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.9])
@pytest.mark.parametrize("top_k", [0, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.8, 1.0])
def test_scores_are_those_of_transformers_processors(temperature: float, top_k: int, top_p: float) -> None:
    torch.manual_seed(top_k)
    logits, ids = torch.randn(3, 50) * 3, torch.randint(0, 50, (3, 12))
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter_(1, ids, True)
    expected = logits_process.RepetitionPenaltyLogitsProcessor(1.4)(ids, logits.clone())
    expected = logits_process.TemperatureLogitsWarper(temperature)(ids, expected)
    if top_k:
        expected = logits_process.TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = logits_process.TopPLogitsWarper(top_p)(ids, expected)
    assert torch.equal(Sampling(temperature, top_k, top_p, 1.4).scores(logits, seen), expected)


def test_samples_follow_the_distribution() -> None:
    draws = 4000
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0, 0.5])
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    rows = logits.expand(draws, -1)
    chosen = Sampling(0.8, top_k=4).choose(rows, torch.zeros_like(rows, dtype=torch.bool), generators)
    expected = torch.where(logits >= 0, logits / 0.8, float("-inf")).softmax(0) * draws
    found = torch.bincount(torch.tensor(chosen), minlength=6)
    assert found[3] == found[4] == 0
    used = expected > 0
    chi_squared = ((found - expected)[used] ** 2 / expected[used]).sum()
    assert chi_squared < 16.3  # 3 degrees of freedom, p = 0.001


def test_a_choice_is_the_first_token_whose_summed_shares_pass_the_draw() -> None:
    """And so never one without a share, however often tokens are drawn."""
    shares = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    rows, seen = shares.log().expand(300, -1), torch.zeros(300, 6, dtype=torch.bool)
    generators = [torch.Generator().manual_seed(seed) for seed in range(300)]
    draws = [float(torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))) for seed in range(300)]
    expected = [1 if draw < 0.25 else 3 if draw < 0.75 else 4 for draw in draws]
    assert Sampling().choose(rows, seen, generators) == expected


def test_seeds(pairs) -> None:
    pair = pairs("llama")

    def sample(prompts, seed: int) -> list[Generated]:
        return generate(pair.network, pair.tokens, prompts, max_new_tokens=10, temperature=1.5, seed=seed)

    state = torch.random.get_rng_state()
    assert sample("The", 1) == sample("The", 1)
    assert sample("The", 1) != sample("The", 2)
    assert torch.equal(state, torch.random.get_rng_state()), "the global random state is left alone"
    three = sample(["The", "The", "The"], 1)
    assert len({one.tokens for one in three}) == 3, "the same prompt again is another sample"
    assert three[:1] == sample("The", 1)


@pytest.mark.parametrize("family", DECODERS)
def test_streamed_pieces_are_the_whole_text_and_whole_characters(pairs, family: str) -> None:
    pair = pairs(family)
    told: dict[int, list[str]] = {}
    ones = generate(
        pair.network,
        pair.tokens,
        PROMPTS,
        max_new_tokens=40,
        temperature=1.0,
        seed=3,
        on_text=lambda index, piece: told.setdefault(index, []).append(piece),
    )
    for index, one in enumerate(ones):
        assert "".join(told.get(index, [])) == one.text
        prompt = pair.tokens.encode([one.prompt])[0]
        before = pair.tokens.decode(prompt, skip_special=True)
        whole = pair.tokens.decode([*prompt, *one.tokens], skip_special=True)
        if family != "llama" or "\N{REPLACEMENT CHARACTER}" not in whole:  # its decoder drops valid bytes beside a stray one
            assert whole.startswith(before + one.text)
            assert set(whole[len(before + one.text) :]) <= {"\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("family", DECODERS)
def test_a_stream_never_tells_half_a_character(pairs, family: str) -> None:
    tokens = pairs(family).tokens
    text = "龘靐 is 墨水😀, e\u0301tude — done."
    prompt, ids = tokens.encode(["我说："])[0], tokens.encode([text])[0]
    if family == "llama":  # the space it puts before every text
        ids = ids[1:] if tokens.tokenizer.id_to_token(ids[0]) == "▁" else ids
    assert len(ids) > len(text), "most characters take several tokens here"
    stream = TextStream(tokens, [*tokens.prefix, *prompt])
    pieces = [stream.feed(token) for token in ids]
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == text
    assert pieces.count("") > 5
    part = TextStream(tokens, [*tokens.prefix, *prompt])
    shown = "".join(part.feed(token) for token in ids[:2])
    assert text.startswith(shown + part.finish())


def test_positions_are_an_end(pairs) -> None:
    pair = pairs("gpt2")
    length = pair.network.config.length
    [one, short] = generate(pair.network, pair.tokens, ["The quick", "a"], max_new_tokens=1000, temperature=0, stop_at_end=False)
    prompt = len(pair.tokens.encode(["The quick"])[0])
    assert one.stopped == short.stopped == "positions"
    assert len(one.tokens) == length - prompt + 1
    theirs = their_continuation(pair, "The quick", max_new_tokens=length - prompt, eos_token_id=None)
    assert list(one.tokens[:-1]) == theirs


def test_an_empty_prompt_begins_after_the_end_of_a_text(pairs) -> None:
    pair = pairs("gpt2")
    ids = torch.tensor([[pair.tokens.suffix[-1]]])
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
    theirs = pair.theirs.generate(ids, attention_mask=torch.ones_like(ids), suppress_tokens=[*range(330, 337)], **settings)
    [one] = generate(pair.network, pair.tokens, "", max_new_tokens=6, temperature=0, stop_at_end=False)
    assert list(one.tokens) == theirs[0, 1:].tolist()
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generate(pair.network, replace(pair.tokens, suffix=()), "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
    ],
)
def test_settings_that_make_no_sense(pairs, settings: dict, message: str) -> None:
    pair = pairs("gpt2")
    with pytest.raises(UserError, match=message):
        generate(pair.network, pair.tokens, "a", **settings)


def test_a_prompt_longer_than_the_positions(pairs) -> None:
    pair = pairs("gpt2")
    with pytest.raises(UserError, match=r"prompt 2 .* more than the 64 positions"):
        generate(pair.network, pair.tokens, ["a", "字" * 70])


def test_an_encoder_is_refused(pairs) -> None:
    pair = pairs("bert")
    with pytest.raises(UserError, match="use fill"):
        generate(pair.network, pair.tokens, "a")
