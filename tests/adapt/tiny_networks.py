"""Tiny networks of every family that has blocks, and something for them to read."""

import torch

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.models import Seq2Seq, Special, build

torch.set_num_threads(1)
SPECIAL = Special(pad=0, bos=1, eos=2, cls=1, sep=2)
ALL = (
    "bert", "roberta", "modernbert", "electra", "gpt2", "llama", "qwen3", "mixtral", "t5", "bart", "xlnet",
    "bert with experts", "lstm",
)  # fmt: skip


def tiny(family, **model):
    """Two blocks, every weight large enough to matter; T5's scores are not scaled, and steep ones enlarge what is rounded off."""
    torch.manual_seed(1)
    family, _, more = family.partition(" with ")
    given = {"layers": 2, "width": 64, "heads": 2, "feedforward": 96} if family != "lstm" else {"layers": 2, "width": 64}
    given |= model | ({"experts": {"number": 4}} if more else {})
    network = build(recipe.Model(family=family, size="tiny", **given), vocabulary=120, length=64, special=SPECIAL)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if family == "t5" else 0.1))
    return network.eval()


def packed(rows=3, length=24, documents=2, seed=0):
    """Rows of so many documents without padding."""
    tokens = torch.randint(5, 120, (rows, length), generator=torch.Generator().manual_seed(seed))
    size = -(-length // documents)
    places = torch.arange(length).expand(rows, -1)
    return Packed(tokens, (places // size + 1).contiguous(), (places % size).contiguous())


def run(network, batch=None):
    """Hidden states."""
    batch = packed() if batch is None else batch
    return network(batch, batch) if isinstance(network, Seq2Seq) else network(batch)
