"""The gradients of a game against exact enumeration of every text (Yu et al. 2017; Nie et al. 2019), and its phases."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from yanmo import models
from yanmo.errors import UserError
from yanmo.objectives.adversarial import Adversarial, beyond_others, gumbel, relaxed
from yanmo.recipe import AdversarialObjective, parse_recipe

TOKENS, LENGTH, END, PAD = 4, 3, 3, 4
HEADS = {"lstm": {}, "gpt2": {"heads": 1}}


class Four:
    """Four tokens, the last of which ends a text and begins the next."""

    prefix, suffix, pad, size, special = (), (END,), PAD, TOKENS, frozenset((END,))


class Table(nn.Module):
    """A discriminator that is linear in what stands at each place of a text."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.randn((TOKENS + 1,) * LENGTH, dtype=torch.float64))

    def forward(self, texts, soft=None, places=None):
        x = nn.functional.one_hot(texts.flatten(), TOKENS + 1).double()
        if soft is not None:
            x = x.index_copy(0, places, nn.functional.pad(soft, (0, TOKENS + 1 - soft.shape[1])))
        first, second, third = x.view(*texts.shape, -1).unbind(1)
        return torch.einsum("na,nb,nc,abc->n", first, second, third, self.values)[:, None]

    def logits(self, hidden):
        return hidden


def game(estimator="policy-gradient", family="lstm", **settings):
    torch.manual_seed(0)
    recipe = parse_recipe({"model": {"family": family, "layers": 1, "width": 8} | HEADS[family]}, "tiny")
    network = models.build(recipe.model, vocabulary=TOKENS + 1, length=8).double()
    made = Adversarial(network, Four(), AdversarialObjective(estimator=estimator, longest=LENGTH, **settings)).double()
    made.discriminator = Table()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter.mul_(3)                             # chances that are far from even
    made.begin(99, 100)
    return made


def every_text(made):
    texts = [text for text in product(range(made.pen.size), repeat=LENGTH) if END not in text[:-1]]
    if made.pen.size == END:
        return torch.tensor(texts)
    for size in range(LENGTH - 1):
        texts += [(*text, END, *[PAD] * (LENGTH - 1 - size)) for text in product(range(END), repeat=size)]
    return torch.tensor(sorted(texts))


def log_chances(made, texts):
    """Of every token of texts, (N, L), zero after their ends, and the chances of all tokens there, (N, L, V)."""
    logits = made.network.logits(made.pen.read_again(texts))[..., : made.pen.size].log_softmax(-1)
    real = torch.arange(LENGTH) < made.pen.sizes(texts)[:, None]
    return logits.gather(-1, texts.clamp(max=made.pen.size - 1)[..., None])[..., 0] * real, logits


def gradient(value, made):
    grads = torch.autograd.grad(value, list(made.network.parameters()), allow_unused=True)
    return torch.cat([(torch.zeros_like(one) if grad is None else grad).flatten()
                      for grad, one in zip(grads, made.network.parameters(), strict=True)])


def expected(made, value):
    """The gradient of the mean of `value` over what the generator writes."""
    texts = every_text(made)
    chances = log_chances(made, texts)[0].sum(1).exp()
    assert chances.sum().item() == pytest.approx(1)
    return gradient((chances * value(texts).detach()).sum(), made)


def check(estimates, exact):
    """The mean of estimates is as far from the truth as its own error lets it be, and that is near."""
    estimates = torch.stack(estimates)
    error = (estimates.std(0) / len(estimates) ** 0.5).norm()
    distance = (estimates.mean(0) - exact).norm()
    assert distance < 2.5 * error
    assert error < 0.06 * exact.norm()


@pytest.mark.parametrize("family", ["lstm", "gpt2"])
def test_the_policy_gradient_is_that_of_the_expected_reward(family):
    made = game(family=family, rollouts=2)
    made.eval()
    exact = expected(made, made._chance)
    real = torch.zeros(10000, LENGTH, dtype=torch.long)
    check([-gradient(made._by_policy(real) / len(real), made) for _ in range(12)], exact)


