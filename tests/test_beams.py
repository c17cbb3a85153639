"""Beam search: the texts and scores of transformers' generate, the best text that there is, and no more rows than are open."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

import yanmo
from yanmo import beams, models
from yanmo.batch import Packed
from yanmo.beams import Beam, BeamSettings, beam_search, groups
from yanmo.errors import UserError
from yanmo.models import Network, NGram, Seq2Seq
from yanmo.models.writers import compact
from yanmo.recipe import Model
from yanmo.scoring import packed_rows
from yanmo.tokenizer import Tokens, save_tokenizer

torch.set_num_threads(1)
VOCABULARY, PAD, START, END = 64, 0, 1, 2
ENDS = (END, 7, 13, 29, 35, 44)
TEXTS = [[5, 9, 33, 12, 8], [8, 8, 40], [17, 3, 21, 60, 11, 30, 5, 9, 33], [50, 41]]
FAMILIES = ("gpt2", "llama", "t5", "bart")
OURS = (*FAMILIES, "lstm", "ngram")


def theirs_of(family: str) -> Any:
    """A random model whose choices are so near to one another that beams compete, and that often ends texts."""
    common = {"vocab_size": VOCABULARY, "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    stack = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
    halves = {f"{half}_{part}": size for half in ("encoder", "decoder") for part, size in sizes.items()}
    made: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.25, **common)
        ),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.35, **stack, **common
            )
        ),
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=1.0, n_positions=64,
                decoder_start_token_id=PAD, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **common,
            )
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                d_model=32, init_std=0.12, max_position_embeddings=64, decoder_start_token_id=END, forced_eos_token_id=None,
                **halves, **common,
            )
        ),
    }  # fmt: skip
    torch.manual_seed(3)
    model = made[family]().eval()
    if family == "t5":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.35)
    return model


class Texts:
    """Documents that an n-gram model counts."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.texts = [rng.integers(3, VOCABULARY, 12).astype(np.uint16) for _ in range(300)]
        self.lengths = np.full(300, 12)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, document: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.texts[document], np.zeros(1, np.int64), np.zeros(1, np.int64)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """transformers' model, where there is one, and ours."""

    @cache
    def made(family: str) -> tuple[Any, Network]:
        if family not in FAMILIES:
            torch.manual_seed(3)
            network = models.build(Model(family=family, size="tiny"), vocabulary=VOCABULARY, length=64)
            if isinstance(network, NGram):
                network.count(Texts(), [START], [END])
            return None, network.eval()
        theirs, folder = theirs_of(family), tmp_path_factory.mktemp(family)
        theirs.save_pretrained(folder)
        return theirs, models.load(folder).eval()

    return made


def search(network: Any, settings: BeamSettings, texts: Any = TEXTS, new: int = 12, ends: Any = ENDS) -> list[list[Beam]]:
    return beam_search(network, texts, settings, max_new_tokens=new, ends=ends, pad=PAD)


def test_settings_are_passed_on_in_their_order() -> None:
    assert BeamSettings(3, 0.5, True, 2, 1, 3) == BeamSettings(
        beams=3, length_penalty=0.5, early_stopping=True, no_repeat_ngram_size=2, min_new_tokens=1, best=3
    )


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty", "no_repeat", "least"),
    [(False, 1.0, 0, 0), (False, -0.7, 2, 0), (True, 1.0, 0, 3), (True, 0.0, 1, 0), ("never", 1.0, 0, 0), ("never", 2.0, 2, 5)],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_and_scores_are_those_of_transformers(
    pair, family: str, early_stopping: Any, length_penalty: float, no_repeat: int, least: int
) -> None:
    theirs, network = pair(family)
    ours = search(network, BeamSettings(4, length_penalty, early_stopping, no_repeat, least, best=3))
    for text, found in zip(TEXTS, ours, strict=True):
        ids = torch.tensor([text])
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=4, num_return_sequences=3, length_penalty=length_penalty,
            early_stopping=early_stopping, no_repeat_ngram_size=no_repeat, min_new_tokens=least or None, max_new_tokens=12,
            do_sample=False, eos_token_id=list(ENDS), return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        begin = 1 if isinstance(network, Seq2Seq) else len(text)
        for one, row, score in zip(found, expected.sequences[:, begin:].tolist(), expected.sequences_scores, strict=True):
            end = next((place for place, token in enumerate(row) if token in ENDS), len(row) - 1)
            assert one.tokens == tuple(row[: end + 1])
            assert one.score == pytest.approx(float(score), abs=1e-4)
            assert one.ended == (one.tokens[-1] in ENDS)


