"""What a network has learned, measured on text that it was not trained on.

Losses are sums with counts over the whole validation split, divided once; scores over the vocabulary are never kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Order, to_device
from yanmo.corpus import iterate_texts
from yanmo.errors import UserError
from yanmo.frontier import Frontiers, frontiers
from yanmo.models import Network, load
from yanmo.objectives import Causal, Contrast, Counting, Masked, Objective, build_objective
from yanmo.objectives.adversarial import LIKELIHOOD
from yanmo.objectives.distillation import default_section
from yanmo.progress import Progress, silent
from yanmo.recipe import AdversarialObjective, CausalObjective, DistillationObjective, Recipe
from yanmo.scoring import PLACES, Manner, log_likelihood, manner_of, score
from yanmo.shards import Shards
from yanmo.tokenizer import Tokens
from yanmo.tokenizer.borders import Segmenter, sentence_starts

COUNTED = 1 << 24
"""Training tokens that are looked at, spread evenly, to find the most frequent one."""
SENTENCE_BYTES = range(12, 257)
"""How long sentences are: shorter ones (of three Chinese characters, two English words) say little, longer ones do not fit into
short rows."""
LOOKED_AT = 20_000
"""Characters of a document in which a sentence is looked for."""
REFERENCES = 1000
"""Held-out texts at most with which a generator's are compared; it writes as many."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None where it does not apply.

    losses: nats per target by name; "causal" is per token of text, the end of text not counted. perplexity: e to the first
    loss. bits_per_byte: bits for all tokens of some texts over their bytes in UTF-8: of whole documents for networks that go
    on from left to right, of sentences for all others. sentence_bits_per_byte: of sentences, the same ones whatever family and
    seed. bits_per_byte_by: how both were found, see yanmo.scoring.Manner; a pseudo-likelihood is not the length of a code and
    only compares with other pseudo-likelihoods. masked_accuracy and baseline_accuracy (always the token that is most frequent
    in training) are over the same targets. sentence_accuracy: of next-sentence or sentence-order prediction.
    pseudo_perplexity: e to the negative pseudo-log-likelihood per token. accuracies: by name, where an objective measures its
    own. counts: how much all this was measured on.
    """

    losses: dict[str, float]
    perplexity: float
    bits_per_byte: float | None = None
    bits_per_byte_by: Manner | None = None
    sentence_bits_per_byte: float | None = None
    masked_accuracy: float | None = None
    baseline_accuracy: float | None = None
    sentence_accuracy: float | None = None
    pseudo_perplexity: float | None = None
    accuracies: dict[str, float] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] | None = None
    """What an objective finds in all texts together (latents: active units, mutual information)."""
    frontiers: Frontiers | None = None
    """Of a game: what the adversarial and the maximum-likelihood generator write, at several temperatures."""

    def to_json(self) -> dict[str, Any]:
        """A tree of plain values, without what does not apply."""
        tree = {name: value for name, value in asdict(self).items() if value is not None}
        return tree if self.frontiers is None else {**tree, "frontiers": self.frontiers.to_json()}


@dataclass(frozen=True)
class Figures:
    """Means over all targets: losses in nats, accuracies as shares. targets: how many each had. learned: which of them have a
    weight. baseline_accuracy: of always giving one guess, where there is one."""

    means: dict[str, float]
    targets: dict[str, int]
    learned: frozenset[str]
    baseline_accuracy: float | None = None
    summary: dict[str, float] = field(default_factory=dict)
    """What an objective finds in all texts together."""


def evaluate(
    network: Network,
    tokens: Tokens,
    recipe: Recipe,
    folder: Path | str,
    progress: Progress = silent,
    *,
    within_word: bool = False,
    model: Path | str | None = None,
) -> Evaluation:
    """Measure a network on the held-out documents of a run folder (its shards) and on sentences of them (its corpus). What was
    distilled is measured as what it was distilled into, without its teacher, and a game's generator as one of maximum likelihood.

    within_word: see pseudo_log_likelihood. model: the network's own folder, by default the run's, where an objective of several
    networks finds the others. Raises UserError where network and recipe or tokenizer and shards do not belong together, when one
    of several networks is missing, and when nothing was held out.
    """
    folder = Path(folder)
    validation = Shards.open(folder / "shards", "validation", tokens.hash)
    if not validation.token_total:
        raise UserError(f"{folder / 'shards'}: nothing was held out; raise corpus.validation, or give more documents")
    model = Path(model or folder / "pretrain" / "model")
    objective = _objective_of(recipe, network, tokens, model)
    window = None if isinstance(objective, Counting) else recipe.training.length  # counts know no rows
    if isinstance(objective, Causal):
        found = evaluate_causal(network, tokens, validation, window, progress)
    else:
        order = Order(validation, recipe.training.length, objective, recipe.seed, shuffle=False)
        if isinstance(objective, Masked):
            train = Shards.open(folder / "shards", "train", tokens.hash, check=False)
            found = evaluate_masked(objective, order, validation, most_frequent(train, tokens), progress)
        else:
            found = evaluate_objective(objective, order, validation, progress)
        if manner_of(network) == "likelihood":
            likely = evaluate_causal(network, tokens, validation, window, progress)
            found = replace(found, bits_per_byte=likely.bits_per_byte, bits_per_byte_by=likely.bits_per_byte_by)
    if isinstance(recipe.objective, AdversarialObjective):
        found = with_frontiers(found, recipe, network, tokens, folder, model, progress)
    if manner_of(network) is None or isinstance(objective, Contrast):  # which never asks for a token
        return found
    texts = iterate_texts(folder / "corpus", "validation")
    count = recipe.evaluation.pseudo_likelihood
    sentences = fitting(held_out_sentences(texts, count) if count else [], network, tokens)[:count]
    return with_sentences(found, network, tokens, sentences, within_word=within_word, progress=progress)


def _objective_of(recipe: Recipe, network: Network, tokens: Tokens, model: Path) -> Objective:
    if isinstance(recipe.objective, DistillationObjective):
        recipe = recipe.model_copy(update={"objective": recipe.objective.objective or default_section(network)})
    if isinstance(recipe.objective, AdversarialObjective):
        recipe = recipe.model_copy(update={"objective": CausalObjective()})
    objective = build_objective(recipe, network, tokens, model)
    for name in objective.companions():
        if not (model / name / "config.json").is_file():
            raise UserError(
                f"{model}: it has no {name}/, with which objective {recipe.objective.kind} is measured; give the folder of a run "
                "that trained both"
            )
    return objective.to(network.device)


def evaluate_causal(
    network: Network, tokens: Tokens, documents: Shards, window: int | None = None, progress: Progress = silent
) -> Evaluation:
    """Loss, perplexity and bits per byte of a decoder on whole documents: every token of text is scored once and the end of
    text is not; bits per byte are the nats of all tokens / ln 2 / the bytes of the documents. See log_likelihood for what a
    token is given. window: places read at once, best the length of rows in training."""
    nats = -float(log_likelihood(network, tokens, documents, window=window, progress=progress).sum())
    loss = nats / documents.token_total
    return Evaluation(
        losses={"causal": loss},
        perplexity=_exp(loss),
        bits_per_byte=nats / math.log(2) / int(documents.text_bytes.sum()),
        bits_per_byte_by="likelihood",
        counts=_counts(documents),
    )


def evaluate_masked(
    objective: Masked, order: Order, documents: Shards, guess: int, progress: Progress = silent
) -> Evaluation:
    """Losses and accuracies of a masked language model; `guess`: the token whose accuracy they are compared with."""
    masked = evaluate_losses(objective, order, guess, progress)
    accuracies = [mean for name, mean in masked.means.items() if name.endswith("_accuracy")]
    return Evaluation(
        losses={name: mean for name, mean in masked.means.items() if not name.endswith("accuracy")},
        perplexity=_exp(masked.means["masked"]),
        masked_accuracy=masked.means["accuracy"],
        baseline_accuracy=masked.baseline_accuracy,
        sentence_accuracy=accuracies[0] if accuracies else None,
        counts={**_counts(documents), **_targets(masked)},
    )


def with_frontiers(
    found: Evaluation,
    recipe: Recipe,
    network: Network,
    tokens: Tokens,
    folder: Path,
    model: Path,
    progress: Progress = silent,
) -> Evaluation:
    """The same with what a game's generator writes beside what it wrote before the game, both as many texts as there are held-out
    ones to compare them with, of which no more is looked at than it may write itself."""
    if not (model / LIKELIHOOD / "config.json").is_file():
        raise UserError(
            f"{model}: it has no {LIKELIHOOD}/, the generator as maximum likelihood left it, with which a game's is compared; "
            "give the folder of a run that trained it"
        )
    assert isinstance(recipe.objective, AdversarialObjective), "others have no game"
    longest = recipe.objective.longest
    texts = _drawn(iterate_texts(folder / "corpus", "validation"), REFERENCES, np.random.default_rng(recipe.seed))
    references = [tokens.decode(ids[:longest], skip_special=True) for ids in tokens.encode(texts)]
    before = load(model / LIKELIHOOD).to(network.device).eval()
    curves = frontiers(network, before, tokens, references, seed=recipe.seed, max_new_tokens=longest, progress=progress)
    return replace(found, frontiers=curves, counts={**found.counts, "references": len(references)})


def evaluate_objective(objective: Objective, order: Order, documents: Shards, progress: Progress = silent) -> Evaluation:
    """An objective's own losses on held-out text, where no other measure is defined. perplexity: of the first that is learned."""
    found = evaluate_losses(objective, order, None, progress)
    losses = {name: mean for name, mean in found.means.items() if not name.endswith("accuracy")}
    first = next((name for name in losses if name in found.learned), None)
    return Evaluation(
        losses=losses,
        perplexity=found.summary.get("perplexity", math.nan if first is None else _exp(losses[first])),
        accuracies={name: mean for name, mean in found.means.items() if name.endswith("accuracy")} or None,
        figures=found.summary or None,
        counts={**_counts(documents), **_targets(found)},
    )


