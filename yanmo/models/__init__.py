"""Networks: each a page of wiring on shared bricks, and a table of names that transformers and we both read."""

from yanmo.models.decoder import Decoder, KeyValueCache
from yanmo.models.encoder import Encoder
from yanmo.models.folder import FAMILIES, build, load, save
from yanmo.models.heads import TaskHead, TaskKind, build_head, load_task, save_task
from yanmo.models.latent import Latent
from yanmo.models.network import Network, NetworkConfig, Special, Stack, StackConfig
from yanmo.models.ngram import NGram, NGramCache
from yanmo.models.recurrent import Recurrent, RecurrentCache
from yanmo.models.seq2seq import Seq2Seq, Seq2SeqConfig, SourceCache
from yanmo.models.vocabulary import grow
from yanmo.models.writers import Writer

__all__ = [
    "FAMILIES",
    "Decoder",
    "Encoder",
    "KeyValueCache",
    "Latent",
    "NGram",
    "NGramCache",
    "Network",
    "NetworkConfig",
    "Recurrent",
    "RecurrentCache",
    "Seq2Seq",
    "Seq2SeqConfig",
    "SourceCache",
    "Special",
    "Stack",
    "StackConfig",
    "TaskHead",
    "TaskKind",
    "Writer",
    "build",
    "build_head",
    "grow",
    "load",
    "load_task",
    "save",
    "save_task",
]
