"""Pretraining speed and memory against transformers, on this machine, both sides in one run.

    python benchmarks/pretraining_speed.py [--family bert gpt2] [--rounds 3] [--layers 4 --width 512 --rows 32 --length 256]

Every side is a process of its own, and the sides take turns round after round, so that a slow minute of a shared machine hits
all of them. A side's figure is the median of its steps; what is reported is the median over the rounds and, for ratios, the
median and the range of the rounds' own ratios. The work is the same: rows that are full, one document a row, AdamW, gradients
clipped to 1, 15% of the tokens masked (bert), every next token (gpt2), one token in six in a random order (xlnet), a
discriminator that judges every token beside a generator a quarter as wide that fills 15% in, on shared embeddings (electra), or
15% taken out of the sources in spans of 3 and written as targets, both counted (t5 1.1). Ours runs through the trainer itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

VOCABULARY = 21_128
WARM_UP = 2
SIDES = ("ours", "ours muon", "transformers fp32", "transformers bf16", "transformers bf16 compile")


class WithLoss(NamedTuple):
    loss: Any


def main() -> None:
    options = _options()
    if options.side:
        print(json.dumps(_measure(options)))
        return
    for family in options.family:
        rounds = [{side: _in_process(side, family) for side in SIDES} for _ in range(options.rounds)]
        _print(family, rounds, options)


def _print(family: str, rounds: list[dict[str, dict[str, float]]], options: argparse.Namespace) -> None:
    size = f"{options.layers} x {options.width}, vocabulary {VOCABULARY}, {options.rows} rows of {options.length}"
    print(f"\n{family}: {size}, {options.rounds} rounds")
    print(f"{'':28}{'tokens/s':>10}{'range':>16}{'ours is faster by':>24}{'peak MB':>10}")
    for side in SIDES:
        speeds = [one[side]["tokens_per_second"] for one in rounds]
        ratios = [one["ours"]["tokens_per_second"] / one[side]["tokens_per_second"] for one in rounds]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        memory = median(one[side]["peak_megabytes"] for one in rounds)
        print(f"{side:28}{median(speeds):>10,.0f}{f'{min(speeds):,.0f}-{max(speeds):,.0f}':>16}{ratio:>24}{memory:>10,.0f}")
    shares = [one["ours"]["share_of_matrix_rate"] for one in rounds]
    spread = f"{min(shares):.0%} to {max(shares):.0%}"
    print(f"ours reaches {median(shares):.0%} ({spread}) of the bf16 rate of matrix products of its shapes")


def _in_process(side: str, family: str) -> dict[str, float]:
    """One side measured in a process of its own."""
    command = [sys.executable, __file__, "--side", side, *sys.argv[1:], "--family", family]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measure(options: argparse.Namespace) -> dict[str, float]:
    run = _ours if options.side.startswith("ours") else _transformers
    found = run(options)
    found["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _ours(options: argparse.Namespace) -> dict[str, float]:
    """The trainer on rows that are each one document of random tokens."""
    import numpy as np
    import torch

    from yanmo import models, recipe
    from yanmo.batch import Order
    from yanmo.memory import keep_freed_memory
    from yanmo.models.network import Special
    from yanmo.objectives import build_objective
    from yanmo.speed import inner_width, matrix_rate, work_per_token
    from yanmo.train import Trainer

    keep_freed_memory()
    family = options.family[0]
    text = {
        "model": {"family": family, "layers": options.layers, "width": options.width},
        "training": {"steps": WARM_UP + options.steps, "rows": options.rows, "length": options.length, "validate_every": 10**6},
        "objective": {"unit": "token"} if family in ("bert", "electra") else {},
    }
    text["training"]["optimizer"] = "muon" if options.side == "ours muon" else "adamw"
    if options.micro_rows:
        text["training"]["micro_rows"] = options.micro_rows
    if options.compile:
        text["training"]["compile"] = True
    settings = recipe.parse_recipe(text, "benchmark")
    tokens = _RandomTokens(family)
    network = models.build(settings.model, vocabulary=VOCABULARY, length=options.length, special=Special(pad=0))
    objective = build_objective(settings, network, tokens)  # type: ignore[arg-type]
    documents = _RandomDocuments(objective.room(options.length), options.rows * 4)
    order = Order(documents, options.length, objective, 0)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(objective, order, None, settings.training, Path(folder), say=lambda sentence: None).fit()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    speed = median(line["tokens_per_second"] for line in lines[WARM_UP:])
    targets = settings.objective.rate if settings.objective.kind in ("masked", "replaced", "permuted") else 1.0
    if family == "t5":
        targets = _target_length(options.length) / (options.length + _target_length(options.length))
    work = sum(work_per_token(one, options.length, targets) for one in (network, *objective.companions().values()))
    inner = inner_width(network)
    tokens_at_once = (options.micro_rows or 8) * options.length
    rate = matrix_rate(torch.device("cpu"), torch.bfloat16, tokens_at_once, options.width, inner)
    assert np.isfinite(speed)
    return {"tokens_per_second": speed, "share_of_matrix_rate": speed * work / rate}


class _RandomTokens:
    """What an objective asks of a tokenizer, for ids without text."""

    def __init__(self, family: str):
        self.size, self.pad, self.unknown, self.special = VOCABULARY, 0, 1, frozenset(range(5))
        bert = family in ("bert", "electra")
        self.prefix, self.suffix = ((2,), (3,)) if bert else ((), (3,))
        self.separator, self.mask = 3, 4 if bert else None

    def group(self, name: str) -> list[int]:
        return list(range(VOCABULARY - 100, VOCABULARY)) if name == "sentinels" else []


class _RandomDocuments:
    """Documents of one length."""

    def __init__(self, length: int, count: int):
        import numpy as np

        self.lengths = np.full(count, length)
        self._rng = np.random.default_rng(0)
        self._tokens = self._rng.integers(5, VOCABULARY, (count, length)).astype(np.uint16)
        self._sentences, self._words = np.zeros(1, np.uint32), np.arange(length, dtype=np.uint32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, document: int) -> Any:
        return self._tokens[document], self._sentences, self._words


def _transformers(options: argparse.Namespace) -> dict[str, float]:
    """The usual loop around transformers' own class."""
    import torch

    torch.manual_seed(0)
    model = _their_model(options)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    step = torch.compile(model) if "compile" in options.side else model
    seconds, tokens = [], 0
    for _ in range(WARM_UP + options.steps):
        tokens, batch = _their_batch(options)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in options.side):
            loss = step(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return {"tokens_per_second": tokens / median(seconds[WARM_UP:])}


def _their_model(options: argparse.Namespace) -> Any:
    import transformers

    family, width, layers, heads = options.family[0], options.width, options.layers, options.width // 64
    if family == "electra":
        return _their_electra(options, heads)
    if family == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ))
    if family == "xlnet":
        return transformers.XLNetLMHeadModel(transformers.XLNetConfig(
            vocab_size=VOCABULARY, d_model=width, n_layer=layers, n_head=heads, d_inner=4 * width, dropout=0.0,
        ))
    if family == "t5":
        config = transformers.T5Config(
            vocab_size=VOCABULARY, d_model=width, d_kv=64, d_ff=5 * width // 2, num_layers=layers, num_heads=heads,
            dropout_rate=0.0, feed_forward_proj="gated-gelu", use_cache=False,
        )
        config.tie_word_embeddings, config.decoder_start_token_id = False, 0  # pyright: ignore[reportAttributeAccessIssue]
        model = transformers.T5ForConditionalGeneration(config)
        model.set_input_embeddings(model.shared)          # not to have a table for each text
        return model
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=heads, n_positions=options.length,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    ))


