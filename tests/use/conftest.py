"""Tiny random models of transformers with tokenizers of their own, saved as transformers saves them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from yanmo.loading import load
from yanmo.models import Network
from yanmo.tokenizer import Tokens
from yanmo.tokenizer.families import FAMILIES, transformers_config

TEXTS = (
    "北京是中国的首都，也是一座古老的城市。今天下午，国务院召开会议。",
    "这家酒店的服务很好，下次还会来！房间干净，早餐也不错。",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Language models give a probability to every sentence; some sentences are likelier than others.",
    "上海与北京之间有高速铁路。Trains between them take 4.5 hours.",
)
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
POSITIONS = 64


def byte_level(family: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=list(FAMILIES[family].tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def byte_fallback(family: str) -> Tokenizer:
    """Llama's kind: a space is ▁, and what the vocabulary lacks is spelled in bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [*FAMILIES[family].tokens, *(f"<0x{byte:02X}>" for byte in range(256))]
    latin = [text for text in TEXTS if text.isascii()]
    tokenizer.train_from_iterator(latin, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = tree["added_tokens"][: len(FAMILIES[family].tokens)]  # bytes are no special tokens
    return Tokenizer.from_str(json.dumps(tree))


def word_piece(family: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = list(FAMILIES[family].tokens)
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False))
    return tokenizer


KINDS: dict[str, Callable[[str], Tokenizer]] = {
    "bert": word_piece,
    "modernbert": word_piece,
    "roberta": byte_level,
    "gpt2": byte_level,
    "llama": byte_fallback,
    "qwen3": byte_level,
    "t5": byte_level,
    "bart": byte_level,
}


def theirs_of(family: str, size: int, ids: dict[str, int]) -> Any:
    """A random model of transformers; its weights are large, so that its choices are far apart."""
    rows = size + 7  # a padded vocabulary
    common = {**SIZE, **ids, "vocab_size": rows, "initializer_range": 0.5}
    grouped = {"num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": POSITIONS}
    made: dict[str, Callable[[], Any]] = {
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**common, max_position_embeddings=POSITIONS)),
        "roberta": lambda: transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(**common, max_position_embeddings=POSITIONS + 2, type_vocab_size=1)
        ),
        "modernbert": lambda: transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(
                **common,
                cls_token_id=ids.get("cls_token_id"),
                max_position_embeddings=POSITIONS,
                local_attention=16,
                global_attn_every_n_layers=2,
            )
        ),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=rows, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, initializer_range=0.5, **ids
            )
        ),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, **grouped)),
        "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common, **grouped, head_dim=8)),
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=rows, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=2.0,
                decoder_start_token_id=ids["pad_token_id"], n_positions=POSITIONS, **ids,
            )
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                vocab_size=rows, d_model=32, init_std=0.5, max_position_embeddings=POSITIONS, forced_eos_token_id=None,
                decoder_start_token_id=ids["eos_token_id"],
                **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
                **{f"{half}_attention_heads": 4 for half in ("encoder", "decoder")},
                **{f"{half}_ffn_dim": 48 for half in ("encoder", "decoder")},
                **ids,
            )
        ),
    }
    torch.manual_seed(1)
    return made[family]().eval()


@dataclass
class Pair:
    """The same model and tokenizer as transformers has them and as we do."""

    folder: Path
    theirs: Any
    tokenizer: Any
    network: Network
    tokens: Tokens


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    torch.set_num_threads(1)
    made: dict[str, Pair] = {}

    def pair(family: str) -> Pair:
        if family not in made:
            made[family] = save_pair(tmp_path_factory.mktemp(family), family)
        return made[family]

    return pair


def save_pair(folder: Path, family: str) -> Pair:
    special = FAMILIES[family]
    tokenizer = KINDS[family](family)
    if special.mask == "<mask>":  # as RoBERTa's own tokenizer: it takes the space before it
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    special.add_processor(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = "wordpiece" if KINDS[family] is word_piece else "other"
    config = {**transformers_config(family, kind, False), "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    names = ("bos_token", "eos_token", "pad_token")
    ids = {f"{role}_id": tokenizer.token_to_id(special.roles[role]) for role in names if role in special.roles}
    theirs = theirs_of(family, tokenizer.get_vocab_size(), ids)
    theirs.save_pretrained(folder)
    network, tokens = load(folder)
    return Pair(folder, theirs, transformers.AutoTokenizer.from_pretrained(folder), network, tokens)
