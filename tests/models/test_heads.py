"""Task models against transformers' own, in both directions, packed and padded; and what has no head, or none any more."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_parity import BERT, GPT2, LLAMA, MODERN, reread, write
from test_parity_seq2seq import BART, GATED, T5
from torch import Tensor, nn

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import FAMILIES, Encoder, Network, Seq2Seq, Special, Stack, TaskHead, TaskKind, build, grow, load, save
from yanmo.models.heads import build_head, load_task, save_task
from yanmo.models.textcnn import judge_for
from yanmo.speed import work_per_token

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

VOCABULARY, END = 60, 2
IDS = dict(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=END, decoder_start_token_id=3)
LABELS = {0: "O", 1: "B-NAME", 2: "I-NAME"}
SPECIAL = Special(pad=0, bos=1, eos=2, cls=1, sep=2)
KINDS: dict[TaskKind, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}
XLNET = dict(d_model=48, n_layer=2, n_head=4, d_inner=80)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", BERT),
    "modernbert": ("ModernBert", MODERN),
    "electra": ("Electra", dict(BERT, embedding_size=20)),
    "xlnet": ("XLNet", XLNET),
    "gpt2": ("GPT2", GPT2),
    "llama": ("Llama", LLAMA),
    "qwen3": ("Qwen3", dict(LLAMA, head_dim=16)),
    "mixtral": ("Mixtral", dict(LLAMA, num_local_experts=4)),
    "t5": ("T5", T5),
    "bart": ("Bart", BART),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert-biases": ("ModernBert", dict(MODERN, classifier_bias=True, norm_bias=True, classifier_activation="relu")),
    "t5-1.1": ("T5", dict(T5, **GATED)),
    "modernbert-mean": ("ModernBert", dict(MODERN, classifier_pooling="mean")),
    "xlnet-first": ("XLNet", dict(XLNET, summary_type="first", summary_activation="gelu", summary_first_dropout=0.2)),
    "xlnet-index": ("XLNet", dict(XLNET, summary_type="cls_index", summary_activation="")),
    "xlnet-mean": ("XLNet", dict(XLNET, summary_type="mean", summary_use_proj=False)),
}
"""What else settings choose of how a whole text is read."""


LEFT_OUT = ("xlnet-first-sequence", "xlnet-mean-sequence")
"""XLNet is padded on the left; then padding is what transformers takes for a text's first place, and in its mean."""


@dataclass(frozen=True)
class Case:
    name: str
    kind: TaskKind
    settings: dict[str, Any]


CASES = [
    pytest.param(Case(name, kind, settings), id=f"{label}-{kind}")
    for label, (name, settings) in {**SETTINGS, **VARIANTS}.items()
    for kind in (KINDS if label in SETTINGS else ("sequence",))
    if (label, kind) != ("bart", "token")
]


def theirs_of(case: Case, **changes: Any) -> Any:
    """A task model of transformers with every parameter random."""
    torch.manual_seed(7)
    labels = {} if case.kind == "span" else {"id2label": LABELS, "label2id": {label: n for n, label in LABELS.items()}}
    config = getattr(transformers, f"{case.name}Config")(**{**IDS, **case.settings, **labels, **changes})
    model = getattr(transformers, KINDS[case.kind]).from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0, 0.1)
    return model


@torch.no_grad()
def their_scores(model: Any, tokens: Tensor, **more: Any) -> Tensor:
    output = model(input_ids=tokens, **more)
    return torch.stack([output.start_logits, output.end_logits], -1) if hasattr(output, "start_logits") else output.logits


def texts(*lengths: int) -> list[Tensor]:
    """Token ids that end as texts do."""
    generator = torch.Generator().manual_seed(3)
    return [torch.cat([torch.randint(6, VOCABULARY, (n - 1,), generator=generator), torch.tensor([END])]) for n in lengths]


