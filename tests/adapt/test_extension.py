"""Going on with a new text and a longer vocabulary."""

import math

import pytest
import torch
from short_runs import ROOT, short_recipe
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import yanmo
from yanmo import models, recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Special, build
from yanmo.recipe import parse_recipe
from yanmo.run import carry_out
from yanmo.tokenizer import Tokens, adopt_tokenizer, extended, load_tokenizer, pieces_of, save_tokenizer, train_tokenizer

transformers = pytest.importorskip("transformers")

OLD = [f"the old man told the child number {number} a tale of ships and storms on the cold sea" for number in range(60)]
NEW = [f"thrombocytopenia and hepatomegaly in patient {number}: thrombocytopenia was mild, 血小板减少" for number in range(60)]
FAMILIES = {"gpt2": "byte-bpe", "llama": "bpe", "bert": "wordpiece"}


def settings(family, **tokenizer):
    objective = {"kind": "masked"} if family == "bert" else {"kind": "causal"}
    return parse_recipe({"model": {"family": family}, "objective": objective, "tokenizer": tokenizer}, "test")


@pytest.fixture(params=FAMILIES)
def old(request, tmp_path):
    """Trained on the old text and on the letters of the new one."""
    family = request.param
    size = {"gpt2": 330, "llama": 350, "bert": 100}[family]
    letters = [" ".join(sorted(set("".join(NEW)))) + " " + "".join(sorted(set("".join(NEW)) - {" "}))] * 3
    train_tokenizer([*OLD, *letters], settings(family, vocabulary=size), tmp_path / "old")
    return family, load_tokenizer(tmp_path / "old")


