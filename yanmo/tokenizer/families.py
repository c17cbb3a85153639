"""Special tokens, in the order of their ids, as each family in transformers expects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, processors

GENERIC_CLASS = "PreTrainedTokenizerFast"
"""The class of transformers that takes tokenizer.json as it is; the families' own classes build their pipeline anew."""


@dataclass(frozen=True)
class Special:
    """Special tokens of a family. `roles` are keys of tokenizer_config.json; `tokens` come first in the vocabulary."""

    tokens: tuple[str, ...]
    roles: dict[str, str]
    single: str | None = None
    pair: str | None = None
    types: bool = False
    """Whether the network takes token_type_ids."""

    @property
    def mask(self) -> str | None:
        return self.roles.get("mask_token")

    def add_processor(self, tokenizer: Tokenizer) -> None:
        """Put the family's special tokens around a text and a pair, as the family was published."""
        if self.single is None:
            return
        used = [(name, tokenizer.token_to_id(name)) for name in self.tokens if name in self.single]
        tokenizer.post_processor = processors.TemplateProcessing(single=self.single, pair=self.pair, special_tokens=used)


BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
BERT_PAIR = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"

FAMILIES = {
    "bert": Special(tuple(BERT_ROLES.values()), BERT_ROLES, "[CLS]:0 $A:0 [SEP]:0", BERT_PAIR, types=True),
    **dict.fromkeys(
        ("electra", "electra-generator"),
        Special(tuple(BERT_ROLES.values()), BERT_ROLES, "[CLS]:0 $A:0 [SEP]:0", BERT_PAIR, types=True),
    ),
    "modernbert": Special(tuple(BERT_ROLES.values()), BERT_ROLES, "[CLS]:0 $A:0 [SEP]:0", BERT_PAIR),
    "roberta": Special(
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        "<s>:0 $A:0 </s>:0",
        "<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0",
    ),
    "gpt2": Special(
        ("<|endoftext|>",),
        {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token", "pad_token")},
    ),
    "llama": Special(
        ("<unk>", "<s>", "</s>", "<pad>"),
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        "<s>:0 $A:0",
        "<s>:0 $A:0 <s>:1 $B:1",
    ),
    "qwen3": Special(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    ),
}


def transformers_config(family: str, kind: str, lowercase: bool) -> dict[str, Any]:
    """tokenizer_config.json, so that AutoTokenizer gives the ids of tokenizer.json whether or not config.json is near."""
    special = FAMILIES[family]
    config: dict[str, Any] = {
        "tokenizer_class": GENERIC_CLASS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"][:: 1 if special.types else 2],
        **special.roles,
    }
    extra = [token for token in special.tokens if token not in special.roles.values()]
    if extra:
        config["additional_special_tokens"] = extra
    if family == "bert" and kind == "wordpiece":
        config |= {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": lowercase,
            "strip_accents": False,
            "tokenize_chinese_chars": True,
        }
    return config
