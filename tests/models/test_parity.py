"""Our networks against transformers' own, made from tiny random configurations, in both directions."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from yanmo.batch import Packed
from yanmo.models import Encoder, load, save

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

BERT = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80, max_position_embeddings=40)
LLAMA = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80, num_key_value_heads=2)
GPT2 = dict(n_embd=48, n_layer=2, n_head=4, n_positions=40)
MODERN = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=72, pad_token_id=0)
SLIDING = dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)
LLAMA3 = dict(rope_type="llama3", rope_theta=10_000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)


@dataclass(frozen=True)
class Case:
    name: str
    settings: dict[str, Any]
    vocabulary: int = 128
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> bool:
        return self.name.endswith("PreTraining")


def case(label: str, name: str, settings: dict[str, Any], vocabulary: int = 128, **changes: Any) -> Any:
    return pytest.param(Case(name, settings, vocabulary, changes), id=label)


CASES = [
    case("bert", "BertForMaskedLM", BERT),
    case("bert-untied", "BertForMaskedLM", BERT, tie_word_embeddings=False),
    case("bert-odd", "BertForMaskedLM", BERT, 101, hidden_act="gelu_new", type_vocab_size=3, layer_norm_eps=1e-3),
    case("bert-pair", "BertForPreTraining", BERT),
    case("bert-pair-untied", "BertForPreTraining", BERT, tie_word_embeddings=False, hidden_act="relu"),
    case("roberta", "RobertaForMaskedLM", BERT),
    case("roberta-pad-5", "RobertaForMaskedLM", BERT, 101, pad_token_id=5, hidden_act="silu"),
    case("roberta-untied", "RobertaForMaskedLM", BERT, tie_word_embeddings=False),
    case("modernbert", "ModernBertForMaskedLM", MODERN),
    case("modernbert-window", "ModernBertForMaskedLM", MODERN, local_attention=8),
    case(
        "modernbert-biases",
        "ModernBertForMaskedLM",
        MODERN,
        attention_bias=True,
        mlp_bias=True,
        norm_bias=True,
        classifier_bias=True,
        classifier_activation="relu",
    ),
    case("modernbert-untied", "ModernBertForMaskedLM", MODERN, tie_word_embeddings=False, decoder_bias=False),
    case("gpt2", "GPT2LMHeadModel", GPT2),
    case("gpt2-odd", "GPT2LMHeadModel", GPT2, 101, n_inner=70, activation_function="relu", tie_word_embeddings=False),
    case("llama", "LlamaForCausalLM", LLAMA),
    case("llama-tied", "LlamaForCausalLM", LLAMA, tie_word_embeddings=True, pad_token_id=0),
    case("llama-biases", "LlamaForCausalLM", LLAMA, 101, attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    case("llama-linear", "LlamaForCausalLM", LLAMA, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    case("llama-llama3", "LlamaForCausalLM", LLAMA, rope_parameters=dict(LLAMA3, original_max_position_embeddings=16)),
    case("mixtral", "MixtralForCausalLM", LLAMA, num_local_experts=4),
    case(
        "mixtral-3-of-5", "MixtralForCausalLM", LLAMA, 101,
        num_local_experts=5, num_experts_per_tok=3, tie_word_embeddings=True,
    ),
    case("mixtral-window", "MixtralForCausalLM", LLAMA, num_local_experts=4, sliding_window=6),
    case("qwen3", "Qwen3ForCausalLM", LLAMA, head_dim=16),
    case("qwen3-tied", "Qwen3ForCausalLM", LLAMA, head_dim=8, tie_word_embeddings=True, attention_bias=True),
    case("qwen3-sliding", "Qwen3ForCausalLM", LLAMA, head_dim=16, **SLIDING),
]


def theirs_of(case: Case) -> Any:
    """A transformers model with every parameter random, so that no bias and no norm can be forgotten."""
    kind = getattr(transformers, case.name)
    torch.manual_seed(7)
    special = {"bos_token_id": 1, "eos_token_id": 2} if "Causal" in case.name or "GPT2" in case.name else {}
    config = kind.config_class(vocab_size=case.vocabulary, **{**special, **case.settings, **case.changes})
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            parameter.normal_(center, 0.1)
    return model


def text(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(6, vocabulary, (3, 30), generator=torch.Generator().manual_seed(3))
    return tokens, torch.arange(30).expand(3, 30)


def their_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(input_ids=tokens)
    return output.prediction_logits if hasattr(output, "prediction_logits") else output.logits


def write(model: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)


def reread(name: str, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_transformers_logits_both_ways(case: Case, tmp_path: Path) -> None:
    model = theirs_of(case)
    tokens, positions = text(case.vocabulary)
    expected = their_logits(model, tokens)
    write(model, tmp_path / "theirs")
    network = load(tmp_path / "theirs").eval()
    for whole in (True, False):
        hidden = network(Packed(tokens, torch.ones_like(tokens), positions, whole=whole))
        torch.testing.assert_close(network.logits(hidden), expected, atol=1e-5, rtol=1e-5)

    save(network, tmp_path / "ours")
    torch.testing.assert_close(their_logits(reread(case.name, tmp_path / "ours"), tokens), expected, atol=1e-6, rtol=1e-6)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    unused = {"cls.predictions.bias", "lm_head.bias"} if not network.config.head.tied else set()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - unused)
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [case.name]
    assert (tmp_path / "ours" / "generation_config.json").exists() == network.continues


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}], ids=["tied", "untied"])
@torch.no_grad()
def test_pair_head_and_token_types(changes: dict[str, Any], tmp_path: Path) -> None:
    model = theirs_of(Case("BertForPreTraining", BERT, changes=changes))
    tokens, positions = text(128)
    types = (positions > 12).long()
    expected = model(input_ids=tokens, token_type_ids=types)
    write(model, tmp_path / "theirs")
    network = load(tmp_path / "theirs").eval()
    assert isinstance(network, Encoder)
    hidden = network(Packed(tokens, torch.ones_like(tokens), positions, types))
    torch.testing.assert_close(network.logits(hidden), expected.prediction_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.pair_logits(hidden[:, 0]), expected.seq_relationship_logits, atol=1e-5, rtol=1e-5)
    save(network, tmp_path / "ours")
    again = reread("BertForPreTraining", tmp_path / "ours")(input_ids=tokens, token_type_ids=types)
    torch.testing.assert_close(again.seq_relationship_logits, expected.seq_relationship_logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("label", ["bert", "roberta", "modernbert-window", "gpt2", "qwen3-sliding"])
@torch.no_grad()
def test_padding_on_the_right_is_their_attention_mask(label: str, tmp_path: Path) -> None:
    case = next(param.values[0] for param in CASES if param.id == label)
    assert isinstance(case, Case)
    model = theirs_of(case)
    tokens, positions = text(case.vocabulary)
    lengths = torch.tensor([30, 17, 4])
    real = (positions < lengths[:, None]).long()
    tokens = torch.where(real > 0, tokens, model.config.pad_token_id or 0)
    expected = model(input_ids=tokens, attention_mask=real).logits
    write(model, tmp_path)
    network = load(tmp_path).eval()
    found = network.logits(network(Packed(tokens, real, positions)))
    torch.testing.assert_close(found[real > 0], expected[real > 0], atol=1e-5, rtol=1e-5)
    assert found.isfinite().all()


@torch.no_grad()
def test_sharded_folder_half_precision_and_old_names(tmp_path: Path) -> None:
    model = theirs_of(Case("BertForMaskedLM", BERT)).to(torch.bfloat16)
    tokens, positions = text(128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    network = load(tmp_path).eval()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    expected = their_logits(model.float(), tokens)
    found = network.logits(network(Packed(tokens, torch.ones_like(tokens), positions, whole=True)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
