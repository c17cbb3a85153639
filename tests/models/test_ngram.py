"""Kneser-Ney: by hand, by the formulas written out slowly, and as a network like every other."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from yanmo import models
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import kneser_ney
from yanmo.models.kneser_ney import discounts, estimate
from yanmo.recipe import Model, parse_recipe

BEGIN, END, A, B, UNSEEN = range(5)


class Texts:
    def __init__(self, texts):
        self.texts = [np.array(text, np.uint16) for text in texts]
        self.lengths = np.array([len(text) for text in texts])

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, document, /):
        starts = np.zeros(1, np.int64)
        return self.texts[document], starts, starts


def counted(texts, order, vocabulary, lead=(BEGIN,)):
    network = models.build(Model(family="ngram", order=order), vocabulary=vocabulary, length=32)
    network.count(Texts(texts), lead, (END,))
    return network


def packed(*rows):
    """Rows of documents, padded at the end."""
    length = max(sum(map(len, row)) for row in rows)
    arrays = torch.zeros(3, len(rows), length, dtype=torch.int64)
    for row, documents in enumerate(rows):
        at = 0
        for number, document in enumerate(documents, 1):
            here = slice(at, at + len(document))
            arrays[:, row, here] = torch.tensor([document, [number] * len(document), list(range(len(document)))])
            at += len(document)
    return Packed(*arrays)


def chances(network, context):
    return network.logits(network(packed([context])))[0, -1].exp()


def test_probabilities_by_hand():
    """<s> A B A </s> and <s> A B </s>. No count of three, so the discounts are 0.5 for a count of one and 1 for two.

    One token: A follows <s> and B, B follows A, </s> follows A and B: counts 2, 1, 2 of 5; taken away 1 + 0.5 + 1, which is
    half, shared by 5 tokens: 0.1 for each.
    After <s>: A twice, (2 - 1) / 2, and a half is left. After A: B twice, </s> once: 1/3, 0.5/3, and a half is left.
    After B: A and </s> once each: 0.25, 0.25, and a half is left.
    """
    network = counted([[A, B, A], [A, B]], 2, 5)
    one = torch.tensor([0.1, 0.3, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected = {
        BEGIN: one / 2 + torch.tensor([0, 0, 0.5, 0, 0]),
        A: one / 2 + torch.tensor([0, 0.5 / 3, 0, 1 / 3, 0]),
        B: one / 2 + torch.tensor([0, 0.25, 0.25, 0, 0]),
        UNSEEN: one,
    }
    for context, wanted in expected.items():
        found = chances(network, [context])
        torch.testing.assert_close(found[:5], wanted, atol=1e-7, rtol=1e-6)
        assert not found[5:].any(), "ids that only pad the vocabulary are no tokens"


def test_discounts_by_hand():
    """Six ones, three twos, two threes, one four: Y = 6 / (6 + 2 * 3)."""
    found = discounts(np.array([1] * 6 + [2] * 3 + [3] * 2 + [4, 9]))
    assert found.tolist() == pytest.approx([0, 1 - 2 * 0.5 * 3 / 6, 2 - 3 * 0.5 * 2 / 3, 3 - 4 * 0.5 * 1 / 2])


class Slow:
    """Chen and Goodman 1998, equations 24 to 26, one n-gram at a time."""

    def __init__(self, texts, order, vocabulary):
        whole = [(BEGIN, *text, END) for text in texts]
        self.order, self.vocabulary = order, vocabulary
        raw = [Counter(text[at : at + size] for text in whole for at in range(len(text) - size + 1)) for size in range(order + 1)]
        self.counts = {order: raw[order]}
        for size in range(1, order):
            before = defaultdict(set)
            for gram in raw[size + 1]:
                before[gram[1:]].add(gram[0])
            own = {gram: len(found) for gram, found in before.items()}
            own |= {gram: count for gram, count in raw[size].items() if size > 1 and gram[0] == BEGIN}
            self.counts[size] = own
        if order == 1:
            self.counts[1] = {gram: count for gram, count in raw[1].items() if gram != (BEGIN,)}
        self.discounts = {size: self._discounts(list(own.values())) for size, own in self.counts.items()}

    def _discounts(self, counts):
        n1, n2, n3, n4 = (counts.count(number) for number in (1, 2, 3, 4))
        if not min(n1, n2, n3):
            return 0.5, 1, 1.5
        y = n1 / (n1 + 2 * n2)
        found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        return found if min(found) > 0 else (0.5, 1, 1.5)

    def chance(self, context, token):
        if len(context) >= self.order:
            context = context[len(context) - self.order + 1 :]
        size = len(context) + 1
        after = {gram[-1]: count for gram, count in self.counts[size].items() if gram[:-1] == context}
        lower = self.chance(context[1:], token) if context else 1 / self.vocabulary
        if not after:
            return lower
        total, taken = sum(after.values()), self.discounts[size]
        own = after[token] - taken[min(after[token], 3) - 1] if token in after else 0
        return own / total + sum(taken[min(count, 3) - 1] for count in after.values()) / total * lower


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_by_the_formulas(order):
    rng = np.random.default_rng(order)
    vocabulary = 40
    ids = 2 + np.minimum(rng.zipf(1.5, 3000) - 1, vocabulary - 4)
    texts = [part.tolist() for part in np.split(ids, np.sort(rng.choice(3000, 60, replace=False))) if len(part)]
    slow, network = Slow(texts, order, vocabulary), counted(texts, order, vocabulary)
    assert order == 1 or slow.discounts[order] != (0.5, 1, 1.5), "enough text for real discounts"
    contexts = [(BEGIN, *text[: int(rng.integers(len(text) + 1))]) for text in texts[:12]]
    contexts += [(BEGIN, *rng.integers(2, vocabulary, 5).tolist()) for _ in range(8)]
    for context in contexts:
        wanted = torch.tensor([slow.chance(context, token) for token in range(vocabulary)], dtype=torch.float64)
        found = chances(network, list(context))
        torch.testing.assert_close(found[:vocabulary], wanted, atol=1e-7, rtol=1e-5)
        assert float(found.sum()) == pytest.approx(1, abs=1e-6)
        assert (found[:vocabulary] > 0).all()


def random_texts(seed=0, count=30):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 9, rng.integers(1, 25)).tolist() for _ in range(count)]


def test_chunks_give_what_the_whole_gives(monkeypatch):
    texts = Texts(random_texts())
    whole = estimate(texts, 4, 9, (BEGIN,), (END,))
    monkeypatch.setattr(kneser_ney, "CHUNK", 40)
    for one, other in zip(whole, estimate(texts, 4, 9, (BEGIN,), (END,)), strict=True):
        for name in ("keys", "chances", "left"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_text_without_a_beginning():
    """Without a token before it the first one is given nothing: it counts among the single tokens, once for each text."""
    network = counted([[A, A], [B, A]], 2, 5, lead=())
    whole = [(A, A, END), (B, A, END)]
    follows = {(text[at], text[at + 1]) for text in whole for at in range(2)}
    counts = [sum(pair[1] == token for pair in follows) + sum(text[0] == token for text in whole) for token in range(5)]
    taken = [(0, 0.5, 1, 1.5)[min(count, 3)] for count in counts]
    wanted = [(count - off) / sum(counts) + sum(taken) / sum(counts) / 5 for count, off in zip(counts, taken, strict=True)]
    assert chances(network, [UNSEEN])[:5].tolist() == pytest.approx(wanted)


def test_packed_is_unpacked_and_cached_is_uncached():
    texts = random_texts()
    network = counted(texts, 4, 9)
    together = network(packed([texts[0], texts[1]], [texts[2]]))
    for (row, start), text in zip(((0, 0), (0, len(texts[0])), (1, 0)), texts, strict=False):
        assert torch.equal(together[row, start : start + len(text)], network(packed([text]))[0])
    prompts = [texts[0][:3], texts[3][:1]]
    cache = network.cache(2, 9)
    tokens = torch.tensor([prompts[0], prompts[1] + [0, 0]])
    hidden = network(cache.take(tokens, torch.tensor([3, 1])), cache)[torch.arange(2), torch.tensor([2, 0])]
    for _ in range(4):
        for row, prompt in enumerate(prompts):
            assert torch.equal(hidden[row], network(packed([prompt]))[0, -1])
        new = network.logits(hidden).argmax(-1)
        prompts = [[*prompt, token] for prompt, token in zip(prompts, new.tolist(), strict=True)]
        hidden = network(cache.take(new[:, None]), cache)[:, 0]
    cache.keep(torch.tensor([1]))
    assert torch.equal(network(cache.take(torch.tensor([[A]])), cache)[0, -1], network(packed([[*prompts[1], A]]))[0, -1])


def test_an_answer_alone_has_the_probability_it_has_among_all():
    texts = random_texts()
    network = counted(texts, 3, 9)
    hidden, answers = network(packed([texts[5]]))[0, :-1], torch.tensor(texts[5][1:])
    among_all = network.logits(hidden).gather(1, answers[:, None])[:, 0]
    torch.testing.assert_close(network.log_probabilities(hidden, answers), among_all)


def test_folder_gives_back_what_was_saved(tmp_path):
    network = counted(random_texts(), 3, 9)
    models.save(network, tmp_path)
    again = models.load(tmp_path)
    assert again.config == network.config
    for (name, one), (other_name, other) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"order": 0}, "order 0: an n-gram has at least 1 token"),
        ({"dropout": 0.1}, "model.dropout: nothing in ngram reads it: all text is counted once.*leave it out"),
        ({"layers": 2, "width": 64}, "model.layers, model.width: nothing in ngram reads these.*leave them out"),
        ({"family": "lstm", "order": 3}, "order 3: lstm counts no n-grams"),
        ({"family": "lstm", "heads": 4}, "model.heads: nothing in lstm reads it; leave it out"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_recipe_is_read(model, message):
    with pytest.raises(UserError, match=message):
        parse_recipe({"model": {"family": "ngram"} | model}, "recipe")


@pytest.mark.parametrize(
    ("family", "kind"), [("ngram", "causal"), ("lstm", "counting"), ("gpt2", "counting"), ("lstm", "masked")]
)
def test_an_objective_that_does_not_fit_is_refused(family, kind):
    with pytest.raises(UserError, match=f"objective {kind} does not fit family {family}"):
        parse_recipe({"model": {"family": family}, "objective": {"kind": kind}}, "recipe")


def test_counts_are_not_gone_on_with():
    network = counted([[A, B, A]], 2, 5)
    with pytest.raises(UserError, match=r"model.start: an n-gram model cannot go on"):
        network.count(Texts([[A]]), (BEGIN,), (END,))


def test_an_order_that_no_text_is_long_enough_for():
    with pytest.raises(UserError, match=r"model.order 9 is larger than the longest text, which has 5 tokens"):
        counted([[A, B, A], [A]], 9, 5)