def network_for(family, tokens):
    torch.manual_seed(0)
    asked = recipe.Model(family=family, size="tiny", layers=2, width=64, heads=2)
    network = build(asked, vocabulary=tokens.size, length=64, special=Special(pad=tokens.pad, bos=0, eos=0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval()


def rows(ids):
    tokens = torch.tensor([ids])
    return Packed(tokens, torch.ones_like(tokens), torch.arange(len(ids))[None], whole=True)


def test_new_texts_take_fewer_tokens_and_old_ones_stay(old):
    _, tokens = old
    longer = extended(tokens, NEW, 60, 2, "here")
    assert tokens.size < longer.size <= tokens.size + 60
    before, after = (sum(map(len, one.encode(NEW))) for one in (tokens, longer))
    assert after < 0.6 * before
    assert longer.encode(OLD) == tokens.encode(OLD)
    assert longer.decode(longer.encode(NEW)[0]) == tokens.decode(tokens.encode(NEW)[0])
    vocabulary = longer.tokenizer.get_vocab(with_added_tokens=True)
    assert all(vocabulary[name] == number for name, number in tokens.tokenizer.get_vocab(with_added_tokens=True).items())
    assert any("thrombocytopenia" in name for name in vocabulary)


def test_rows_begin_at_the_mean_of_old_pieces(old):
    family, tokens = old
    longer = extended(tokens, NEW, 20, 2, "here")
    network, pieces = network_for(family, tokens), pieces_of(longer, tokens)
    grown = models.grow(network, longer.size, tokens.size, pieces).eval()
    assert sorted(pieces) == list(range(tokens.size, longer.size))
    table, known = grown.head.weight, network.head.weight
    for number, ids in pieces.items():
        assert len(ids) > 1
        torch.testing.assert_close(table[number], known[ids].mean(0))
    ids = tokens.encode(OLD[:1])[0][:40]
    assert longer.encode(OLD[:1])[0][:40] == ids
    was, now = (one.logits(one(rows(ids)))[..., : tokens.size] for one in (network, grown))
    assert torch.equal(was, now) or torch.allclose(was, now, atol=1e-6)


@torch.no_grad()
def test_the_loss_of_the_new_text_is_not_much_worse(tmp_path):
    """Bits per byte of the new text, by a decoder that has learned the old one, before anything is learned of longer tokens."""
    letters = ["".join(sorted(set("".join(NEW))))] * 3
    train_tokenizer([*OLD, *letters], settings("gpt2", vocabulary=330), tmp_path / "old")
    tokens = load_tokenizer(tmp_path / "old")
    longer = extended(tokens, NEW, 20, 2, "here")
    network = network_for("gpt2", tokens)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for text in OLD[:40]:
        ids = tokens.encode([text])[0][:60]
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(network.logits(network(rows(ids)))[0, :-1], torch.tensor(ids[1:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def bits(model, its_tokens):
        found = 0.0
        for text in NEW[:10]:
            ids = [0, *its_tokens.encode([text])[0]]
            chances = model.eval().logits(model(rows(ids)))[0, :-1].log_softmax(-1)
            found -= float(chances.gather(1, torch.tensor(ids[1:])[:, None]).sum()) / math.log(2)
        return found / sum(len(text.encode()) for text in NEW[:10])

    first = bits(network, tokens)
    grown = models.grow(network, longer.size, tokens.size, pieces_of(longer, tokens))
    assert bits(grown, longer) < 1.1 * first


def test_transformers_reads_both(tmp_path, old):
    family, tokens = old
    longer = extended(tokens, NEW, 20, 2, "here")
    grown = models.grow(network_for(family, tokens), longer.size, tokens.size, pieces_of(longer, tokens)).eval()
    models.save(grown, tmp_path / "model")
    save_tokenizer(longer, tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert theirs(NEW[0], add_special_tokens=False)["input_ids"] == longer.encode(NEW[:1])[0]
    kind = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    model, ids = kind.from_pretrained(tmp_path / "model").eval(), longer.encode(NEW[:1])[0][:40]
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor([ids])).logits, grown.logits(grown(rows(ids))), atol=1e-5, rtol=1e-4)


def test_a_recipe_extends_what_it_adopts(tmp_path):
    train_tokenizer([*OLD, *NEW[:2]], settings("gpt2", vocabulary=300), tmp_path / "old")
    asked = settings("gpt2", file=str(tmp_path / "old"), extend=10)
    adopt_tokenizer(tmp_path / "old", NEW, asked, tmp_path / "new")
    assert load_tokenizer(tmp_path / "new").size == 310


def test_what_cannot_be_extended_is_refused(tmp_path):
    train_tokenizer(OLD, settings("gpt2", vocabulary=290), tmp_path / "old")
    tokens = load_tokenizer(tmp_path / "old")
    with pytest.raises(UserError, match="says nothing 99999 times"):
        extended(tokens, NEW, 10, 99999, "here")
    level = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UserError, match=r"no tokenizer to extend; set model\.start or tokenizer\.file"):
        settings("gpt2", extend=5)
    with pytest.raises(UserError, match="kind WordLevel cannot be extended; BPE and WordPiece can"):
        extended(Tokens.from_json(level.to_str().encode()), NEW, 10, 2, "here")


def test_a_run_goes_on_with_a_longer_vocabulary(tmp_path):
    """The stages of a recipe: what is learned of the new text is in the tokenizer, the rows and the folder."""
    path = ROOT / "recipes" / "gpt2-en.yaml"
    first = carry_out(short_recipe(path, tmp_path, "name=first"), until="pretrain").folder / "pretrain" / "model"
    more = ["name=second", f"model={{start: {first}}}", "tokenizer={extend: 40}", "objective={kind: causal}"]
    more += ["training.learning_rate=1e-9", "training.matrix_learning_rate=1e-9"]
    run = carry_out(short_recipe(path, tmp_path, *more), until="pretrain")
    (before, known), (after, tokens) = yanmo.load(first), yanmo.load(run.folder / "pretrain" / "model")
    assert after.config.tokens == tokens.size == known.size + 40
    pieces = pieces_of(tokens, known)
    assert len(pieces) == 40
    for number, ids in pieces.items():
        torch.testing.assert_close(after.head.weight[number], before.head.weight[ids].mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.head.weight[: known.size], before.head.weight[: known.size], atol=1e-5, rtol=0)
