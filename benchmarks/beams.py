"""Beam search against transformers' generate: the same random weights, sources and settings; they take turns.

    python benchmarks/beams.py [--rounds 5] [--sources 64] [--beams 4] [--new 48] [--dtype float32]

An encoder-decoder (T5 1.1, 3 + 3 blocks of width 256, 8,000 tokens). Sources have 8 to 48 tokens and go to transformers as one
padded batch. The row of the end of text is made large, so that texts end at different times. Printed: how many texts are the
same, seconds of the processor in each round (others may use the machine), and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from yanmo import models
from yanmo.beams import BeamSettings, beam_search

VOCABULARY, PAD, END = 8000, 0, 1


def main() -> None:
    options = _options()
    theirs, ours = _pair(getattr(torch, options.dtype))
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(8, 49, (options.sources,), generator=generator).tolist()
    texts = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    ids = torch.tensor([text + [PAD] * (max(lengths) - len(text)) for text in texts])
    settings = {"num_beams": options.beams, "max_new_tokens": options.new, "do_sample": False}

    def of_theirs() -> list[list[int]]:
        return [_cut(row) for row in theirs.generate(ids, attention_mask=(ids != PAD).long(), **settings)[:, 1:].tolist()]

    def of_ours() -> list[list[int]]:
        found = beam_search(ours, texts, BeamSettings(options.beams), max_new_tokens=options.new, ends=[END], pad=PAD)
        return [list(best.tokens) for best, *_ in found]

    of_theirs(), of_ours()
    ratios = []
    for _ in range(options.rounds):
        (slow, expected), (fast, found) = _timed(of_theirs), _timed(of_ours)
        ratios.append(slow / fast)
        print(f"transformers {slow:.2f} s, yanmo {fast:.2f} s: {slow / fast:.2f}")
    same = sum(one == other for one, other in zip(expected, found, strict=True))
    sizes = sorted(map(len, found))
    print(f"{same} of {len(texts)} texts are the same; {sizes[0]} to {sizes[-1]} tokens, mean {sum(sizes) / len(sizes):.0f}")
    print(f"yanmo is {median(ratios):.2f} times as fast (median of {options.rounds}, {min(ratios):.2f} to {max(ratios):.2f})")


def _pair(dtype: torch.dtype) -> tuple[Any, Any]:
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=256, d_kv=32, d_ff=640, num_layers=3, num_heads=8, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        theirs.lm_head.weight *= 0.2  # scores as far apart as a trained model's; drawn anew they are in the hundreds
        theirs.lm_head.weight[END] *= 6
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = models.load(folder)
    return theirs.to(dtype), ours.eval().to(dtype)


def _cut(row: list[int]) -> list[int]:
    return row[: row.index(END) + 1] if END in row else row


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sources", type=int, default=64)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