def _their_batch(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """How many tokens are read, and what the model is called with."""
    import torch

    family = options.family[0]
    tokens = torch.randint(5, VOCABULARY, (options.rows, options.length))
    mask, labels = torch.ones_like(tokens), tokens.clone()
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    if family == "t5":
        labels = torch.randint(5, VOCABULARY, (options.rows, _target_length(options.length)))
        return tokens.numel() + labels.numel(), {**batch, "labels": labels}
    if family == "electra":
        places = torch.rand(tokens.shape).topk(round(0.15 * options.length)).indices
        answers = tokens.gather(1, places)
        labels = torch.full_like(tokens, -100).scatter(1, places, answers)
        batch |= {"input_ids": tokens.scatter(1, places, 4), "labels": labels, "places": places, "answers": answers}
    if family == "xlnet":
        labels, more = _permuted(tokens)
        batch = {"input_ids": tokens, "labels": labels, **more}
    if family == "bert":
        picked = torch.rand(tokens.shape) < 0.15
        labels[~picked] = -100
        batch["input_ids"] = tokens.masked_fill(picked, 4)
    return tokens.numel(), batch


def _target_length(length: int) -> int:
    """Of what is asked for where sources fill rows: 15% of the text in spans of 3, a sentinel for each, and the end."""
    text = round(length / 0.9)
    noise = round(0.15 * text)
    return noise + round(noise / 3) + 1


def _permuted(tokens: Any) -> tuple[Any, dict[str, Any]]:
    """One token in six of every row, and what transformers' XLNet needs to predict them in a random order."""
    import torch

    rows, length = tokens.shape
    places = torch.rand(tokens.shape).topk(round(length / 6)).indices
    ranks = torch.full(tokens.shape, -1).scatter(1, places, torch.arange(places.shape[1]).expand(rows, -1))
    known, asking = ranks[:, None, :], ranks[:, :, None]
    hidden = 1.0 - ((known < asking) | (known == -1)).float()
    return tokens.gather(1, places), {
        "perm_mask": hidden, "target_mapping": torch.nn.functional.one_hot(places, length).float(),
    }


def _their_electra(options: argparse.Namespace, heads: int) -> Any:
    """Replaced-token detection with transformers' two classes, as one module with a loss."""
    import torch
    import transformers

    def config(share: int) -> Any:
        return transformers.ElectraConfig(
            vocab_size=VOCABULARY, embedding_size=options.width, hidden_size=options.width // share,
            num_hidden_layers=options.layers, num_attention_heads=heads // share,
            intermediate_size=4 * options.width // share, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )

    class Electra(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = transformers.ElectraForMaskedLM(config(4))
            self.discriminator = transformers.ElectraForPreTraining(config(1))
            for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
                setattr(self.generator.electra.embeddings, table, getattr(self.discriminator.electra.embeddings, table))
            self.generator.tie_weights()

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any, places: Any, answers: Any) -> Any:
            made = self.generator(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            with torch.no_grad():
                scores = made.logits.gather(1, places[:, :, None].expand(-1, -1, VOCABULARY)).float()
                drawn = (scores - torch.empty_like(scores).exponential_().log()).argmax(-1)
            spoilt = input_ids.scatter(1, places, drawn)
            is_new = torch.zeros_like(input_ids).scatter(1, places, (drawn != answers).long())
            judged = self.discriminator(input_ids=spoilt, labels=is_new)  # a mask would make it sort out what is padding
            return WithLoss(made.loss + 50 * judged.loss)

    return Electra()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", default=["bert", "gpt2"], choices=["bert", "gpt2", "electra", "xlnet", "t5"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a side in a round")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--micro-rows", type=int, help="ours: rows at once; by default what the trainer chooses")
    parser.add_argument("--compile", action="store_true", help="ours: compile the blocks")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
