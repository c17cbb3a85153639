"""How likely a text is under a network: the log-likelihood of a decoder, the pseudo-log-likelihood of an encoder, in nats.

Only sums are kept: scores over the vocabulary are made for a few places at a time and dropped.
Letters: R rows, T tokens of a row, N places that are asked for, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Documents, Packed
from yanmo.errors import UserError
from yanmo.models import Latent, Network, Seq2Seq, twostream
from yanmo.models.network import in_mode
from yanmo.objectives.latent import beginning
from yanmo.progress import Progress, silent
from yanmo.recipe import article
from yanmo.tokenizer import Encoded, Tokens, encode_documents

Manner = Literal["likelihood", "bound", "permutation", "gap", "pseudo-likelihood"]
"""How a text's log-probability is found. All but the last are the negative length of a code, and compare with one another.

likelihood: token by token from left to right. bound: the importance-weighted bound, no higher than the likelihood on average.
permutation: the mean over random orders, which is what a code in an order agreed on beforehand takes on average. Left to right
would be such an order too, but one in which no token has anything to its right, and partial prediction has seldom asked for that.
gap: what an encoder-decoder writes from left to right, given nothing but one gap, so that nothing of the text is told before. It
has learned gaps of a few tokens, not of sentences: this says less of what it can do than its own loss. pseudo-likelihood: each
token given all the others, the length of no code.
"""
PLACES = 8192
"""Places of a batch, padding included."""
LATENT_ROWS = 32
"""Texts with a latent each that are scored at once."""
CONTEXT = 0.5
"""Share of the window that a token of a long document has before it at least."""


@dataclass(frozen=True)
class Question:
    """A row and what is asked of it: the log-probability of `answers` at `places`, added to the sum of `document`."""

    document: int
    ids: np.ndarray
    places: np.ndarray
    answers: np.ndarray


def manner_of(network: Network) -> Manner | None:
    """How a network's score of a text is found; None for one that gives texts no probability."""
    if network.judges:
        return None
    if isinstance(network, Latent):
        return "bound"
    if isinstance(network, Seq2Seq):
        return "gap"
    if isinstance(network, twostream.TwoStream):
        return "permutation"
    return "likelihood" if network.continues else "pseudo-likelihood"


def score(
    network: Network, tokens: Tokens, texts: Sequence[str], *, within_word: bool = False, progress: Progress = silent
) -> list[float]:
    """The log-probability of each text in nats, the end of text not counted: log_likelihood for decoders, written_log_likelihood
    for encoder-decoders, importance_weighted_likelihood where there is a latent, permutation_log_likelihood for networks of two
    streams, pseudo_log_likelihood for encoders (within_word is for these). An empty text scores 0.
    """
    if network.judges:
        raise UserError(f"score: {article(network.config.family)} gives no text a probability: it {network.judges}")
    encoded = encode_documents(tokens, texts)
    if isinstance(network, Latent):
        return importance_weighted_likelihood(network, tokens, [text.tokens.tolist() for text in encoded]).tolist()
    if isinstance(network, Seq2Seq):
        return written_log_likelihood(network, tokens, [text.tokens.tolist() for text in encoded]).tolist()
    if isinstance(network, twostream.TwoStream):
        return permutation_log_likelihood(network, tokens, encoded, progress=progress).tolist()
    if network.continues:
        return log_likelihood(network, tokens, _Listed(encoded), progress=progress).tolist()
    return pseudo_log_likelihood(network, tokens, encoded, within_word=within_word, progress=progress).tolist()


