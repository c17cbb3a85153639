"""Tokenizers: trained on a person's text or loaded, and texts as tokens with the starts of sentences and whole words."""

from yanmo.tokenizer.encoding import Encoded, encode_documents
from yanmo.tokenizer.extending import extended, pieces_of
from yanmo.tokenizer.tokens import Tokens, load_tokenizer, save_tokenizer
from yanmo.tokenizer.training import adopt_tokenizer, train_tokenizer, with_needed

__all__ = [
    "Encoded",
    "Tokens",
    "adopt_tokenizer",
    "encode_documents",
    "extended",
    "load_tokenizer",
    "pieces_of",
    "save_tokenizer",
    "train_tokenizer",
    "with_needed",
]