@torch.no_grad()
def evaluate_losses(objective: Objective, order: Order, guess: int | None, progress: Progress = silent) -> Figures:
    """The objective's losses and accuracies over one epoch of a fixed order, and how often `guess` would have been the answer.

    What an objective draws by torch's random state is drawn from the order's seed: the same each time.
    """
    torch.manual_seed(order.seed)
    device, training = objective.network.device, objective.network.training
    totals: dict[str, float] = {}
    targets: dict[str, int] = {}
    guessed, learned, observed = 0, set[str](), list[Tensor]()
    objective.eval()
    try:
        for numbers in _batches(order):
            batch = to_device(objective.collate([order.row(number) for number in numbers], order.length), device)
            if guess is not None:
                guessed += int((batch.answers == guess).sum())
            losses, seen = objective.observe(batch)
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + float(loss.total)
                targets[name] = targets.get(name, 0) + int(loss.count)
                learned |= {name} if loss.weight else set()
            observed += [] if seen is None else [seen.cpu()]
            progress(numbers[-1] + 1, order.rows_per_epoch, "rows")
    finally:
        objective.train(training)
    asked = max((targets[name] for name in learned), default=0)
    if not asked:
        raise UserError("the held-out text is too short for a single target; raise corpus.validation")
    means = {name: totals[name] / count if count else math.nan for name, count in targets.items()}
    summary = objective.summarise(torch.cat(observed), means)[0] if observed else {}
    return Figures(means, targets, frozenset(learned), guessed / targets["masked"] if guess is not None else None, summary)


