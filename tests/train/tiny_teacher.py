"""A teacher with a tokenizer of its own, for students of the same family."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, processors

from yanmo.models import build, save
from yanmo.recipe import Model
from yanmo.tokenizer import load_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def teacher_in(folder: Path, family: str, vocabulary: int, length: int):
    """Write an untrained network and a tokenizer of `vocabulary` words into a folder; returns the tokenizer."""
    names = [*SPECIAL, *(f"w{number}" for number in range(vocabulary - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    torch.manual_seed(1)
    model = Model.model_validate({"family": family, "layers": 2, "width": 48, "heads": 2, "feedforward": 64})
    save(build(model, vocabulary=vocabulary, length=length), folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    roles = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return load_tokenizer(folder)
