"""Translation and summarisation: what is learned and written, against torch on single examples and a plain loop."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_tasks import TEXTS, batches_of, learn, network_of, task_of, tokens_of

from yanmo.batch import Packed
from yanmo.beams import BeamSettings, beam_search
from yanmo.errors import UserError
from yanmo.labelled.examples import Rewritten
from yanmo.labelled.reading import read_examples
from yanmo.models import Seq2Seq
from yanmo.recipe import TranslationTask
from yanmo.tasks.folder import load_task, save_task
from yanmo.tasks.writing import Translation, Writing

FAMILIES = ("t5", "bart", "gpt2", "llama", "lstm")
DATA = Path(__file__).parents[3] / "shared" / "data"
PAIRS = [
    Rewritten(origin=f"pairs.jsonl:{line}", source=source, targets=targets)
    for line, (source, targets) in enumerate(
        [
            ("A baker makes bread.", ("Ein Bäcker macht Brot.",)),
            ("The port of Antwerp was founded in 1863, in the war.", ("北京是中国的首都。", "Der Hafen.")),
            ("Two brothers", ("Zwei Brüder in einer kleinen Stadt, die Brot essen.",)),
            ("该公司由王小明于1998年在上海创立。", ("The company was founded.",)),
            ("bread", ("Brot",)),
        ],
        1,
    )
]


def writing_of(family: str, examples=PAIRS, kind: str = "translation", **given) -> Writing:
    return task_of(family, kind, examples, **{"longest": 16, **given})


def packed(ids: list[int]) -> Packed:
    tokens = torch.tensor([ids])
    return Packed(tokens, torch.ones_like(tokens), torch.arange(len(ids))[None], whole=True)


def as_read(task: Writing, source: str) -> list[int]:
    """What the network reads before it writes, by the tokenizer alone."""
    tokens = task.tokens
    (ids,) = tokens.encode([task.section.prompt + source])
    if isinstance(task.network, Seq2Seq):
        return [*tokens.prefix, *ids, *tokens.suffix]
    return [*(tokens.prefix or tokens.suffix[-1:]), *ids, tokens.separator if tokens.separator is not None else tokens.suffix[-1]]


def scores(task: Writing, given: list[int], said: list[int]) -> torch.Tensor:
    """The scores of every token that follows, after `said` and each of its beginnings."""
    if isinstance(task.network, Seq2Seq):
        hidden = task.network(packed(given), packed([task.network.config.decoder_start, *said]))[0]
    else:
        hidden = task.network(packed([*given, *said]))[0, len(given) - 1 :]
    return task.network.logits(hidden)


def plain_loss(task: Writing, smoothing: float) -> tuple[torch.Tensor, int]:
    total, count = torch.zeros(()), 0
    for example in PAIRS:
        for target in example.targets or ():
            (ids,) = task.tokens.encode([target])
            asked = [*task.tokens.prefix, *ids] if isinstance(task.network, Seq2Seq) else ids
            asked = [*asked, *task.tokens.suffix]
            each = -F.log_softmax(scores(task, as_read(task, example.source), asked[:-1]), -1)
            even = each[:, : task.tokens.size].mean(-1).sum()
            total = total + (1 - smoothing) * each[range(len(asked)), asked].sum() + smoothing * even
            count += len(asked)
    return total, count


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_single_examples_and_every_target_counts_once(family):
    task = writing_of(family, smoothing=0.1)
    batches = batches_of(task, PAIRS)
    assert len(batches[0].target.tokens) < len(PAIRS), "several share a row"
    for training, smoothing in ((False, 0.0), (True, 0.1)):
        task.train(training)
        found = [task(batch)["translation"] for batch in batches]
        wanted, count = plain_loss(task, smoothing)
        assert sum(loss.count for loss in found) == count == sum(batch.counts["translation"] for batch in batches)
        assert sum(loss.total for loss in found).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("length", [24, 32, 48])
@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_what_does_not_fit_is_cut_at_the_end_and_said(family, length):
    examples = [Rewritten(origin=f"a:{n}", source=TEXTS[n] * 2, targets=(TEXTS[n + 1],)) for n in range(2)] + PAIRS[:1]
    task = writing_of(family, examples, length=length, longest=8)
    windows = task.encode(examples)
    for window, example in zip(windows, examples, strict=True):
        (source,), (target,) = (task.tokens.encode([text]) for text in (example.source, example.targets[0]))
        kept = len(source) - window.unread
        assert window.given.tolist() == [*source[:kept], *task.between]
        assert window.asked.tolist() == target[: len(target) - window.unlearned]
        assert window.ends == (window.unlearned == 0)
        assert window.places <= length
        sides = (len(window.given), len(window.asked))
        assert window.places == task.sides.around + (sum(sides) if task.between else max(sides))
        if window.unread:
            assert window.places == length, "no place is left empty"
        if task.between and window.unread and window.unlearned:
            assert abs(sides[0] - 1 - sides[1]) <= 1, "both have half"
    notes = task.notes(windows)
    cut = sum(window.unread > 0 for window in windows)
    assert f"{cut} of 3 sources have no place in a row of {length}" in notes[0]
    assert f"{sum(window.unread for window in windows):,} tokens" in notes[0]
    assert "3 of 3 targets are longer than the 8 tokens" in notes[-1]
    assert (len(notes) == 3) == any(window.unlearned for window in windows)
    assert writing_of("t5").notes(writing_of("t5").encode(PAIRS[4:])) == []
    for batch in batches_of(task, examples):              # the packer fits both sides
        assert batch.target.tokens.shape[1] <= length
        assert batch.source is None or batch.source.tokens.shape[1] <= length
    written = task.predictions(examples)
    assert [one.unread > 0 for one in written][:2] == [True, True]
    assert task.predictions(PAIRS[4:])[0].unread == 0


def by_hand(task: Writing, source: str, most: int) -> list[int]:
    """The likeliest token every time, without a cache."""
    given, said = as_read(task, source), []
    while len(said) < most and said[-1:] != list(task.tokens.suffix[:1]):
        said.append(int(scores(task, given, said)[-1, : task.tokens.size].argmax()))
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_the_likeliest_and_does_not_depend_on_the_others(family):
    task = writing_of(family, beams=1)
    together = task.predictions(PAIRS)
    for example, written in zip(PAIRS, together, strict=True):
        with torch.no_grad():
            said = by_hand(task, example.source, 16)
        assert written.text == task.tokens.decode(said, skip_special=True).rstrip("\ufffd").strip()
        assert written.ended == (said[-1] == task.tokens.suffix[0])
        (alone,) = task.predictions([example])
        assert (alone.text, alone.ended) == (written.text, written.ended)
        assert alone.score == pytest.approx(written.score, rel=1e-4)
    assert task.predictions([]) == []


def test_a_prompt_stands_before_every_source():
    task = writing_of("t5", prompt="translate: ", beams=1)
    (window, *_) = task.encode(PAIRS)
    assert window.given.tolist() == task.tokens.encode(["translate: " + PAIRS[0].source])[0]
    plain = writing_of("t5", beams=1)
    asked = [Rewritten(source="translate: " + example.source) for example in PAIRS]
    assert task.predictions(PAIRS) == plain.predictions(asked)


def test_the_sections_beams_and_length_penalty_are_those_of_the_search():
    for penalty in (0.0, 1.0):
        task = writing_of("bart", length_penalty=penalty, beams=3)
        tokens = task.tokens
        settings = BeamSettings(3, penalty)
        found = beam_search(
            task.network, [as_read(task, PAIRS[0].source)], settings, max_new_tokens=16, ends=tokens.suffix, pad=tokens.pad
        )
        (written,) = task.predictions(PAIRS[:1])
        assert written.text == tokens.decode(found[0][0].tokens, skip_special=True).rstrip("\ufffd").strip()
        assert written.score == pytest.approx(found[0][0].score, rel=1e-5)


def test_a_check_is_cheap_and_a_measurement_whole(monkeypatch):
    task, asked = writing_of("t5", checked=2), []
    write = Writing.predictions

    def spied(self, examples, **rest):
        asked.append((len(examples), rest))
        return write(self, examples, **rest)

    monkeypatch.setattr(Writing, "predictions", spied)
    task.check(PAIRS)
    task.appraise(PAIRS)
    assert asked == [(2, {"beams": 1}), (5, {})]


def test_figures_are_sacrebleus_with_its_signature_and_rouge():
    import sacrebleu

    task = writing_of("t5")
    right = [task_prediction(example.targets[-1]) for example in PAIRS]
    assert task.figures(PAIRS, right)["bleu"] == pytest.approx(100)
    assert "tok:13a" in task.measured_by["bleu"]
    assert "nrefs:var" in task.measured_by["bleu"]
    chinese = [Rewritten(source="a", targets=("北京是中国的首都。",)), Rewritten(source="b", targets=("公司由王小明创立。",))]
    said = ["北京是首都。", "公司在上海创立。"]
    found = task.figures(chinese, [task_prediction(text) for text in said])
    known = sacrebleu.corpus_bleu(said, [[example.targets[0] for example in chinese]], tokenize="zh")
    assert found["bleu"] == pytest.approx(known.score)
    assert "tok:zh" in task.measured_by["bleu"]
    brief = writing_of("t5", kind="summarisation")
    figures = brief.figures(chinese, [task_prediction("北京"), task_prediction("公司由王小明创立。")])
    assert figures["rouge_1"] == pytest.approx((2 * 2 / (2 + 8) + 1) / 2)
    assert {"rouge_2", "rouge_l", "repetition"} <= figures.keys()
    assert brief.merit(figures) == -figures["rouge_l"]
    assert task.merit(found) == -found["bleu"]


def task_prediction(text: str):
    from yanmo.tasks.writing import Written

    return Written(text, 0.0)


@pytest.mark.parametrize("family", ["bert", "xlnet", "electra", "vae", "ngram"])
def test_a_family_that_writes_nothing_is_refused(family):
    tokens = tokens_of("bert")
    network = network_of("bert", tokens, 32)
    object.__setattr__(network.config, "family", family)
    with pytest.raises(UserError, match=rf"translation: an? {family} .*: gpt2, llama, qwen3, mixtral, t5, bart, lstm"):
        Translation(network, None, tokens, TranslationTask(), (), 64)


def test_a_network_that_was_reduced_is_refused():
    tokens = tokens_of("t5")
    with pytest.raises(UserError, match="was reduced to what a task of kind sequence needs"):
        Translation(network_of("t5", tokens, 32).keep_for("sequence"), None, tokens, TranslationTask(), (), 64)


def test_examples_without_targets_cannot_be_learned_or_measured():
    task, bare = writing_of("t5"), Rewritten(origin="b.jsonl:7", source="bread")
    with pytest.raises(UserError, match=r"b\.jsonl:7: this example has no target"):
        task.encode([*PAIRS, bare])
    with pytest.raises(UserError, match=r"b\.jsonl:7: this example has no target"):
        task.appraise([bare])
    with pytest.raises(UserError, match="none of the examples to learn from has a target"):
        Translation.labels_of(TranslationTask(), [bare])
    assert len(task.predictions([bare])) == 1


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_a_few_pairs_are_learned_by_heart_and_kept(family, tmp_path):
    file = DATA / "mt-multi30k-en-de" / "valid.jsonl"
    pairs = read_examples(str(file), "translation")[:3] if file.exists() else [one for one in PAIRS if len(one.targets) == 1]
    task = writing_of(family, pairs, width=64, length=160, longest=80, smoothing=0.0)
    task.network.start()
    steps, rate = (220, 2e-3) if family == "t5" else (120, 5e-3)
    assert learn(task, pairs, steps, rate) < 0.1
    task.eval()
    for beams in (1, 4):
        assert [one.text for one in task.predictions(pairs, beams=beams)] == [example.targets[0] for example in pairs]
    figures = task.appraise(pairs)
    assert figures["bleu"] == pytest.approx(100)
    save_task(task, tmp_path, tmp_path)
    again = load_task(tmp_path)
    assert again.predictions(pairs) == task.predictions(pairs)
    assert json.loads((tmp_path / "task.json").read_text())["section"]["longest"] == 80
    theirs_write_the_same(family, tmp_path, task, pairs)


def theirs_write_the_same(family, folder, task, pairs):
    """transformers loads the folder and generates the same texts."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = transformers.AutoModelForCausalLM if task.between else transformers.AutoModelForSeq2SeqLM
    theirs = kind.from_pretrained(folder)
    for example in pairs:
        ids = torch.tensor([as_read(task, example.source)])
        if not task.between:
            assert tokenizer(example.source, return_tensors="pt").input_ids.tolist() == ids.tolist()
        found = theirs.generate(ids, max_new_tokens=80, num_beams=4, do_sample=False)[0]
        new = found[ids.shape[1] :] if task.between else found
        assert tokenizer.decode(new, skip_special_tokens=True).strip() == example.targets[0]


def test_progress_is_told():
    task, told = writing_of("t5", beams=1), []
    task.predictions(PAIRS, progress=lambda done, total, unit, **rest: told.append((done, total, unit)))
    assert told == [(5, 5, "texts")]