def test_the_loss_of_a_policy_is_minus_its_reward():
    made = game()
    made.eval()
    texts = every_text(made)
    reward = (log_chances(made, texts)[0].sum(1).exp() * made._chance(texts)).sum().item()
    assert -made._by_policy(torch.zeros(4000, LENGTH, dtype=torch.long)).item() / 4000 == pytest.approx(reward, abs=0.01)


def test_roll_outs_say_what_a_beginning_is_worth():
    made = game().eval()
    texts, worth = made.pen.write_and_judge(20, 500, made._chance)
    known = every_text(made)
    chances = log_chances(made, known)[0].sum(1).exp()
    for text, found in zip(texts, worth, strict=True):
        for place in range(int(made.pen.sizes(text[None]))):
            same = (known[:, : place + 1] == text[: place + 1]).all(1)
            mean = (chances * made._chance(known))[same].sum() / chances[same].sum()
            assert found[place].item() == pytest.approx(mean.item(), abs=0.03)


def test_texts_are_written_as_likely_as_they_are():
    made = game().eval()
    texts = every_text(made)
    chances = log_chances(made, texts)[0].sum(1).exp()
    written = made.pen.write(20000)
    found = torch.stack([(written == text).all(1).float().mean() for text in texts])
    assert found.sum().item() == pytest.approx(1)
    assert ((found - chances).abs() < 4.5 * (chances * (1 - chances) / 20000).sqrt() + 1e-4).all()


def alike_everywhere(made):
    """Let the generator forget what it has written."""
    with torch.no_grad():
        for name, parameter in made.network.named_parameters():
            if name.endswith(("input", "state")):
                parameter.zero_()
            if name.endswith("bias"):
                parameter.normal_()


def test_the_relaxed_gradient_is_exact_where_later_tokens_do_not_depend_on_earlier_ones():
    made = game("gumbel-softmax")
    alike_everywhere(made)
    made.sharpness, made.pen = 60.0, replace(made.pen, size=END)  # an end cuts later tokens off
    exact = expected(made, lambda texts: made.discriminator(texts)[:, 0])
    check([gradient(_of_written(made, 25000), made) for _ in range(12)], exact)


def test_the_relaxed_gradient_leaves_out_what_a_token_does_to_later_ones():
    """As RelGAN has it, each place's gradient holds the other tokens fixed. For very sharp choices it is the sum over pairs of
    tokens of the rate at which one becomes the other, times what changes with a rest that follows on either."""
    made = game("gumbel-softmax")
    made.sharpness = 60.0
    check([gradient(_of_written(made, 25000), made) for _ in range(12)], _at_borders(made, made.discriminator))


def _of_written(made, count):
    texts, soft = made._written(count)
    return made.discriminator(texts, *soft).sum() / count


def _at_borders(made, table):
    texts = every_text(made)
    own, logits = log_chances(made, texts)
    total = 0.0
    for place in range(LENGTH):
        begun = {tuple(text[:place].tolist()) for text in texts[made.pen.sizes(texts) > place]}
        for prefix in map(torch.tensor, sorted(begun)):
            like = (texts[:, :place] == prefix).all(1) & (made.pen.sizes(texts) > place)
            rows = texts[like]
            chance = own[like][0, :place].sum().exp().detach()
            scores = logits[like][0, place]
            rest = own[like][:, place + 1 :].sum(1).exp().detach()
            for a in range(TOKENS):
                for b in range(a):
                    worth = 0.0
                    for real in (a, b):
                        future = rows[:, place] == real
                        swapped = [rows[future].clone() for _ in range(2)]
                        for text, token in zip(swapped, (a, b), strict=True):
                            text[:, place] = token
                        worth += 0.5 * (rest[future] * (table(swapped[0]) - table(swapped[1]))[:, 0]).sum().detach()
                    rate = (scores[a] + scores[b]).exp().detach()
                    total = total + chance * rate * worth * (scores[a] - scores[b])
    return gradient(total, made)


