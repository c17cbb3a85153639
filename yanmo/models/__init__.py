"""Networks: each a page of wiring on shared bricks, and a table of names that transformers and we both read."""

from yanmo.models.decoder import Decoder, KeyValueCache
from yanmo.models.encoder import Encoder
from yanmo.models.folder import FAMILIES, build, load, save
from yanmo.models.network import Network, NetworkConfig, Special

__all__ = [
    "FAMILIES",
    "Decoder",
    "Encoder",
    "KeyValueCache",
    "Network",
    "NetworkConfig",
    "Special",
    "build",
    "load",
    "save",
]
