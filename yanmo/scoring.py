"""How likely a text is under a network: the log-likelihood of a decoder, the pseudo-log-likelihood of an encoder, in nats.

Only sums are kept: scores over the vocabulary are made for a few places at a time and dropped.
Letters: R rows, T tokens of a row, N places that are asked for, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Documents, Packed
from yanmo.errors import UserError
from yanmo.models import Network
from yanmo.progress import Progress, silent
from yanmo.tokenizer import Encoded, Tokens, encode_documents

PLACES = 8192
"""Places of a batch, padding included."""
SCORE_BYTES = 32 << 20
"""Scores over the vocabulary that are held at once."""
CONTEXT = 0.5
"""Share of the window that a token of a long document has before it at least."""


@dataclass(frozen=True)
class Question:
    """A row and what is asked of it: the log-probability of `answers` at `places`, added to the sum of `document`."""

    document: int
    ids: np.ndarray
    places: np.ndarray
    answers: np.ndarray


def score(network: Network, tokens: Tokens, texts: Sequence[str], *, within_word: bool = False) -> list[float]:
    """The log-probability of each text in nats, the end of text not counted: log_likelihood for decoders,
    pseudo_log_likelihood for encoders (within_word is for these). An empty text scores 0.
    """
    encoded = encode_documents(tokens, texts)
    if network.continues:
        return log_likelihood(network, tokens, _Listed(encoded)).tolist()
    return pseudo_log_likelihood(network, tokens, encoded, within_word=within_word).tolist()


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
    for number, text in enumerate(encoded, 1):
        if len(text.tokens) + around > network.config.length:
            raise UserError(
                f"text {number} has {len(text.tokens) + around} tokens, more than the {network.config.length} positions of "
                f"this {network.config.family}; score it in parts"
            )

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


def log_probabilities(network: Network, hidden: Tensor, answers: Tensor) -> Tensor:
    """The log-probability of each of (N,) answers from hidden states (N, D): (N,) float64 on the CPU, in nats."""
    chunk = max(1, SCORE_BYTES // (4 * network.config.vocabulary))
    found = []
    for part, asked in zip(hidden.split(chunk), answers.split(chunk), strict=True):
        logits = network.logits(part).float()
        given = logits.gather(1, asked[:, None])[:, 0]
        found.append((given - logits.logsumexp(-1)).cpu())
    return torch.cat(found).double()


@torch.no_grad()
def _sum_up(
    network: Network, pad: int, questions: Iterable[Question], sums: np.ndarray, places: int, progress: Progress
) -> np.ndarray:
    """Put every question to the network, rows of like length together, and add the answers to `sums` (documents,)."""
    device = network.device
    training = network.training
    network.eval()
    done = 0
    try:
        for batch in _batches(questions):
            packed = packed_rows([question.ids for question in batch], pad, device)
            rows = np.repeat(np.arange(len(batch)), [len(question.places) for question in batch])
            columns = np.concatenate([question.places for question in batch])
            hidden_ND = network(packed)[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)]
            answers = torch.from_numpy(np.concatenate([question.answers for question in batch])).to(device)
            found = log_probabilities(network, hidden_ND, answers).numpy()
            np.add.at(sums, np.array([question.document for question in batch])[rows], found)
            done += sum(len(question.ids) for question in batch)
            progress(done, places, "tokens")
    finally:
        network.train(training)
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
