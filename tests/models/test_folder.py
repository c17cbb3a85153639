"""Model folders that are not as they should be, and what is said about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from yanmo import recipe
from yanmo.errors import UserError
from yanmo.models import FAMILIES, Special, Stack, build, load, save

torch.set_num_threads(1)
SPECIAL = Special(pad=0, bos=1, eos=2, cls=1, sep=2)
STACKS = [name for name, family in FAMILIES.items() if issubclass(family.network, Stack)]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path, "bert")


def saved(folder: Path, family: str, pair: bool = False) -> Path:
    torch.manual_seed(0)
    model = recipe.Model(family=family, size="tiny")  # type: ignore[arg-type]
    save(build(model, vocabulary=100, length=16, pair=pair, special=SPECIAL), folder)
    return folder


def reweigh(folder: Path, change: Callable[[Weights], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def reset(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("family", STACKS)
def test_saved_and_loaded_is_the_same(family: str, tmp_path: Path) -> None:
    network = build(recipe.Model(family=family, size="tiny"), vocabulary=100, length=16, special=SPECIAL)  # type: ignore[arg-type]
    save(network, tmp_path)
    again = load(tmp_path)
    assert again.config == network.config
    for (name, ours), (_, theirs) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    again.blocks[0].compile(backend="eager")
    save(again, tmp_path / "twice")
    assert (tmp_path / "twice" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert (tmp_path / "twice" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_missing_weights_are_named(folder: Path) -> None:
    reweigh(folder, lambda weights: weights.pop("bert.encoder.layer.1.attention.self.key.bias"))
    with pytest.raises(UserError, match=r"missing: bert\.encoder\.layer\.1\.attention\.self\.key\.bias$"):
        load(folder)


def test_weights_without_a_place_are_named(folder: Path) -> None:
    reweigh(folder, lambda weights: weights.update({"bert.encoder.layer.2.output.dense.bias": torch.zeros(128)}))
    with pytest.raises(UserError, match=r"no place for: bert\.encoder\.layer\.2\.output\.dense\.bias$"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("bert.encoder.layer.0.attention.self.query.weight", [64, 128]), ("cls.predictions.bias", [100])],
)
def test_weights_of_another_shape_are_named_with_both_shapes(folder: Path, name: str, shape: list[int]) -> None:
    reweigh(folder, lambda weights: weights.update({name: torch.zeros(shape)}))
    with pytest.raises(UserError) as error:
        load(folder)
    assert f"{name} is {shape}, the configuration needs" in str(error.value)


def test_transposed_matrices_are_checked_in_their_shape(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    reweigh(tmp_path, lambda weights: weights.update({"transformer.h.0.mlp.c_fc.weight": torch.zeros(512, 128)}))
    with pytest.raises(UserError, match=r"h\.0\.mlp\.c_fc\.weight is \[512, 128\], the configuration needs \[128, 512\]"):
        load(tmp_path)


def test_harmless_extras_pass_and_a_copy_that_differs_does_not(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    buffers = {"bert.embeddings.position_ids": torch.arange(512)[None], "cls.predictions.decoder.weight": table.clone()}
    reweigh(folder, lambda weights: weights.update(buffers))
    load(folder)
    reweigh(folder, lambda weights: weights.update({"cls.predictions.decoder.weight": table + 1}))
    with pytest.raises(UserError, match=r"cls\.predictions\.decoder\.weight differs from bert\.embeddings"):
        load(folder)


def test_a_pooler_without_its_head_is_left_out_and_said(folder: Path) -> None:
    pooler = {"bert.pooler.dense.weight": torch.zeros(128, 128), "bert.pooler.dense.bias": torch.zeros(128)}
    reweigh(folder, lambda weights: weights.update(pooler))
    with pytest.warns(UserWarning, match=r"left out: bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight"):
        assert not load(folder).config.pair


def test_the_pair_head_comes_back(tmp_path: Path) -> None:
    saved(tmp_path, "bert", pair=True)
    assert load(tmp_path).config.pair
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForPreTraining"]


def test_old_names_of_norms_and_names_without_prefix(folder: Path, tmp_path: Path) -> None:
    def age(weights: Weights) -> None:
        for name in [name for name in weights if "LayerNorm" in name]:
            weights[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = (
                weights.pop(name)
            )

    reweigh(folder, age)
    load(folder)
    gpt = saved(tmp_path / "gpt2", "gpt2")

    def strip(weights: Weights) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    reweigh(gpt, strip)
    load(gpt)


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("bert", {"model_type": "mamba"}, "model_type 'mamba' is not known; known: bert, roberta, modernbert, gpt2, llama"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not implemented"),
        ("bert", {"is_decoder": True}, "is_decoder: True is not implemented"),
        ("bert", {"hidden_act": "mish"}, "hidden_act: 'mish' is not implemented; known: gelu"),
        ("bert", {"num_attention_heads": 3}, "width of 128 is not divisible by 3 heads"),
        ("bert", {"vocab_size": None}, "bert needs vocab_size"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not implemented"),
        ("llama", {"num_key_value_heads": 3}, "2 heads are not divisible by 3 key-value heads"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types must be 2 times"),
        ("roberta", {"pad_token_id": None}, "roberta needs pad_token_id"),
    ],
)
def test_settings_that_are_not_implemented_are_refused(family: str, settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    saved(tmp_path, family)
    reset(tmp_path, **settings)
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_settings_that_are_not_known_are_said(folder: Path) -> None:
    reset(folder, embedding_scale=3)
    with pytest.warns(UserWarning, match="settings that bert does not know are left alone: embedding_scale"):
        load(folder)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_half_written_and_missing_files(folder: Path, broken: str) -> None:
    whole = (folder / broken).read_bytes()
    (folder / broken).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=broken):
        load(folder)
    (folder / broken).unlink()
    with pytest.raises(UserError, match="no config.json" if broken == "config.json" else "safetensors only, never from pickles"):
        load(folder)
    with pytest.raises(UserError, match="no model here"):
        load(folder / "nowhere")
