"""Opening a model folder, and what is said when it is none."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.loading import load
from yanmo.models import save
from yanmo.tokenizer import save_tokenizer

FAMILIES = ("bert", "roberta", "modernbert", "gpt2", "llama", "qwen3")


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_folders_and_ours_give_the_same_scores(pairs, family: str, tmp_path: Path) -> None:
    pair = pairs(family)
    row = torch.tensor([pair.tokens.encode(["The quick brown fox."])[0]])
    packed = Packed(row, torch.ones_like(row), torch.arange(row.shape[1])[None], whole=True)
    save(pair.network, tmp_path)
    save_tokenizer(pair.tokens, tmp_path)
    network, tokens = load(tmp_path)
    assert not network.training
    assert tokens.hash == pair.tokens.hash
    with torch.no_grad():
        theirs = pair.theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits
        for one in (pair.network, network):
            torch.testing.assert_close(one.logits(one(packed)), theirs, atol=1e-4, rtol=1e-4)


def test_a_missing_folder_names_the_models_that_are_there(pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "runs" / "mine" / "pretrain" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"elsewhere/deep: no such folder. Models found: runs/mine/pretrain/model\."):
        load("elsewhere/deep")
    for near in ("runs", "runs/mine", "runs/other", "runs/mine/pretrain", tmp_path, "runs/mine/pretrain/modell"):
        with pytest.raises(UserError, match=r"Models found: \S*runs/mine/pretrain/model\."):
            load(near)
    with pytest.raises(UserError, match="holds mine"):
        load("runs")
    with pytest.raises(UserError, match="is a file; a model is a folder"):
        load(model / "config.json")


def test_where_there_is_no_model_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "far" / "away"                     # other tests leave models beside tmp_path
    alone.mkdir(parents=True)
    monkeypatch.chdir(alone)
    with pytest.raises(UserError, match=r"it holds nothing\)\. Train one with `yanmo run RECIPE`"):
        load(alone)


def test_a_tokenizer_of_another_model_is_refused(pairs, tmp_path: Path) -> None:
    save(pairs("gpt2").network, tmp_path)
    with pytest.raises(UserError, match="no tokenizer can be read"):
        load(tmp_path)
    Tokenizer(models.WordLevel({f"w{n}": n for n in range(999)}, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="999 ids and the network only 337"):
        load(tmp_path)
