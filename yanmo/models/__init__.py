"""Networks: each a page of wiring on shared bricks, and a table of names that transformers and we both read."""

from yanmo.models.decoder import Decoder, KeyValueCache
from yanmo.models.encoder import Encoder
from yanmo.models.folder import FAMILIES, build, load, save
from yanmo.models.network import Network, NetworkConfig, Special, Stack, StackConfig
from yanmo.models.seq2seq import Seq2Seq, Seq2SeqConfig, SourceCache

__all__ = [
    "FAMILIES",
    "Decoder",
    "Encoder",
    "KeyValueCache",
    "Network",
    "NetworkConfig",
    "Seq2Seq",
    "Seq2SeqConfig",
    "SourceCache",
    "Special",
    "Stack",
    "StackConfig",
    "build",
    "load",
    "save",
]