def log_likelihood(
    network: Network, tokens: Tokens, documents: Documents, *, window: int | None = None, progress: Progress = silent
) -> np.ndarray:
    """The log-probability of each document under a decoder, (documents,) float64 nats: of every token of text, given all
    before it and what the family begins with; the end of text is not counted.

    Where the family begins with nothing the first token is given the end of text, as if another document had ended before
    it (EleutherAI's lm-evaluation-harness does the same), and where there is none it costs the ln V of a blind guess.
    window: places that the network reads at once, by default its positions. Longer documents are read in windows that
    overlap, so that a token far from the start has at least half a window before it; each begins as the family begins.
    """
    window = min(window or network.config.length, network.config.length)
    start = np.array(tokens.prefix or tokens.suffix[-1:], np.int64)
    room = window - len(start)
    if room < 1:
        raise UserError(f"a window of {window} places leaves no room for text; make it longer")
    lengths = np.asarray(documents.lengths)
    sums = np.zeros(len(documents))
    if not len(start):
        sums[lengths > 0] = -np.log(network.config.tokens)
    plan = sorted(_windows(lengths, room, blind=not len(start)), key=lambda part: part.last - part.first)

    def lead_of(part: _Window) -> np.ndarray:
        return start if part.first == 0 else np.array(tokens.prefix, np.int64)

    def questions() -> Iterator[Question]:
        for part in plan:
            text, lead = np.asarray(documents[part.document][0]).astype(np.int64), lead_of(part)
            places = np.arange(part.asked, part.last + 1) - 1 - part.first + len(lead)
            ids = np.concatenate([lead, text[part.first : part.last]])
            yield Question(part.document, ids, places, text[part.asked : part.last + 1])

    total = sum(part.last - part.first + len(lead_of(part)) for part in plan)
    return _sum_up(network, tokens.pad, questions(), sums, total, progress)


def pseudo_log_likelihood(
    network: Network,
    tokens: Tokens,
    encoded: Sequence[Encoded],
    *,
    within_word: bool = False,
    progress: Progress = silent,
) -> np.ndarray:
    """The sum over tokens of the log-probability of each when it is masked and all others are seen, (texts,) float64 nats
    (Salazar et al. 2020, arXiv:1910.14659, section 2.2).

    within_word: the later tokens of the same word are masked as well, so that a word does not give itself away (PLL-word-l2r
    of Kauf and Ivanova 2023, arXiv:2305.10588). Takes a row for every token. Raises UserError for a tokenizer without a mask
    and a text longer than the positions.
    """
    mask = tokens.mask
    if mask is None:
        raise UserError("this tokenizer has no mask token, so nothing can be masked; load the tokenizer of an encoder")
    around = len(tokens.prefix) + len(tokens.suffix)
    refuse_long(network, (len(text.tokens) + around for text in encoded), "score it in parts")

    def questions() -> Iterator[Question]:
        for document in np.argsort([len(text.tokens) for text in encoded], kind="stable"):
            text = encoded[document]
            first = len(tokens.prefix)
            ids = np.concatenate([tokens.prefix, text.tokens, tokens.suffix]).astype(np.int64)
            ends = _ends(text) if within_word else np.arange(1, len(text.tokens) + 1)
            for place, end in enumerate(ends):
                masked = ids.copy()
                masked[first + place : first + end] = mask
                yield Question(int(document), masked, np.array([first + place]), ids[first + place : first + place + 1])

    places = sum(len(text.tokens) * (len(text.tokens) + around) for text in encoded)
    return _sum_up(network, tokens.pad, questions(), np.zeros(len(encoded)), places, progress)


