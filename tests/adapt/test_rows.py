"""Rows of tokens that are new to a network: learned as in full fine-tuning, and plain peft reads them."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_networks import ALL, packed, run, tiny

sys.path.append(str(Path(__file__).parent.parent / "tasks"))
from small_tasks import network_of, tokens_of

from yanmo import adapt, models
from yanmo.adapt import Lora, add_lora, fold_rows, freeze, grown, learn_rows, load_adapter, rows_of, save_adapter
from yanmo.adapt.lora import lora_weights
from yanmo.adapt.rows import set_rows
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.finetune import Trial, finetune, identity
from yanmo.labelled.data import Data
from yanmo.labelled.examples import Related
from yanmo.models import FAMILIES
from yanmo.predict import load_task
from yanmo.recipe import parse_task
from yanmo.tasks.folder import merge_task
from yanmo.tokenizer import load_tokenizer, save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
"""peft asks transformers under the old name."""
KNOWN, NEW = 120, (120, 121, 122)
AUTO = {"t5 tied": "AutoModelForSeq2SeqLM", "bart": "AutoModelForSeq2SeqLM"}


def with_new(batch=None):
    """A batch in which every new token stands twice and more."""
    batch = packed(3, 20, 1) if batch is None else batch
    batch.tokens[:, 3:9] = torch.tensor(NEW * 2)
    return batch


def moved(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*rows_of(network).values(), *lora_weights(network).values()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def new(family):
    name, _, tied = family.partition(" ")
    if tied not in ("tied", "untied"):
        return tiny(family)
    network = tiny(name)
    if tied:
        settings = {**network.config.settings, "tie_word_embeddings": tied == "tied"}
        network = FAMILIES[name].network(FAMILIES[name].understand(settings, pair=False, where="test")).eval()
        torch.manual_seed(2)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def logits(network, batch):
    return network.logits(run(network, batch))


@pytest.mark.parametrize("family", [*ALL, "llama untied", "t5 tied"])
def test_their_gradient_is_that_of_the_whole_table(family):
    """The same scores as before and as after folding; the same gradient as full fine-tuning gives these rows."""
    network, batch = grown(new(family), 123, KNOWN), with_new()
    full, before = copy.deepcopy(network), logits(network, batch)
    freeze(network)
    touched = learn_rows(network, NEW)
    assert {name for name, one in network.named_parameters() if one.requires_grad and "rows" in name}
    assert touched.learned == sum(one.numel() for one in network.parameters() if one.requires_grad)
    torch.testing.assert_close(logits(network, batch), before, atol=1e-6, rtol=1e-6)
    moved(network)
    tables = dict(full.named_parameters())
    with torch.no_grad():
        for name, rows in rows_of(network).items():
            tables[name][list(NEW)] = rows
    weights = torch.randn_like(before)
    made, wanted = logits(network, batch), logits(full, batch)
    torch.testing.assert_close(made, wanted, atol=1e-6, rtol=1e-6)
    assert (made - before).abs().max() > 1e-3
    (made * weights).sum().backward()
    (wanted * weights).sum().backward()
    for name, rows in rows_of(network).items():
        torch.testing.assert_close(rows.grad, tables[name].grad[list(NEW)], atol=1e-4, rtol=1e-4)
    assert torch.equal(network.head.weight, full.head.weight)
    fold_rows(network)
    assert {name for name, _ in network.named_parameters()} == tables.keys()
    assert all(torch.equal(one, tables[name]) for name, one in network.named_parameters())


@pytest.mark.parametrize(
    ("family", "room"), [*((name, False) for name in ("gpt2", "llama", "llama untied", "t5 tied", "bart")), ("gpt2", True)]
)
@torch.no_grad()
def test_plain_peft_reads_them(tmp_path, family, room):
    """Where the base has room for them as it is, and where transformers must be told to make room first."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, known = new(family), KNOWN if room else 128
    base = base if room else grown(base, 128, KNOWN)
    models.save(base, tmp_path / "base")
    ids = tuple(range(known, known + 3))
    network, batch = grown(models.load(tmp_path / "base"), known + 3, known).eval(), packed(3, 20, 1)
    batch.tokens[:, 3:9] = torch.tensor(ids * 2)
    add_lora(network, Lora(2))
    learn_rows(network, ids)
    made = logits(moved(network), batch)
    save_adapter(network, tmp_path / "adapter", tmp_path / "base")
    told = json.loads((tmp_path / "adapter" / "adapter.json").read_text())["tokens"]
    assert told == {"ids": list(ids), "peft": None if room else "read it after model.resize_token_embeddings(131)"}
    model = getattr(transformers, AUTO.get(family, "AutoModelForCausalLM")).from_pretrained(tmp_path / "base")
    if told["peft"]:
        model.resize_token_embeddings(131)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    asked = {"decoder_input_ids": batch.tokens} if model.config.is_encoder_decoder else {}
    found = model(input_ids=batch.tokens, attention_mask=torch.ones_like(batch.tokens), **asked).logits
    torch.testing.assert_close(found[..., : known + 3], made[..., : known + 3], atol=1e-5, rtol=1e-5)
    other, *_ = load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(other.eval(), batch), made)
    with pytest.raises(UserError, match="for another network"):
        set_rows(other, {name: rows[:2] for name, rows in rows_of(other).items()}, "here")


