"""Beam search: of all that a network could write, the likeliest that is found by following a few beginnings at once.

What is scored, what ends and when a search is over are transformers' (generation/utils.py, _beam_search), so that the same
settings give the same texts: a text of l new tokens, its end included, scores the sum of its log-probabilities divided by
l ** length_penalty, not by ((5 + l) / 6) ** alpha (Wu et al. 2016, arXiv:1609.08144, equation 14). What differs: a source whose
search is over leaves the batch, its keys and values are kept once for all its beams, and of the rows that go on only those that
change are copied.
Letters: S sources, B beams of each, R = S * B rows, C candidates, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.models import Seq2Seq
from yanmo.models.cache import Cache
from yanmo.models.network import in_mode
from yanmo.models.writers import Writer, begin, compact, go_on
from yanmo.scoring import packed_rows

ROWS = 256
"""Beams of all sources that are continued at once at most."""
PLACES = 1 << 16
"""Places of their caches at most."""
NEVER = float("-inf")
SCAN = 64
"""Scores of which the largest is looked at first, to find the few best of a vocabulary."""


@dataclass(frozen=True)
class BeamSettings:
    """How a search goes; the names are transformers'. Raises UserError for a value that makes no sense.

    length_penalty: above 0 longer texts score better, at 0 it is the sum of log-probabilities that counts. early_stopping: a
    source is done when it has as many texts as beams (True), when no beam that is still open would beat them if it ended now
    (False), or when none could at any length ("never"). no_repeat_ngram_size: no run of so many tokens comes twice, those of a
    decoder's prompt included; 0: all may. best: how many texts of each source are given back.
    """

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    best: int = 1

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("no_repeat_ngram_size", 0), ("min_new_tokens", 0), ("best", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: it must be at least {least}")
        if self.best > self.beams:
            raise UserError(f"best {self.best}: a search with {self.beams} beams finds no more texts than that; raise beams")
        if self.early_stopping not in (True, False, "never"):
            raise UserError(f"early_stopping {self.early_stopping!r}: it must be true, false or 'never'")
        if not abs(self.length_penalty) < float("inf"):
            raise UserError(f"length_penalty {self.length_penalty}: it must be a number; 0 leaves lengths out")


@dataclass(frozen=True)
class Beam:
    """A text that was found. tokens: the new ids, the end of text included where it came. score: what texts are compared by."""

    tokens: tuple[int, ...]
    score: float
    ended: bool


def groups(lengths: Sequence[int], rows: int, places: int) -> Iterator[list[int]]:
    """Numbers of texts that are worked on together: the shortest first, at most `rows`, and at most `places` when all of them are
    as long as the longest; one that is longer than that comes alone."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) == rows or (len(group) + 1) * lengths[index] > places):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