@torch.no_grad()
def log_probability(network: Any, text: list[int], written: tuple[int, ...]) -> float:
    """Of what is written, by one pass without any cache."""

    def packed(ids: list[int]) -> Packed:
        return packed_rows([ids], PAD, torch.device("cpu"))

    if isinstance(network, Seq2Seq):
        hidden = network(packed(text), packed([network.config.decoder_start, *written[:-1]]))[0]
    else:
        hidden = network(packed([*text, *written[:-1]]))[0, len(text) - 1 :]
    return float(network.logits(hidden).log_softmax(-1).gather(1, torch.tensor(written)[:, None]).sum())


@pytest.mark.parametrize("family", OURS)
def test_a_score_is_what_one_pass_over_the_text_gives(pair, family: str) -> None:
    """So keys, values and states have followed their beams, whatever was copied where and whoever left."""
    _, network = pair(family)
    found = search(network, BeamSettings(5, 0.6, best=5))
    lengths = {len(one.tokens) for ones in found for one in ones}
    assert len(lengths) > 2 or family == "lstm"
    for text, ones in zip(TEXTS, found, strict=True):
        assert len(ones) == 5 == len({one.tokens for one in ones})
        assert [one.score for one in ones] == sorted((one.score for one in ones), reverse=True)
        for one in ones:
            assert one.score == pytest.approx(log_probability(network, text, one.tokens) / len(one.tokens) ** 0.6, abs=2e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("family", OURS)
def test_with_a_beam_for_every_text_the_best_of_all_is_found(pair, family: str, length_penalty: float) -> None:
    _, network = pair(family)
    tokens, new, ends = 5, 3, (END,)
    [found] = beam_search(
        network, TEXTS[1:2], BeamSettings(tokens**new, length_penalty, "never", best=100), max_new_tokens=new, ends=ends, pad=PAD,
        tokens=tokens,
    )  # fmt: skip
    open_ones = [token for token in range(tokens) if token != END]
    every = [
        (*start, last)
        for length in range(new)
        for start in itertools.product(open_ones, repeat=length)
        for last in (range(tokens) if length == new - 1 else ends)
    ]
    scored = sorted(((log_probability(network, TEXTS[1], one) / len(one) ** length_penalty, one) for one in every), reverse=True)
    assert len(found) == len(every) == 1 + 4 + 16 * 5
    assert found[0].score == pytest.approx(scored[0][0], abs=1e-4)
    for one, (score, _) in zip(found, scored, strict=True):
        assert one.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("family", OURS)
def test_a_source_gives_what_it_gives_alone(pair, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = pair(family)
    settings = BeamSettings(3, best=2)
    together = search(network, settings)
    for rows, places in ((6, 1 << 16), (256, 1)):
        monkeypatch.setattr(beams, "ROWS", rows)
        monkeypatch.setattr(beams, "PLACES", places)
        for whole, apart in zip(together, search(network, settings), strict=True):
            assert [one.tokens for one in whole] == [one.tokens for one in apart]
            assert [one.score for one in whole] == pytest.approx([one.score for one in apart], abs=1e-5)


def test_sources_leave_when_they_are_done_and_are_read_once(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = pair("t5")
    rows, reads = [], []
    go_on = beams.go_on

    def watched(network: Any, cache: Any, tokens: torch.Tensor) -> torch.Tensor:
        rows.append(len(tokens))
        reads.append({keys.shape[0] for keys, _ in cache.reads})
        return go_on(network, cache, tokens)

    monkeypatch.setattr(beams, "go_on", watched)
    found = search(network, BeamSettings(3, early_stopping=True), new=30)
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 2
    assert reads == [{count // 3} for count in rows]
    assert len({len(ones[0].tokens) for ones in found}) > 1


def test_groups_are_of_about_the_same_length_and_bounded() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, 200).tolist()
    made = list(groups(lengths, 16, 600))
    assert sorted(itertools.chain(*made)) == list(range(200))
    for group in made:
        assert len(group) <= 16
        assert len(group) * max(lengths[index] for index in group) <= 600
    assert [lengths[index] for group in made for index in group] == sorted(lengths)
    assert list(groups([1000, 3], 16, 600)) == [[1], [0]]


def test_those_that_go_on_mostly_stay_where_they_are() -> None:
    for going in itertools.product([False, True], repeat=7):
        order = compact(going)
        assert sorted(order) == [place for place, stays in enumerate(going) if stays]
        assert all(order[place] == place for place in range(len(order)) if going[place])


def test_no_run_comes_twice(pair) -> None:
    _, network = pair("llama")
    text = [5, 9, 5]
    [found] = search(network, BeamSettings(4, no_repeat_ngram_size=2, best=4), [text], 30, ())
    for one in found:
        pairs = list(itertools.pairwise([*text, *one.tokens]))
        assert len(pairs) == len(set(pairs))
    assert search(network, BeamSettings(2, no_repeat_ngram_size=1), [list(range(3, 40))], 27, ())[0][0].tokens
    assert not search(network, BeamSettings(2, no_repeat_ngram_size=1), [list(range(VOCABULARY - 3))], 4, ())[0]


def test_positions_bound_a_text(pair) -> None:
    _, network = pair("bart")
    [[one]] = search(network, BeamSettings(2), TEXTS[:1], 500, ())
    assert len(one.tokens) == network.config.length
    assert not one.ended


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams 0: it must be at least 1"),
        ({"best": 5}, "best 5: a search with 4 beams finds no more texts"),
        ({"early_stopping": "yes"}, "early_stopping 'yes'"),
        ({"length_penalty": float("nan")}, "length_penalty nan"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size -1"),
        ({"min_new_tokens": 20}, "max_new_tokens 12: .* at least min_new_tokens 20"),
    ],
)
def test_settings_that_make_no_sense(pair, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(pair("gpt2")[1], BeamSettings(**settings))


def words() -> Tokens:
    names = ["<pad>", "<s>", "</s>", *(f"w{number}" for number in range(3, VOCABULARY))]
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    return Tokens.from_json(tokenizer.to_str().encode(), {"eos_token": "</s>", "pad_token": "<pad>"})


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_generate_searches_and_gives_results_in_order(pair, family: str) -> None:
    _, network = pair(family)
    tokens = words()
    ids = [[*text, END] if family == "t5" else text for text in TEXTS]
    expected = search(network, BeamSettings(3), ids, ends=(END,))
    prompts = [" ".join(f"w{token}" for token in text) for text in TEXTS]
    told: dict[int, str] = {}
    written = yanmo.generate(network, tokens, prompts, beams=3, max_new_tokens=12, on_text=lambda n, text: told.update({n: text}))
    assert [one.tokens for one in written] == [ones[0].tokens for ones in expected]
    assert [one.score for one in written] == [ones[0].score for ones in expected]
    assert [one.prompt for one in written] == prompts
    assert all(one.text.split() == [f"w{token}" for token in one.tokens if token > 2] for one in written)
    by_ids = yanmo.generate(network, tokens, ids, beams=BeamSettings(3), max_new_tokens=12)
    assert [one.tokens for one in by_ids] == [one.tokens for one in written]
    more = yanmo.generate(network, tokens, ids, beams=3, max_new_tokens=12, ends=ENDS)
    assert [one.tokens for one in more] == [ones[0].tokens for ones in search(network, BeamSettings(3), ids)]
    assert {one.stopped for one in more} >= {"end"}
    with pytest.raises(UserError, match="a beam search draws nothing"):
        yanmo.generate(network, tokens, prompts, beams=3, temperature=0.7)
    once = BeamSettings(2, no_repeat_ngram_size=1, min_new_tokens=70)
    with pytest.raises(UserError, match="prompt 1: everything is forbidden"):
        yanmo.generate(network, tokens, [list(range(3, 20))], beams=once, max_new_tokens=80)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_many_prompts_are_continued_shortest_first_and_come_back_in_order(pair, family: str, monkeypatch) -> None:
    from yanmo import generation

    _, network = pair(family)
    tokens, rng = words(), np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, size).tolist() for size in rng.integers(1, 20, 24)]
    sizes: list[list[int]] = []
    begin = generation.begin

    def watched(network: Any, beginnings: Any, places: int, pad: int, source: Packed | None) -> Any:
        sizes.append((source.documents.sum(1) if source else torch.tensor([len(ids) for ids in beginnings])).tolist())
        return begin(network, beginnings, places, pad, source)

    alone = [yanmo.generate(network, tokens, [prompt], max_new_tokens=6, temperature=0)[0].tokens for prompt in prompts]
    monkeypatch.setattr(generation, "begin", watched)
    monkeypatch.setattr(generation, "ROWS", 8)
    written = yanmo.generate(network, tokens, prompts, max_new_tokens=6, temperature=0)
    assert [one.tokens for one in written] == alone
    assert [len(group) for group in sizes] == [8] * 3
    assert [size for group in sizes for size in group] == sorted(map(len, prompts))


def test_the_command_line_searches(pair, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from yanmo.cli import app

    network, tokens = pair("t5")[1], words()
    models.save(network, tmp_path)
    save_tokenizer(tokens, tmp_path)
    words_of = ["generate", str(tmp_path), "-p", "w5 w9", "-p", "w8", "--tokens", "6", "--beams", "3", "--length-penalty", "2"]
    settings = BeamSettings(3, length_penalty=2)
    written = yanmo.generate(network, tokens, ["w5 w9", "w8"], beams=settings, max_new_tokens=6)
    shown = CliRunner().invoke(app, words_of)
    assert shown.output.splitlines() == [f"— {one.prompt} → {one.text}" for one in written]
    for wrong, message in ((["--temperature", "0.5"], "draws nothing"), (["--beams", "1"], "is for a search with --beams 2")):
        assert message in str(CliRunner().invoke(app, [*words_of, *wrong]).exception)