def _counts(documents: Shards) -> dict[str, int]:
    size = int(documents.text_bytes.sum())
    return {"documents": len(documents), "tokens": documents.token_total, "bytes": size}


def _targets(found: Figures) -> dict[str, int]:
    return {f"{name}_targets": count for name, count in found.targets.items() if not name.endswith("accuracy")}


def most_frequent(train: Shards, tokens: Tokens) -> int:
    """The id that stands most often in the training text, special tokens apart; the smallest of equals."""
    counts = np.zeros(tokens.size, np.int64)
    held: list[np.ndarray] = []
    for document in range(0, len(train), max(1, train.token_total // COUNTED)):
        held.append(train[document][0])
        if len(held) == 1024:
            counts += np.bincount(np.concatenate(held), minlength=tokens.size)
            held = []
    if held:
        counts += np.bincount(np.concatenate(held), minlength=tokens.size)
    counts[list(tokens.special)] = 0
    return int(counts.argmax())


def held_out_sentences(texts: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """The sentences of `count` different texts, in an order in which the first `count` are of as many texts as can be: a function
    of the texts and the seed and of no tokenizer. Left out are those that are not of SENTENCE_BYTES."""
    rng = np.random.default_rng(seed)
    parts = []
    for text in _drawn(texts, count, rng):
        good = [one for one in sentences_of(text[:LOOKED_AT]) if len(one.encode()) in SENTENCE_BYTES]
        parts.append([good[place] for place in rng.permutation(len(good))])
    in_turn = chain.from_iterable(zip_longest(*parts))
    return [sentence for sentence in in_turn if sentence is not None]


def _drawn(texts: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    """At most `count` texts, every one as likely as another (reservoir sampling, Vitter 1985, algorithm R)."""
    drawn: list[str] = []
    for number, text in enumerate(texts):
        if number < count:
            drawn.append(text)
        elif (place := int(rng.integers(number + 1))) < count:
            drawn[place] = text
    return drawn


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    segmenter = Segmenter()
    segments = segmenter.cut([text])
    starts = segments.begins[:-1][sentence_starts(segmenter.flags[segments.kinds], segments)].tolist()
    parts = (text[start:end].strip() for start, end in pairwise([*starts, len(text)]))
    return [part for part in parts if part]


def fitting(sentences: Sequence[str], network: Network, tokens: Tokens) -> list[str]:
    """Those that a network has positions for, whatever it puts around them."""
    room = network.config.length - len(tokens.prefix) - len(tokens.suffix) - 2  # a decoder's start, a sentinel
    lengths = [len(ids) for ids in tokens.encode(list(sentences))]
    return [sentence for sentence, length in zip(sentences, lengths, strict=True) if length <= room]


def with_sentences(
    found: Evaluation,
    network: Network,
    tokens: Tokens,
    sentences: Sequence[str],
    *,
    within_word: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """The same with the bits per byte of sentences, and for encoders the pseudo-perplexity, over all their tokens and bytes."""
    manner, size = manner_of(network), sum(len(sentence.encode()) for sentence in sentences)
    found = replace(found, counts={**found.counts, "sentences": len(sentences), "sentence_bytes": size})
    if not sentences:
        return found
    nats = -sum(score(network, tokens, sentences, within_word=within_word, progress=progress))
    bits = nats / math.log(2) / size
    if manner == "pseudo-likelihood":
        found = replace(found, pseudo_perplexity=_exp(nats / sum(len(ids) for ids in tokens.encode(list(sentences)))))
    if manner != "likelihood":
        found = replace(found, bits_per_byte=bits, bits_per_byte_by=manner)
    return replace(found, sentence_bits_per_byte=bits)


def _batches(order: Order) -> Iterator[range]:
    """The numbers of an epoch's rows, as many at once as have PLACES places."""
    size = max(1, PLACES // order.length)
    return (range(first, min(first + size, order.rows_per_epoch)) for first in range(0, order.rows_per_epoch, size))


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