def laid(rows: list[list[Tensor]], length: int, left: bool = False) -> Packed:
    """Rows of texts, padding on one side."""
    tokens, documents, positions = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
    for row, row_texts in enumerate(rows):
        at = length - sum(map(len, row_texts)) if left else 0
        for number, text in enumerate(row_texts, 1):
            place = slice(at, at := at + len(text))
            tokens[row, place], documents[row, place], positions[row, place] = text, number, torch.arange(len(text))
    return Packed(tokens, documents, positions)


def one_a_row(length: int, *of: Tensor, left: bool = False) -> Packed:
    return laid([[text] for text in of], length, left)


@torch.no_grad()
def scores(network: Network, head: TaskHead, packed: Packed) -> Tensor:
    return head(network.states(packed, head.kind), packed)


def apart(found: Tensor, packed: Packed, kind: TaskKind) -> list[Tensor]:
    """Scores of each text by itself, in the order of the rows."""
    if kind == "sequence":
        return list(found)
    rows = zip(found, packed.documents, strict=True)
    return [row[documents == number] for row, documents in rows for number in range(1, int(documents.max()) + 1)]


def close(found: Any, expected: Any, within: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=within, rtol=within)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_theirs_both_ways(case: Case, tmp_path: Path) -> None:
    model, tokens = theirs_of(case), torch.stack(texts(17, 17, 17))
    expected = their_scores(model, tokens)
    write(model, tmp_path / "theirs")
    network, head, settings = load_task(tmp_path / "theirs")
    assert network.training
    assert head.training
    close(scores(network.eval(), head.eval(), one_a_row(17, *tokens)), expected)

    save_task(network, head, tmp_path / "ours", settings=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = reread(KINDS[case.kind], tmp_path / "ours")
    assert type(again) is type(model)
    close(their_scores(again, tokens), expected, 1e-6)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["architectures"] == [type(model).__name__]
    assert again.config.id2label == model.config.id2label
    assert not (tmp_path / "ours" / "generation_config.json").exists()


@pytest.mark.parametrize("case", CASES)
def test_packed_and_padded_are_their_texts_one_by_one(case: Case, tmp_path: Path) -> None:
    model, each = theirs_of(case), texts(17, 9, 5, 12)
    expected = [their_scores(model, text[None])[0] for text in each]
    write(model, tmp_path)
    network, head, _ = load_task(tmp_path)
    rows = [each[:2], each[2:]]
    for packed in (laid(rows, 30), laid(rows, 30, left=True), one_a_row(20, *each), one_a_row(20, *each, left=True)):
        for found, wanted in zip(apart(scores(network.eval(), head.eval(), packed), packed, case.kind), expected, strict=True):
            close(found, wanted)


@pytest.mark.parametrize("case", [case for case in CASES if case.id not in LEFT_OUT])
def test_padding_is_their_attention_mask(case: Case, tmp_path: Path) -> None:
    """Of a padded batch: XLNet's on the left, the others' on the right."""
    model, each, left = theirs_of(case), texts(17, 9, 5), case.name == "XLNet"
    packed = one_a_row(17, *each, left=left)
    write(model, tmp_path)
    network, head, _ = load_task(tmp_path)
    expected = their_scores(model, packed.tokens, attention_mask=(packed.documents > 0).long())
    for found, wanted in zip(
        apart(scores(network.eval(), head.eval(), packed), packed, case.kind), apart(expected, packed, case.kind), strict=True
    ):
        close(found, wanted)


@pytest.mark.parametrize("case", CASES)
def test_dropout_is_theirs_in_rate_and_place(case: Case, tmp_path: Path) -> None:
    """The same random numbers fall on the same states."""
    model = theirs_of(case, classifier_dropout=0.3, **({"summary_last_dropout": 0.4} if case.name == "XLNet" else {}))
    tokens = torch.stack(texts(11, 11))
    write(model, tmp_path)
    network, head, _ = load_task(tmp_path)
    plain = their_scores(model, tokens)
    for name, part in model.named_modules():
        if name.split(".")[0] in ("dropout", "drop", "classifier", "classification_head", "sequence_summary"):
            part.training = True
    torch.manual_seed(1)
    expected = their_scores(model, tokens)
    torch.manual_seed(1)
    close(scores(network.eval(), head, one_a_row(11, *tokens)), expected)
    without = case.kind == "span" and case.name != "ModernBert"
    without |= case.kind == "token" and case.name == "XLNet"
    without |= case.kind == "sequence" and case.name in ("GPT2", "Llama", "Qwen3", "Mixtral")
    assert torch.equal(expected, plain) == without


@pytest.mark.parametrize("label", ["bert", "electra", "xlnet"])
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_their_token_types(label: str, kind: TaskKind, tmp_path: Path) -> None:
    model, tokens = theirs_of(Case(SETTINGS[label][0], kind, SETTINGS[label][1])), torch.stack(texts(17, 17))
    types = (torch.arange(17) > 7).long().expand(2, 17)
    expected = their_scores(model, tokens, token_type_ids=types)
    write(model, tmp_path)
    network, head, _ = load_task(tmp_path)
    packed = one_a_row(17, *tokens)
    typed = Packed(packed.tokens, packed.documents, packed.positions, types)
    close(scores(network.eval(), head.eval(), typed), expected)
    assert not torch.allclose(scores(network, head, packed), expected, atol=1e-3)


def tiny(family: str, **changes: Any) -> Network:
    torch.manual_seed(0)
    model = recipe.Model(family=family, size="tiny", width=32, heads=2, layers=2, **changes)  # type: ignore[arg-type]
    return build(model, vocabulary=VOCABULARY, length=20, special=SPECIAL)


FAMILIES_WITH_HEADS = [name for name, family in FAMILIES.items() if family.tasks]


@pytest.mark.parametrize("family", FAMILIES_WITH_HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_head_on_a_new_network_is_theirs(family: str, kind: TaskKind, tmp_path: Path) -> None:
    """What was pretrained here is read by transformers with a head of ours, where it has the class, and by us anyway."""
    network, tokens = tiny(family).eval(), torch.stack(texts(12, 12))
    head, packed = build_head(network, kind, 2).eval(), one_a_row(12, *tokens)
    found = scores(network, head, packed)
    assert found.shape == ((2, 2) if kind == "sequence" else (2, 12, 2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_task(network, head, tmp_path, settings={"problem_type": "single_label_classification", "id2label": {0: "no", 1: "yes"}})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    again, its_head, settings = load_task(tmp_path)
    assert torch.equal(scores(again.eval(), its_head.eval(), packed), found)
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    assert settings == {**labels, "problem_type": "single_label_classification"}
    assert "id2label" not in again.config.settings
    architecture, saved = FAMILIES[family].tasks[kind].architecture, json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == [architecture]
    own = architecture.startswith("Yanmo")
    assert own == saved["model_type"].startswith("yanmo-") == (not hasattr(transformers, architecture))
    if not own:
        model = reread(KINDS[kind], tmp_path)
        assert type(model).__name__ == architecture
        assert model.config.id2label == {0: "no", 1: "yes"}
        close(their_scores(model, tokens), found)


def test_heads_that_only_we_have() -> None:
    own = {(name, kind) for name, family in FAMILIES.items() for kind, form in family.tasks.items() if form.own}
    assert own == {("bart", "token"), *(("lstm", kind) for kind in KINDS)}
    assert all(len(family.tasks) in (0, 3) for family in FAMILIES.values())
    network, packed = tiny("lstm").eval(), laid([texts(5, 9)], 16)
    head = build_head(network, "sequence", 4)
    hidden = network(packed)[0]
    close(scores(network, head, packed), head.out(hidden[[4, 13]]).detach())  # the last place of each text
    bart = tiny("bart").eval()
    assert isinstance(bart, Seq2Seq)
    labels = build_head(bart, "token", 4).eval()
    close(scores(bart, labels, packed), labels.out(bart.encode(packed)).detach())


@pytest.mark.parametrize(("name", "parts"), [("BertForPreTraining", ("inner",)), ("ModernBertForMaskedLM", ("inner", "norm"))])
def test_what_transformers_takes_over_from_pretraining_we_take_over(name: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    torch.manual_seed(5)
    model = kind(kind.config_class(vocab_size=VOCABULARY, **(BERT if name.startswith("Bert") else MODERN)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5, 0.1)
    write(model, tmp_path / "theirs")
    head = build_head(load(tmp_path / "theirs"), "sequence", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs")
    theirs = {"inner": task.bert.pooler.dense} if name.startswith("Bert") else {"inner": task.head.dense, "norm": task.head.norm}
    assert theirs.keys() == set(parts)
    for part, taken in theirs.items():
        own = getattr(head, part)
        assert torch.equal(own.weight, taken.weight)
        assert own.bias is None or torch.equal(own.bias, taken.bias)
    assert head.out.weight.abs().max() < 1                # and this is new


@pytest.mark.parametrize(
    ("family", "std"),
    [("bert", 0.02), ("roberta", 0.02), ("llama", 0.02), ("t5", 32**-0.5), ("modernbert", 32**-0.5), ("lstm", 2 * 32**-0.5)],
)
def test_new_weights_are_drawn_as_the_family_draws(family: str, std: float) -> None:
    head = build_head(tiny(family), "sequence", 400)
    std *= 0.88 if family in ("bert", "modernbert") else 1  # of a normal that is cut at two standard deviations
    assert head.out.weight.std().item() == pytest.approx(std, rel=0.03)
    assert all(not bias.any() for name, bias in head.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("family", ["ngram", "vae", "text-cnn"])
def test_what_cannot_do_it_is_told_who_can(family: str) -> None:
    network = judge_for(tiny("gpt2"), 8) if family == "text-cnn" else tiny(family)
    with pytest.raises(UserError, match=f"an? {family} has no head that labels tokens; families that have one: bert, .*lstm"):
        build_head(network, "token", 3)


def test_a_network_of_a_task_says_what_it_lacks(tmp_path: Path) -> None:
    write(theirs_of(Case("Bert", "token", BERT)), tmp_path)
    network, head, _ = load_task(tmp_path)
    assert isinstance(network, Encoder)
    hidden = network(one_a_row(9, *texts(9)))
    for ask in (
        lambda: network.logits(hidden), lambda: network.head.weight, lambda: network.log_probabilities(hidden[0], torch.ones(9)),
    ):  # fmt: skip
        with pytest.raises(UserError, match="this bert was reduced to what a task of kind token needs, and has no head any more"):
            ask()
    assert network.judges
    assert not hasattr(network.head, "weight")
    assert network.device.type == "cpu"
    assert work_per_token(network, 16, 0.0) > 0
    twin = deepcopy(network)
    assert torch.equal(twin.eval()(one_a_row(9, *texts(9))), network.eval()(one_a_row(9, *texts(9))))
    assert network.load_state_dict(twin.state_dict())
    bigger = grow(network, 90, VOCABULARY)
    assert bigger.config.vocabulary == 128
    assert bigger.kept_for == ("token",)
    close(scores(bigger.eval(), head.eval(), one_a_row(9, *texts(9))), scores(network, head, one_a_row(9, *texts(9))))
    assert build_head(network, "sequence", 2).inner is not None


def test_a_decoder_that_is_not_there_is_asked_for_by_no_mistake(tmp_path: Path) -> None:
    write(theirs_of(Case("T5", "token", T5)), tmp_path)
    network, _, _ = load_task(tmp_path)
    assert not any(name.startswith("decoder.") for name, _ in network.named_parameters())
    assert work_per_token(network, 16, 0.5) > 0
    packed = one_a_row(9, *texts(9))
    with pytest.raises(UserError, match="this t5 was reduced to what a task of kind token needs, and has no decoder any more"):
        network.states(packed, "sequence")
    with pytest.raises(UserError, match="has no decoder any more; take the pretrained folder"):
        save_task(network, build_head(network, "span", 2), tmp_path / "span", settings={})


def test_several_tasks_keep_what_one_of_them_reads() -> None:
    network, packed = tiny("t5").eval(), one_a_row(9, *texts(9))
    head = build_head(network, "sequence", 2).eval()
    expected = scores(network, head, packed)
    assert torch.equal(scores(network.keep_for("token", "sequence"), head, packed), expected)
    with pytest.raises(UserError, match="what tasks of kind token, sequence needs, and has no head"):
        network.logits(expected)


def test_folders_are_sent_to_who_opens_them(tmp_path: Path) -> None:
    save(tiny("bert"), tmp_path / "plain")
    with pytest.raises(UserError, match=r"no model of a task: it is BertForMaskedLM; task models of bert: BertForSeq.*finetune"):
        load_task(tmp_path / "plain")
    save(tiny("ngram"), tmp_path / "counts")
    with pytest.raises(UserError, match="task models of ngram: none"):
        load_task(tmp_path / "counts")
    for family in ("bert", "bart", "lstm"):
        network = tiny(family)
        save_task(network, build_head(network, "token", 3), tmp_path / family, settings={})
        with pytest.raises(UserError, match=r"a model of a task \(\w+ForTokenClassification\).*yanmo predict MODEL"):
            load(tmp_path / family)


def test_experts_come_along(tmp_path: Path) -> None:
    network, packed = tiny("bert", experts=recipe.Experts(number=2)).eval(), one_a_row(9, *texts(9))
    head = build_head(network, "sequence", 2).eval()
    save_task(network, head, tmp_path, settings={})
    again, its_head, _ = load_task(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "yanmo-bert"
    assert torch.equal(scores(again.eval(), its_head.eval(), packed), scores(network, head, packed))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write(theirs_of(Case("T5", "sequence", T5)), tmp_path)
    network, head, _ = load_task(tmp_path)
    with pytest.raises(UserError, match="a text has no token 2: this family reads a whole text at its end-of-text token"):
        scores(network, head, one_a_row(9, texts(9)[0][:-1], texts(9)[0]))
    with pytest.raises(UserError, match=r"settings: id2label names \[0, 1\]; the head has 3 outputs, 0 to 2"):
        save_task(network, head, tmp_path / "ours", settings={"id2label": {0: "a", 1: "b"}})
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    for labels, words in ((["a", "b"], "is no map from numbers"), ({"a": 0}, "is no map"), ({"0": "a", "2": "b"}, r"\[0, 2\]")):
        path.write_text(json.dumps({**settings, "id2label": labels}))
        with pytest.raises(UserError, match="config.json: id2label.*" + words):
            load_task(tmp_path)
    path.write_text(json.dumps({**settings, "id2label": {n: str(n) for n in range(5)}}))
    with pytest.raises(UserError, match=r"classification_head\.out_proj\.weight is \[3, 48\], the configuration needs \[5, 48\]"):
        load_task(tmp_path)
    path.write_text(json.dumps({**settings, "eos_token_id": None}))
    with pytest.raises(UserError, match="eos_token_id: None: a whole text is read at the token that ends it; name one"):
        load_task(tmp_path)
    path.write_text(json.dumps(settings))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classification_head.dense.bias"]
    save_file({**weights, "classification_head.more": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"missing: classification_head\.dense\.bias"):
        load_task(tmp_path)


def test_reading_that_is_not_implemented_is_named(tmp_path: Path) -> None:
    write(theirs_of(Case("XLNet", "sequence", XLNET)), tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "summary_type": "attn"}))
    with pytest.raises(UserError, match="summary_type: 'attn' is not implemented; known: last, first, mean, cls_index"):
        load_task(tmp_path)


def test_gradients_reach_the_head_and_what_it_reads() -> None:
    network, packed = tiny("modernbert"), laid([texts(5, 9)], 16)
    head = build_head(network, "sequence", 3)
    nn.functional.cross_entropy(head(network.states(packed, "sequence"), packed), torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert isinstance(network, Stack)
    gradients = [parameter.grad for parameter in network.blocks.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
