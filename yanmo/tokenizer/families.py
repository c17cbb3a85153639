"""Special tokens, in the order of their ids, as each family in transformers expects them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
    pads_left: bool = False
    """What stands for a whole text comes last, so that padding must come first."""

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

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mask": (("<mask>",), ("[MASK]",), ("<|mask|>",)),
    "sentinels": (SENTINELS,),
    "modes": (("<mode_R>", "<mode_S>", "<mode_X>"), ("[R]", "[S]", "[X]")),
    "gaps": (
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ),
    "chat": (("<|im_start|>", "<|im_sep|>", "<|im_end|>"),),
    "entities": (("[E1]", "[/E1]", "[E2]", "[/E2]"), ("<e1>", "</e1>", "<e2>", "</e2>")),
}
"""Special tokens that objectives and tasks write into texts, under the names that tokenizers have for them; the first are ours.
UL2's [X] would also be found in Markdown's lists."""


def additions(groups: Iterable[str], known: Collection[str]) -> list[str]:
    """The names that must be added to those known, so that every group is there."""
    lacking = [group for group in groups if not any(set(names) <= set(known) for names in GROUPS[group])]
    return [name for group in lacking for name in GROUPS[group][0]]


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
    "t5": Special(
        ("<pad>", "</s>", "<unk>", *SENTINELS),
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "$A:0 </s>:0",
        "$A:0 </s>:0 $B:0 </s>:0",
    ),
    "xlnet": Special(
        ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"),
        {
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "cls_token": "<cls>",
            "sep_token": "<sep>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        "$A:0 <sep>:0 <cls>:2",
        "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        pads_left=True,
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


FAMILIES["mixtral"] = FAMILIES["llama"]
FAMILIES["bart"] = FAMILIES["roberta"]
FAMILIES["vae"] = FAMILIES["llama"]  # texts that begin and end, and words that can be hidden
FAMILIES["lstm"] = FAMILIES["ngram"] = FAMILIES["llama"]


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
    if special.pads_left:
        config["padding_side"] = "left"
    if family == "bert" and kind == "wordpiece":
        config |= {
            "tokenizer_class": "BertTokenizerFast",
            "do_lower_case": lowercase,
            "strip_accents": False,
            "tokenize_chinese_chars": True,
        }
    return config
