"""The bricks that networks are laid from. Each takes its own small frozen configuration; families differ in that data.

Letters: R rows, T tokens of a row, S places that may be seen, D width, H heads, K key-value heads, W width of a head,
F width inside the feed-forward brick, V vocabulary.
"""

from yanmo.layers.activation import ACTIVATIONS
from yanmo.layers.attention import Attention, AttentionConfig, Memory, attend
from yanmo.layers.block import Block, BlockConfig, CrossBlock
from yanmo.layers.buckets import RelativeBias, RelativeConfig
from yanmo.layers.cross import CrossAttention, Read
from yanmo.layers.embedding import Embedding, EmbeddingConfig, look_up
from yanmo.layers.experts import Experts, experts_of, regularise, regularisers
from yanmo.layers.feedforward import FeedForward, FeedForwardConfig
from yanmo.layers.head import HeadConfig, VocabularyHead
from yanmo.layers.linear import Linear, weight_gradient
from yanmo.layers.norm import NormConfig, build_norm
from yanmo.layers.rotary import RotaryConfig, rotate
from yanmo.layers.routing import ExpertsConfig
from yanmo.layers.start import StartConfig, draw, start_weights
from yanmo.layers.view import View

__all__ = [
    "ACTIVATIONS",
    "Attention",
    "AttentionConfig",
    "Block",
    "BlockConfig",
    "CrossAttention",
    "CrossBlock",
    "Embedding",
    "EmbeddingConfig",
    "Experts",
    "ExpertsConfig",
    "FeedForward",
    "FeedForwardConfig",
    "HeadConfig",
    "Linear",
    "Memory",
    "NormConfig",
    "Read",
    "RelativeBias",
    "RelativeConfig",
    "RotaryConfig",
    "StartConfig",
    "View",
    "VocabularyHead",
    "attend",
    "build_norm",
    "draw",
    "experts_of",
    "look_up",
    "regularise",
    "regularisers",
    "rotate",
    "start_weights",
    "weight_gradient",
]
