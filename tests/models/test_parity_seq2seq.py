"""Encoder-decoders against transformers' own, made from tiny random configurations, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_parity import Case, case, reread, theirs_of, write

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import RelativeBias, RelativeConfig
from yanmo.layers.buckets import spread
from yanmo.models import Seq2Seq, load, save

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

T5 = dict(d_model=48, d_kv=8, d_ff=80, num_layers=2, num_heads=4, relative_attention_max_distance=20)
BART = dict(d_model=48, max_position_embeddings=40, **{f"{half}_layers": 2 for half in ("encoder", "decoder")})
BART |= {f"{half}_{what}": size for half in ("encoder", "decoder") for what, size in (("attention_heads", 4), ("ffn_dim", 80))}
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)

CASES = [
    case("t5-1.0", "T5ForConditionalGeneration", T5),
    case("t5-1.1", "T5ForConditionalGeneration", T5, **GATED),
    case("t5-1.1-tied", "T5ForConditionalGeneration", T5, **GATED),
    case("t5-odd", "T5ForConditionalGeneration", T5, 101, num_decoder_layers=3, d_kv=10, feed_forward_proj="gated-silu"),
    case("bart", "BartForConditionalGeneration", BART),
    case("bart-odd", "BartForConditionalGeneration", BART, 101, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64,
         activation_function="relu", pad_token_id=5),
]


def model_of(label: str) -> tuple[Case, Any]:
    """A random model; only 1.1 as it was published has a matrix of its own for the scores."""
    made = next(param.values[0] for param in CASES if param.id == label)
    assert isinstance(made, Case)
    model = theirs_of(made)
    if label == "t5-1.1":
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    return made, model


def texts(vocabulary: int) -> tuple[torch.Tensor, ...]:
    """Padded sources and targets, and where they are real."""
    generator = torch.Generator().manual_seed(3)
    source, target = (torch.randint(6, vocabulary, (3, length), generator=generator) for length in (30, 22))
    rows = zip((source, target), ([30, 17, 4], [3, 22, 9]), strict=True)
    real = [(torch.arange(text.shape[1]) < torch.tensor(lengths)[:, None]).long() for text, lengths in rows]
    return source * real[0], target * real[1], *real


def packed(tokens: torch.Tensor, real: torch.Tensor) -> Packed:
    return Packed(tokens, real, torch.arange(tokens.shape[1]).expand_as(tokens), whole=bool(real.all()))


@torch.no_grad()
def their_results(model: Any, source: Any, target: Any, here: Any, there: Any) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(input_ids=source, attention_mask=here, decoder_input_ids=target, decoder_attention_mask=there)
    return output.encoder_last_hidden_state, output.logits


@pytest.mark.parametrize("label", [param.id for param in CASES])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_hidden_states_and_logits_are_theirs_both_ways(label: str, padded: bool, tmp_path: Path) -> None:
    made, model = model_of(label)
    source, target, here, there = texts(made.vocabulary)
    if not padded:
        source, target, here, there = source[:1], target[1:2], here[:1], there[1:2]
    write(model, tmp_path / "theirs")
    network = load(tmp_path / "theirs").eval()
    assert isinstance(network, Seq2Seq)
    expected = their_results(model, source, target, here, there)

    hidden = network.encode(packed(source, here))
    torch.testing.assert_close(hidden[here > 0], expected[0][here > 0], atol=1e-5, rtol=1e-5)
    logits = network.logits(network(packed(source, here), packed(target, there)))
    torch.testing.assert_close(logits[there > 0], expected[1][there > 0], atol=1e-5, rtol=1e-5)
    assert logits.isfinite().all()

    save(network, tmp_path / "ours")
    again = their_results(reread("AutoModelForSeq2SeqLM", tmp_path / "ours"), source, target, here, there)
    for found, wanted in zip(again, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    theirs.pop("final_logits_bias", None)                 # zeros that stand for nothing
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [made.name]


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (32, 20), (8, 50), (6, 100)])
def test_buckets_are_theirs(both_ways: bool, buckets: int, farthest: int) -> None:
    distances = torch.arange(-700, 701)
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(distances, both_ways, buckets, farthest)
    assert torch.equal(RelativeConfig(1, buckets, farthest, both_ways).bucket(distances), theirs)


@torch.no_grad()
def test_the_bias_is_theirs() -> None:
    config = transformers.T5Config(num_heads=3, d_model=24, d_kv=8, relative_attention_max_distance=30)
    theirs = transformers.models.t5.modeling_t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    brick = RelativeBias(RelativeConfig(3, 32, 30, both_ways=True))
    brick.table.weight.copy_(theirs.relative_attention_bias.weight)
    torch.testing.assert_close(spread(brick(50), 50, 50), theirs.compute_bias(50, 50), atol=0, rtol=0)


def test_t5_1_1_as_it_was_published_says_so_itself(tmp_path: Path) -> None:
    """Before version 5 of transformers only tie_word_embeddings said that scores are not scaled."""
    _, model = model_of("t5-1.1")
    write(model, tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    assert settings["tie_word_embeddings"], "what transformers 5 writes"
    assert load(tmp_path).config.head.scale == 1
    settings |= {"tie_word_embeddings": False}
    del settings["scale_decoder_outputs"]
    path.write_text(json.dumps(settings))
    network = load(tmp_path)
    assert not network.head.tied
    assert network.config.head.scale == 1


def test_generation_is_told_where_to_begin(tmp_path: Path) -> None:
    _, model = model_of("bart")
    write(model, tmp_path / "theirs")
    save(load(tmp_path / "theirs"), tmp_path / "ours")
    told = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert told == {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2}
    assert reread("AutoModelForSeq2SeqLM", tmp_path / "ours").generation_config.decoder_start_token_id == 2


@pytest.mark.parametrize(
    ("label", "changes", "words"),
    [
        ("t5-1.0", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj: 'gated-mish' is not implemented; known: gelu"),
        ("t5-1.0", {"feed_forward_proj": "half-relu"}, "feed_forward_proj: 'half-relu' is not implemented"),
        ("t5-1.0", {"dense_act_fn": "silu"}, "dense_act_fn: 'silu' contradicts feed_forward_proj 'relu'"),
        ("t5-1.0", {"is_gated_act": True}, "is_gated_act: True contradicts feed_forward_proj 'relu'"),
        ("t5-1.0", {"pad_token_id": None}, "decoder_start_token_id: None is no token of this vocabulary"),
        ("t5-1.0", {"decoder_start_token_id": 128}, "decoder_start_token_id: 128 is no token"),
        ("t5-1.0", {"is_decoder": True}, "is_decoder: True is not implemented for t5"),
        ("t5-1.0", {"tie_word_embeddings": False}, "missing: lm_head.weight"),
        ("t5-1.0", {"num_decoder_layers": 3}, "missing: decoder.block.2.layer.0.SelfAttention.k.weight"),
        ("t5-1.0", {"num_layers": 1}, "no place for: .*encoder.block.1.layer.0"),
        ("bart", {"scale_embedding": True}, "scale_embedding: True is not implemented for bart"),
        ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings: False is not implemented for bart"),
        ("bart", {"encoder_layerdrop": 0.1}, "encoder_layerdrop: 0.1 is not implemented for bart"),
        ("bart", {"activation_function": "mish"}, "activation_function: 'mish' is not implemented"),
        ("bart", {"decoder_attention_heads": 5}, "width of 48 is not divisible by 5 heads"),
    ],
)
def test_settings_that_do_not_fit_are_named(label: str, changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    _, model = model_of(label)
    write(model, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_a_bias_of_the_scores_that_was_learned_is_refused(tmp_path: Path) -> None:
    _, model = model_of("bart")
    model.final_logits_bias[0, 3] = 1
    write(model, tmp_path)
    with pytest.raises(UserError, match="final_logits_bias is not zero"):
        load(tmp_path)


@torch.no_grad()
def test_a_bart_without_its_head_is_a_bart(tmp_path: Path) -> None:
    _, model = model_of("bart")
    write(model.model, tmp_path)
    source, target, here, there = texts(128)
    network = load(tmp_path).eval()
    found = network.logits(network(packed(source, here), packed(target, there)))
    expected = their_results(model, source, target, here, there)[1]
    torch.testing.assert_close(found[there > 0], expected[there > 0], atol=1e-5, rtol=1e-5)