def test_relaxed_choices_are_distributed_as_without_knowing_them():
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 0.0, -1.0, 0.5]]).double().expand(40000, -1)
    chosen = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    found, direct = relaxed(logits, chosen, 1.5), torch.softmax(1.5 * gumbel(logits.log_softmax(-1)), -1)
    assert torch.equal(found.argmax(-1), chosen)
    for power in (1, 2):
        assert torch.allclose((found**power).mean(0), (direct**power).mean(0), atol=6e-3)


def test_worth_is_counted_beyond_the_other_texts():
    worth, sizes = torch.tensor([[0.2, 0.4], [0.6, 0.0], [0.4, 0.8]]), torch.tensor([2, 1, 2])
    found = beyond_others(worth, sizes)
    assert torch.allclose(found, torch.tensor([[-0.3, -0.4], [0.3, 0.0], [0.0, 0.4]]), atol=1e-6)


def test_phases_follow_the_recipe_and_begin_their_schedules_anew():
    made = game(start=0.5, warm=0.2, discriminator_turns=2, pace=0.1)
    moments = [made.moment(step, 100) for step in (0, 49, 50, 59, 60, 99)]
    assert [(one.number, one.step, one.steps) for one in moments] == [
        (0, 0, 50), (0, 49, 50), (1, 0, 10), (1, 9, 10), (2, 0, 40), (2, 39, 40)]
    assert [tuple(phase.turns) for phase in made.phases] == [
        ("generator",), ("discriminator",), ("generator", "discriminator", "discriminator")]
    assert [phase.pace for phase in made.phases] == [1.0, 0.1, 0.1]


def test_the_generator_of_maximum_likelihood_is_kept():
    made = game(start=0.5)                                # which has begun to play
    before = [weight.clone() for weight in made.network.parameters()]
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(1)
    made.begin(51, 100)                                   # again: as when a run goes on
    kept = made.companions()["likelihood"]
    for weight, other in zip(kept.parameters(), before, strict=True):
        assert torch.allclose(weight.double(), other, atol=1e-6)
    assert any(name.startswith("snapshot.") for name in made.state_dict())


def test_a_game_that_goes_on_keeps_the_generator_it_began_with():
    for start, kept in ((0.0, True), (0.5, False)):
        made, other = game(start=start), game().network
        with torch.no_grad():
            for weight in other.parameters():
                weight.add_(1)
        made.adopt("likelihood", other)
        found = next(made.companions()["likelihood"].parameters())
        assert torch.allclose(found.double(), next(other.parameters()), atol=1e-6) == kept


def test_choices_grow_sharp_while_the_game_is_on():
    made = game("gumbel-softmax", start=0.5, warm=0.2, sharpness=100)
    found = []
    for step in (0, 55, 60, 80, 99):
        made.begin(step, 100)
        found.append(made.sharpness)
    assert found == pytest.approx([1, 1, 1, 10, 100 ** (39 / 40)])


def test_what_it_cannot_write_is_refused():
    model = {"family": "gpt2", "layers": 1, "width": 8, "heads": 1, "positions": 16}
    network = models.build(parse_recipe({"model": model, "training": {"length": 16}}, "tiny").model, vocabulary=5, length=16)
    with pytest.raises(UserError, match=r"objective.longest 64: this gpt2 has positions for texts of 15 tokens; lower it"):
        Adversarial(network, Four(), AdversarialObjective(longest=64))
    endless = type("Endless", (Four,), {"suffix": (), "prefix": (0,)})()
    with pytest.raises(UserError, match="no token that ends a text"):
        Adversarial(network, endless, AdversarialObjective())


@pytest.mark.parametrize(("family", "more", "said"), [
    ("lstm", {"objective": {"rollouts": 2}}, r"rollouts: estimator gumbel-softmax does not read this"),
    ("bert", {}, r"objective adversarial does not fit family bert"),
    ("gpt2", {"evaluation": {"fill": ["a [MASK]"]}}, r"evaluation.fill does not fit family gpt2"),
])
def test_what_does_not_fit_a_game_is_refused(family, more, said):
    objective = {"kind": "adversarial", **more.get("objective", {})}
    with pytest.raises(UserError, match=said):
        parse_recipe({"model": {"family": family}, **more, "objective": objective}, "tiny")