@torch.no_grad()
def test_plain_peft_reads_markers_of_a_task(learned, base):
    """BERT's own head of tokens, on a base that has no rows for markers."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    folder, task, _ = learned["lora"]
    model = transformers.AutoModelForTokenClassification.from_pretrained(base, num_labels=task.head.outputs)
    room = task.tokens.size > model.config.vocab_size
    told = json.loads((folder / "adapter.json").read_text())["tokens"]["peft"]
    assert told == (f"read it after model.resize_token_embeddings({task.tokens.size})" if room else None)
    model.resize_token_embeddings(task.tokens.size)
    model = peft.PeftModel.from_pretrained(model, folder).eval()
    tokens = torch.from_numpy(task.encode(related()[:1])[0].tokens)[None].long()
    batch = Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True)
    made = task.head(task.network.states(batch, "token"), batch)
    torch.testing.assert_close(model(input_ids=tokens).logits, made, atol=1e-5, rtol=1e-5)


def test_it_says_where_plain_peft_would_compute_something_else(tmp_path):
    for family in ("bert", "t5 untied"):
        models.save(new(family), tmp_path / family)
        network = grown(models.load(tmp_path / family), 123, KNOWN)
        add_lora(network, Lora(2))
        learn_rows(network, NEW)
        save_adapter(network, tmp_path / "adapter" / family, tmp_path / family)
        told = json.loads((tmp_path / "adapter" / family / "adapter.json").read_text())["tokens"]
        assert told["peft"] == "cannot read the scores over the vocabulary: merge the adapter instead"


def test_what_cannot_be_is_refused():
    network = tiny("bert")
    with pytest.raises(UserError, match="tokens 128, 129 have no row in a table of 128"):
        learn_rows(network, (127, 128, 129))
    learn_rows(network, NEW)
    with pytest.raises(UserError, match="learned already"):
        learn_rows(network, NEW)


SECTION = {"training": {"epochs": 2, "length": 64, "batch": 4, "learning_rate": 5e-3, "validate_every": 9}, "lint": False}
TEXTS = ["The company {} was founded in the small town of {} by two brothers.", "In {} the old baker of {} makes bread."]
NAMES = ["Antwerp", "Ghent", "Shanghai", "Nanjing", "Willem", "Rijn"]


def related():
    found = []
    for number in range(12):
        head, tail = NAMES[number % 6], NAMES[(number + 2) % 6]
        text = TEXTS[number % 2].format(head, tail)
        place, other = (text.index(name) for name in (head, tail))
        spans = {"head": (place, place + len(head)), "tail": (other, other + len(tail))}
        found.append(Related(text=text, relation=["founded in", "works in"][number % 2], **spans))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    models.save(network_of("bert", tokens_of("bert"), 32), folder)
    save_tokenizer(tokens_of("bert"), folder)
    return folder


def trial_of(base, method):
    given = {"kind": "relation", "train": "x.jsonl", "model": str(base), "adaptation": {"method": method}}
    return Trial(parse_task(given | SECTION), base, method, 0)


def data_of(examples):
    return Data(examples, examples, (), {})


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """Relation learned with every method that freezes: a folder, a task, its predictions and the base's files before."""
    examples, made, before = related(), {}, {path.name: path.read_bytes() for path in base.iterdir()}
    for method in ("lora", "adapter", "frozen"):
        folder = tmp_path_factory.mktemp(method)
        task, _ = finetune(trial_of(base, method), data_of(examples), folder, say=lambda sentence: None)
        made[method] = folder / "model", task, task.predictions(examples)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    return made


def chances(predictions):
    return torch.tensor([list(one.probabilities.values()) for one in predictions])


@pytest.mark.parametrize("method", ["lora", "adapter", "frozen"])
def test_markers_are_learned_and_kept(learned, base, method):
    folder, _, predictions = learned[method]
    again = load_task(folder)
    assert again.predictions(related()) == predictions
    known, size = load_tokenizer(base).size, again.tokens.size
    assert size == known + 4
    begun = grown(models.load(base), size, known).embed.tokens.weight
    table = again.network.embed.tokens.weight.detach()
    assert torch.equal(table[:known], begun[:known])
    assert (table[known:size] - begun[known:size]).abs().amax(1).min() > 1e-3
    distances = torch.cdist(table[known:size], table[known:size])[~torch.eye(4, dtype=torch.bool)]
    first = torch.cdist(begun[known:size], begun[known:size])[~torch.eye(4, dtype=torch.bool)]
    assert distances.min() > 2 * first.max()
    assert bool(rows_of(again.network)) == (method != "frozen")  # a whole folder has them in its table


def test_merged_they_are_in_the_table(learned, tmp_path):
    folder, task, predictions = learned["lora"]
    merge_task(folder, tmp_path / "merged")
    merged = load_task(tmp_path / "merged")
    assert not rows_of(merged.network)
    assert not adapt.is_adapted(merged.network)
    assert merged.network.config.tokens == merged.tokens.size == task.tokens.size
    torch.testing.assert_close(chances(merged.predictions(related())), chances(predictions), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_run_does_not_go_on_with_another_base(learned, base, changed):
    """What is frozen is not in its checkpoints: another base under the same name would be another network."""
    path, run_folder = base / changed, learned["lora"][0].parent
    trial, data, before = trial_of(base, "lora"), data_of(related()), path.read_bytes()
    known = identity(trial, data.sums)
    try:
        if changed == "model.safetensors":
            network = models.load(base)
            torch.nn.init.ones_(network.blocks[0].feedforward.out.bias)
            models.save(network, base)
        else:
            path.write_bytes(before + b"\n")
        assert identity(trial, data.sums) != known
        with pytest.raises(UserError, match=r"task was .* and is "):
            finetune(trial, data, run_folder, say=lambda sentence: None)
    finally:
        path.write_bytes(before)
    assert identity(trial, data.sums) == known