@torch.no_grad()
def beam_search(
    network: Writer,
    texts: Sequence[Sequence[int]],
    settings: BeamSettings = BeamSettings(),
    *,
    max_new_tokens: int,
    ends: Collection[int],
    pad: int,
    tokens: int | None = None,
) -> list[list[Beam]]:
    """The best continuations of each text, or the best that an encoder-decoder makes of it, the best one first.

    texts: ids with all special tokens, none empty. ends: ids that end a text. tokens: ids from here on only pad the vocabulary;
    by default what the network's configuration says. Fewer than `settings.best` come back where no more are possible. Raises
    UserError for a text longer than the positions.
    """
    if max_new_tokens < 1 or max_new_tokens < settings.min_new_tokens:
        raise UserError(
            f"max_new_tokens {max_new_tokens}: it must be at least 1 and at least min_new_tokens {settings.min_new_tokens}"
        )
    found: list[list[Beam]] = [[] for _ in texts]
    rules = _Rules(settings, frozenset(ends), network.config.tokens if tokens is None else tokens)
    length = network.config.length
    with in_mode(network):
        wide = [settings.beams * (len(text) + max_new_tokens) for text in texts]
        for group in groups(wide, max(1, ROWS // settings.beams), PLACES):
            starts, source = [list(texts[index]) for index in group], None
            if isinstance(network, Seq2Seq):
                source, starts = packed_rows(starts, pad, network.device), [[network.config.decoder_start]] * len(group)
            limits = [min(max_new_tokens, length - len(start) + 1) for start in starts]
            searches = [_Search(index, rules, limit) for index, limit in zip(group, limits, strict=True)]
            places = max(len(start) + limit - 1 for start, limit in zip(starts, limits, strict=True))
            cache, last_RD = begin(network, starts, places, pad, source)
            _follow(network, cache, last_RD, searches, _right(starts), rules)
            for search in searches:
                found[search.index] = search.finished[: settings.best]
    return found


@dataclass(frozen=True)
class _Rules:
    settings: BeamSettings
    ends: frozenset[int]
    tokens: int

    @property
    def candidates(self) -> int:
        """So many that as many as there are beams are no ends."""
        return max(2, 1 + len(self.ends)) * self.settings.beams

    def forbid(self, shares_RV: Tensor, history_RT: Tensor, length: int) -> None:
        """Leave no share to tokens that may not come after `length` new ones."""
        shares_RV[:, self.tokens :] = NEVER
        if length < self.settings.min_new_tokens:
            shares_RV[:, sorted(self.ends)] = NEVER
        size = self.settings.no_repeat_ngram_size
        if 0 < size <= history_RT.shape[1]:
            runs_RNT = history_RT.unfold(1, size, 1)
            same_RN = (runs_RNT[..., :-1] == history_RT[:, None, history_RT.shape[1] - size + 1 :]).all(-1)
            rows, runs = (same_RN & (runs_RNT[..., 0] >= 0)).nonzero(as_tuple=True)
            shares_RV[rows, runs_RNT[rows, runs, -1]] = NEVER


@dataclass
class _Search:
    """What has been found for one source. finished: the best texts so far, at most as many as beams, the best first."""

    index: int
    rules: _Rules
    limit: int
    finished: list[Beam] = field(default_factory=list)
    done: bool = False

    def score(self, likelihood: float, length: int) -> float:
        return likelihood / length**self.rules.settings.length_penalty

    def choose(
        self, likelihoods: Sequence[float], beams: Sequence[int], tokens: Sequence[int], length: int, written: Tensor
    ) -> list[int]:
        """Which candidates, the best first, go on; others are texts now. written: (B, length) by each beam before this token."""
        settings, going = self.rules.settings, []
        for rank, (likelihood, beam, token) in enumerate(zip(likelihoods, beams, tokens, strict=True)):
            if likelihood == NEVER:
                break
            ended = token in self.rules.ends
            if not ended and length < self.limit:
                going.append(rank)
                if len(going) == settings.beams:
                    break
            elif rank < settings.beams:
                self.finished.append(Beam((*written[beam].tolist(), token), self.score(likelihood, length), ended))
        self.finished = sorted(self.finished, key=lambda text: -text.score)[: settings.beams]
        self.done = not going or self._settled(likelihoods[going[0]], length)
        return going

    def _settled(self, likelihood: float, length: int) -> bool:
        """Whether open beams, the best of which has this log-probability, are no longer worth following."""
        settings = self.rules.settings
        if len(self.finished) < settings.beams:
            return False
        if settings.early_stopping is True:
            return True
        hopeful = settings.early_stopping == "never" and settings.length_penalty > 0
        return self.score(likelihood, self.limit if hopeful else length) <= self.finished[-1].score


def _follow(network: Writer, cache: Cache, last_RD: Tensor, searches: list[_Search], history_RT: Tensor, rules: _Rules) -> None:
    """Search on until every source is done. What is given stands at the end of the beginnings, a row for each source."""
    beams, device = rules.settings.beams, last_RD.device
    history_RT, summed_R = history_RT.to(device), torch.zeros(len(searches), device=device)
    length = 0
    while True:
        shares_RV = network.logits(last_RD).log_softmax(-1, dtype=torch.float32)  # as in `score`, whatever is forbidden
        rules.forbid(shares_RV, history_RT, length)
        found = _best(shares_RV, summed_R, len(searches), rules.candidates)
        written_SBT = history_RT[:, history_RT.shape[1] - length :].unflatten(0, (len(searches), -1)).cpu()
        length += 1
        seats: list[list[tuple[float, int, int]]] = []
        candidates = zip(*(part.tolist() for part in found), strict=True)
        for search, written, (summed, parents, chosen) in zip(searches, written_SBT, candidates, strict=True):
            going = search.choose(summed, parents, chosen, length, written)
            seats.append(_seats(going, summed, parents, chosen, beams))
        if length == 1:
            cache.fork(beams)
            history_RT = history_RT.repeat_interleave(beams, 0)
        order = compact([not search.done for search in searches])
        if not order:
            return
        searches = [searches[source] for source in order]
        rows = [(summed, source * beams + beam, token) for source in order for summed, beam, token in seats[source]]
        summed_R, origins_R, new_R = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
        cache.reorder(origins_R)
        history_RT = torch.cat([history_RT[origins_R], new_R[:, None]], 1)
        last_RD = go_on(network, cache, new_R)


def _best(shares_RV: Tensor, summed_R: Tensor, sources: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of each source, (S, C) each, the best first: the log-probability of all that is new, which beam goes
    on, with which token."""
    top_RC, tokens_RC = _largest(shares_RV, min(count, shares_RV.shape[1]))
    summed_SN = (top_RC + summed_R[:, None]).view(sources, -1)
    best_SC, places_SC = summed_SN.topk(min(count, summed_SN.shape[1]))
    return best_SC, places_SC // top_RC.shape[1], tokens_RC.view(sources, -1).gather(1, places_SC)


def _largest(scores_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """torch.topk for few of many: they are in the stretches whose largest are the largest, and those are found many at a time."""
    rows, size = scores_RV.shape
    if size < 4 * SCAN * count:
        return scores_RV.topk(count)
    even = size - size % SCAN
    stretches = scores_RV[:, :even].unflatten(1, (-1, SCAN)).amax(-1).topk(count).indices
    ids = (stretches[..., None] * SCAN + torch.arange(SCAN, device=scores_RV.device)).flatten(1)
    ids = torch.cat([ids, torch.arange(even, size, device=scores_RV.device).expand(rows, -1)], 1)
    values, places = scores_RV.gather(1, ids).topk(count)
    return values, ids.gather(1, places)


def _seats(
    going: Sequence[int], likelihoods: Sequence[float], parents: Sequence[int], tokens: Sequence[int], beams: int
) -> list[tuple[float, int, int]]:
    """Which candidate each beam is from now on: its log-probability, the beam it comes from, its token. As many as can be go on
    from themselves, so that little is copied; a beam for which there is no candidate is dead."""
    taken: dict[int, int] = {}
    waiting = [rank for rank in going if taken.setdefault(parents[rank], rank) != rank]
    free = (beam for beam in range(beams) if beam not in taken)
    taken |= dict(zip(free, waiting, strict=False))
    ranks = [taken.get(beam) for beam in range(beams)]
    return [
        (NEVER, beam, 0) if rank is None else (likelihoods[rank], parents[rank], tokens[rank]) for beam, rank in enumerate(ranks)
    ]


def _right(rows: Sequence[Sequence[int]]) -> Tensor:
    """(R, T) ids that end at the same place, -1 before them."""
    length = max(map(len, rows))
    return torch.tensor([[-1] * (length - len(row)) + list(row) for row in rows])