@torch.no_grad()
def written_log_likelihood(network: Seq2Seq, tokens: Tokens, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """The log-probability of each text under an encoder-decoder, (texts,) float64 nats: of every token, given all before it and
    a source in which the whole text is missing, the end of text not counted; an empty text scores 0.

    texts: ids. What stands for the whole is one sentinel, else one mask, else nothing, as the tokenizer has it. Raises UserError
    for a text longer than the positions.
    """
    sentinels, mask = tokens.group("sentinels"), tokens.group("mask")
    gap = (sentinels or mask or ())[:1]
    source = [*tokens.prefix, *gap, *tokens.suffix]
    lead = [network.config.decoder_start, *tokens.prefix, *(gap if sentinels else ())]  # a sentinel is written before its text
    refuse_long(network, (len(lead) + len(text) - 1 for text in texts), "score it in parts")
    sums = np.zeros(len(texts))
    order = sorted((index for index, text in enumerate(texts) if len(text)), key=lambda index: len(texts[index]))
    asked = [(index, np.array([*lead, *texts[index]], np.int64)) for index in order]
    questions = (Question(index, ids[:-1], np.arange(len(lead) - 1, len(ids) - 1), ids[len(lead) :]) for index, ids in asked)
    with in_mode(network):
        for batch in _batches(questions):
            read = packed_rows([source] * len(batch), tokens.pad, network.device)
            hidden_RUD = network(read, packed_rows([question.ids for question in batch], tokens.pad, network.device))
            for question, hidden_UD in zip(batch, hidden_RUD, strict=True):
                answers = torch.from_numpy(question.answers).to(network.device)
                found = network.log_probabilities(hidden_UD[torch.from_numpy(question.places).to(network.device)], answers)
                sums[question.document] = float(found.sum())
    return sums


@torch.no_grad()
def importance_weighted_likelihood(
    network: Latent, tokens: Tokens, texts: Sequence[Sequence[int]], *, samples: int = 64, seed: int = 0
) -> np.ndarray:
    """The importance-weighted bound on each text's log-probability, (texts,) float64 nats (Burda et al. 2016,
    arXiv:1509.00519, section 3), of every token, the end of text not counted; an empty text scores 0.

    texts: ids. With more samples it is tighter. A text's score depends on (seed, its ids) only. Raises UserError for fewer than
    one sample and for a text longer than the positions.
    """
    if samples < 1:
        raise UserError(f"samples {samples}: it must be at least 1")
    scores = np.zeros(len(texts))
    lead, whole = len(beginning(tokens)), surrounded(network, tokens, texts)
    order = sorted((index for index, text in enumerate(texts) if len(text)), key=lambda index: len(texts[index]))
    with in_mode(network):
        for first in range(0, len(order), LATENT_ROWS):
            numbers = order[first : first + LATENT_ROWS]
            read = packed_rows([whole[index] for index in numbers], tokens.pad, network.device)
            asked = [row * read.tokens.shape[1] + np.arange(lead, lead + len(texts[one])) for row, one in enumerate(numbers)]
            places = torch.from_numpy(np.concatenate(asked)).to(network.device)
            drawn = [_noise(texts[index], seed, (samples, network.config.latent)) for index in numbers]
            noise_KNZ = torch.stack(drawn, 1).to(network.device)
            answers = read.tokens.flatten()[places]
            scores[numbers] = network.importance_bound(read, places, answers, noise_KNZ).cpu().numpy()
    return scores


def surrounded(network: Latent, tokens: Tokens, texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The ids of texts with what stands around each. Raises UserError for one that is longer than the positions."""
    rows = [[*beginning(tokens), *text, *tokens.suffix] for text in texts]
    refuse_long(network, map(len, rows), "shorten it")
    return rows


def refuse_long(network: Network, lengths: Iterable[int], remedy: str) -> None:
    """Raises UserError for the first text of more tokens than the network has positions, saying what to do."""
    longest = network.config.length
    for number, length in enumerate(lengths, 1):
        if length > longest:
            family = network.config.family
            raise UserError(f"text {number} has {length} tokens, more than the {longest} positions of this {family}; {remedy}")


def random_of(key: str) -> torch.Generator:
    """Randomness that is a function of a text and of nothing else."""
    drawn = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(drawn[:8], "little") >> 1)


def _noise(text: Sequence[int], seed: int, shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=random_of(f"{seed}/{' '.join(map(str, text))}"))


@torch.no_grad()
def permutation_log_likelihood(
    network: twostream.TwoStream,
    tokens: Tokens,
    encoded: Sequence[Encoded],
    *,
    permutations: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> np.ndarray:
    """The mean over random orders of the log-probability of each text when its tokens are told in that order, each given those
    before it and the special tokens around the text, (texts,) float64 nats (Yang et al. 2019, arXiv:1906.08237, equation 3).

    A bound: the logarithm of the mean probability is no smaller. Networks that were trained to predict one token in K have
    seldom seen the nearly empty texts at the beginning of an order. A text has the same orders whatever texts are beside it.
    """
    if permutations < 1:
        raise UserError(f"{permutations} permutations: at least one order is needed")
    prefix, suffix = (np.array(ids, np.int64) for ids in (tokens.prefix, tokens.suffix))
    total = permutations * sum(len(text.tokens) + len(prefix) + len(suffix) for text in encoded if len(text.tokens))
    sums, done, device = np.zeros(len(encoded)), 0, network.device

    def questions() -> Iterator[Question]:
        for document in np.argsort([len(text.tokens) for text in encoded], kind="stable").tolist():
            text = np.asarray(encoded[document].tokens).astype(np.int64)
            rng = np.random.default_rng([seed, *text.tolist()])
            ids = np.concatenate([prefix, text, suffix])
            for _ in range(permutations if len(text) else 0):
                order = rng.permutation(len(text))
                yield Question(document, ids, len(prefix) + order, text[order])

    with in_mode(network):
        for batch in _batches(questions()):
            packed = packed_rows([question.ids for question in batch], tokens.pad, device)
            ranks = np.full(packed.tokens.shape, twostream.CONTEXT)
            asked = np.full((len(batch), max(len(question.places) for question in batch)), twostream.NO_PLACE)
            for row, question in enumerate(batch):
                ranks[row, question.places] = np.arange(len(question.places))
                asked[row, : len(question.places)] = question.places
            order = twostream.Factorisation(*(torch.from_numpy(made).to(device) for made in (ranks, asked)))
            hidden_ND = network(packed, order)[order.asked != twostream.NO_PLACE]
            answers = torch.from_numpy(np.concatenate([question.answers for question in batch])).to(device)
            owners = np.repeat([question.document for question in batch], [len(question.places) for question in batch])
            np.add.at(sums, owners, network.log_probabilities(hidden_ND, answers).cpu().numpy() / permutations)
            done += packed.real
            progress(done, total, "tokens")
    return sums


@torch.no_grad()
def _sum_up(
    network: Network, pad: int, questions: Iterable[Question], sums: np.ndarray, places: int, progress: Progress
) -> np.ndarray:
    """Put every question to the network, rows of like length together, and add the answers to `sums` (documents,)."""
    device = network.device
    done = 0
    with in_mode(network):
        for batch in _batches(questions):
            packed = packed_rows([question.ids for question in batch], pad, device)
            rows = np.repeat(np.arange(len(batch)), [len(question.places) for question in batch])
            columns = np.concatenate([question.places for question in batch])
            hidden_ND = network(packed)[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)]
            answers = torch.from_numpy(np.concatenate([question.answers for question in batch])).to(device)
            found = network.log_probabilities(hidden_ND, answers).numpy()
            np.add.at(sums, np.array([question.document for question in batch])[rows], found)
            done += sum(len(question.ids) for question in batch)
            progress(done, places, "tokens")
    return sums


def packed_rows(rows: Sequence[Sequence[int] | np.ndarray], pad: int, device: torch.device) -> Packed:
    """Rows of one document each, padded on the right."""
    lengths = np.array([len(row) for row in rows])
    length = int(lengths.max())
    tokens = np.full((len(rows), length), pad, np.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    real = np.arange(length)[None] < lengths[:, None]
    positions = np.where(real, np.arange(length)[None], 0)
    made = (torch.from_numpy(array).to(device) for array in (tokens, real.astype(np.int64), positions))
    return Packed(*made, whole=bool(real.all()))


def _batches(questions: Iterable[Question]) -> Iterator[list[Question]]:
    """Questions in their order, as many at once as have PLACES places when they are padded to the longest."""
    batch: list[Question] = []
    longest = 0
    for question in questions:
        longest = max(longest, len(question.ids))
        if batch and longest * (len(batch) + 1) > PLACES:
            yield batch
            batch, longest = [], len(question.ids)
        batch.append(question)
    if batch:
        yield batch


@dataclass(frozen=True)
class _Window:
    """The network reads tokens [first, last) of a document, and is asked for [asked, last + 1)."""

    document: int
    first: int
    last: int
    asked: int


def _windows(lengths: np.ndarray, room: int, *, blind: bool) -> Iterator[_Window]:
    """Windows of at most `room` tokens that ask for every token of every document once; blind: but for the first one."""
    step = max(1, room - int(room * CONTEXT))
    for document, length in enumerate(lengths.tolist()):
        asked, last = int(blind), min(length - 1, room)
        while asked < length:
            yield _Window(document, max(0, last - room), last, asked)
            asked, last = last + 1, min(length - 1, last + step)


def _ends(text: Encoded) -> np.ndarray:
    """For each token, where its word ends."""
    words = np.append(text.words, len(text.tokens)).astype(np.int64)
    return words[np.searchsorted(words, np.arange(len(text.tokens)), side="right")]


class _Listed:
    """Encoded texts, looked at as Shards are."""

    def __init__(self, encoded: Sequence[Encoded]):
        self.encoded = encoded
        self.lengths = np.array([len(text.tokens) for text in encoded], np.int64)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, document: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        text = self.encoded[document]
        return text.tokens, text.sentences, text.words
