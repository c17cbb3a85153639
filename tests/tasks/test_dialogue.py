"""Conversations: exactly the answers are learned, packed as if each were alone; replies go on from the template's prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import alone, batches_of, learn, network_of, task_of, tokens_of

from yanmo.errors import UserError
from yanmo.generation import TextStream
from yanmo.labelled.examples import Conversation, Message
from yanmo.labelled.reading import read_examples
from yanmo.recipe import DialogueTask, parse_task
from yanmo.tasks.chat import closing, encode_conversation, encode_prompt
from yanmo.tasks.dialogue import Dialogue, Reply, TalkedWindow
from yanmo.tasks.folder import load_task, save_task

DATA = Path(__file__).parents[3] / "shared/data/dlg-chatterbot-en-zh"
DECODERS = ["gpt2", "llama", "qwen3", "mixtral", "lstm"]
BOTH = ["t5", "bart"]


def said(*turns: str, system: str | None = None, origin: str = "a.jsonl:1") -> Conversation:
    first = () if system is None else (Message("system", system),)
    roles = ("user", "assistant")
    return Conversation(origin=origin, messages=(*first, *(Message(roles[at % 2], turn) for at, turn in enumerate(turns))))  # pyright: ignore[reportArgumentType]


TALKS = [
    said("hello", "good day", "who are you", "a baker"),
    said("北京在哪", "在北方", system="say little"),
    said("what is bread", "bread is eaten", "and who makes it", "a baker makes it", "who else", "nobody"),
    said("ok", "yes"),
]


def dialogue(family: str, examples: Any = TALKS, **given: Any) -> Any:
    return task_of(family, "dialogue", examples, **{"length": 160, **given})


@pytest.mark.parametrize("family", DECODERS + BOTH)
def test_every_answer_is_learned_once_and_nothing_else(family: str) -> None:
    task = dialogue(family)
    tokens = task.tokens
    (end,) = closing(tokens)
    expected = [encode_conversation(tokens, talk.messages) for talk in TALKS]
    count = sum(int(found.learned.sum()) for found in expected)
    answers = sum(message.role == "assistant" for talk in TALKS for message in talk.messages)
    windows = task.encode(TALKS)
    assert len(windows) == (answers if family in BOTH else len(TALKS))
    learned = np.concatenate([window.tokens[window.learned] for window in windows])
    assert learned.tolist() == [index for found in expected for index in found.ids[found.learned].tolist()]
    assert (learned == end).sum() == answers
    batches = batches_of(task, TALKS)
    suffixes = answers * task.sides.around if family in BOTH else 0
    assert sum(batch.counts["dialogue"] for batch in batches) == count + suffixes
    last = task_of(family, "dialogue", TALKS, length=160, learn="last")
    assert sum(window.learned.sum() for window in last.encode(TALKS)) == sum(
        int(encode_conversation(tokens, talk.messages, "last").learned.sum()) for talk in TALKS
    )


@pytest.mark.parametrize("family", DECODERS)
def test_the_loss_is_that_of_each_conversation_alone(family: str) -> None:
    task = dialogue(family)
    total = 0.0
    for window in task.encode(TALKS):
        with torch.no_grad():
            scores = task.network.logits(task.network(alone(window)))[0]
        ids, learned = torch.tensor(window.tokens), torch.tensor(window.learned)
        total += float(F.cross_entropy(scores[:-1][learned[1:]], ids[1:][learned[1:]], reduction="sum"))
    batches = batches_of(task, TALKS)
    assert any(len(np.unique(batch.target.documents)) > 2 for batch in batches), "several share a row"
    with torch.no_grad():
        found = [task(batch)["dialogue"] for batch in batches]
    assert float(sum(one.total for one in found)) == pytest.approx(total, rel=1e-5)
    figures = task.held_out(TALKS)
    assert figures["loss"] == pytest.approx(total / sum(one.count for one in found), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert task.held_out(TALKS[:1])["loss"] != pytest.approx(figures["loss"])


@pytest.mark.parametrize("family", BOTH)
def test_an_encoder_decoder_reads_what_was_said_and_writes_the_answer(family: str) -> None:
    task = dialogue(family)
    windows = task.encode(TALKS[2:3])
    assert [window.places for window in windows] == [
        task.sides.around + max(int(window.learned.sum()), int((~window.learned).sum())) for window in windows
    ]
    for answer, window in zip((1, 3, 5), windows, strict=True):
        given = window.tokens[~window.learned].tolist()
        prompt = encode_prompt(task.tokens, TALKS[2].messages[:answer]).ids
        assert [*task.tokens.prefix, *given] == prompt, "as in use"
        assert task.tokens.decode(window.tokens[window.learned][:-1]).strip() == TALKS[2].messages[answer].content
    short = dialogue(family, length=48)
    with pytest.warns(UserWarning, match=r"1 answers are not learned, .* a row of 48 by itself \(the first: a.jsonl:1\)"):
        (left,) = short.encode([said("北京是中国的首都。" * 9, "ja"), said("北京", "ja")])
    assert left.example == 1


@pytest.mark.parametrize("family", DECODERS)
def test_what_has_no_place_is_left_out_and_said(family: str) -> None:
    task = dialogue(family, length=96)
    long = said(*["北京是中国的首都" * 3, "是的"] * 4)
    endless = said("where", "bread " * 200)
    windows = task.encode([long, TALKS[3], endless])
    whole = encode_conversation(task.tokens, long.messages, length=96)
    assert windows[0].cut == whole.cut > 0
    assert windows[0].tokens.tolist() == whole.ids.tolist()
    everything = encode_conversation(task.tokens, endless.messages)
    assert windows[2].tokens.tolist() == everything.ids[:96].tolist()
    assert (windows[2].lost, windows[2].ends) == (len(everything.ids) - 96, False)
    one, two = task.notes(windows)
    assert f"1 of 3 conversations are longer than a row of 96: their oldest {whole.cut} turns are left out" in one
    assert f"{windows[2].lost:,} tokens at its end are not learned" in two
    assert task.notes(windows[1:2]) == []


def test_a_person_sees_what_is_learned() -> None:
    task = dialogue("llama")
    (text,) = task.shown(task.encode(TALKS[:1]))
    for answer in ("good day", "a baker"):
        assert f"⟦{answer}<|im_end|>⟧" in text.replace("⟦ ", "⟦")
    assert "⟦hello" not in text.replace("⟦ ", "⟦")
    assert "tokens are learned" in text


def by_hand(task: Dialogue, messages: Any, most: int) -> str:
    """The likeliest token every time, without a cache."""
    ids, new = encode_prompt(task.tokens, messages).ids, []
    ends = {*closing(task.tokens), *task.tokens.suffix}
    while len(new) < most and not ends & set(new[-1:]):
        window = TalkedWindow(document=0, tokens=np.array(ids + new), sentences=np.zeros(0), words=np.zeros(0))
        with torch.no_grad():
            new.append(int(task.network.logits(task.network(alone(window)))[0, -1, : task.tokens.size].argmax()))
    stream = TextStream(task.tokens, ids)
    return ("".join(stream.feed(one) for one in new if one not in ends) + stream.finish()).strip()


@pytest.mark.parametrize("family", DECODERS)
def test_a_reply_is_the_likeliest_and_does_not_depend_on_others(family: str) -> None:
    task = dialogue(family, longest=8)
    asked = [Conversation(messages=talk.messages[:-1], origin="x") for talk in TALKS]
    together = task.predictions(asked)
    assert [one.text for one in together] == [by_hand(task, talk.messages, 8) for talk in asked]
    assert [task.predictions([one])[0] for one in asked] == together
    with pytest.raises(UserError, match=r"a.jsonl:1 ends with what the assistant says"):
        task.predictions(TALKS)
    assert task.predictions([]) == []


def test_figures() -> None:
    task = dialogue("llama", checked=2, longest=6)
    figures = task.appraise(TALKS)
    assert {"loss", "perplexity", "distinct_1", "distinct_2", "repetition"} <= figures.keys()
    assert task.merit(figures) == pytest.approx(figures["loss"], rel=1e-5)
    assert task.check(TALKS) == task.held_out(TALKS)
    assert task.figures(TALKS[:2], [Reply("a b a b"), Reply("a")])["distinct_1"] == pytest.approx(2 / 5)
    other = dialogue("llama", checked=2, longest=6, metric="distinct_2")
    assert "distinct_2" in other.check(TALKS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "lstm", "bart"])
def test_conversations_are_learned_by_heart_and_kept(family: str, tmp_path: Path) -> None:
    talks = read_examples(str(DATA / "en.jsonl"), "dialogue")[:40:10] if DATA.exists() else TALKS[:3]
    task = dialogue(family, talks, width=64)
    task.network.start()
    assert learn(task, talks, 200, 1e-2 if family == "lstm" else 5e-3) < 0.1
    task.eval()
    asked = [Conversation(messages=talk.messages[:-1]) for talk in talks]
    replies = task.predictions(asked)
    assert [one.text for one in replies] == [talk.messages[-1].content for talk in talks]
    assert all(one.ended for one in replies)
    save_task(task, tmp_path, tmp_path)
    again = load_task(tmp_path)
    assert again.predictions(asked) == replies
    if family in ("llama", "gpt2"):
        theirs_say_the_same(tmp_path, asked, replies)


def theirs_say_the_same(folder: Path, asked: list[Conversation], replies: list[Reply]) -> None:
    """transformers' own chat template and generation, told nothing but the folder."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for talk, reply in zip(asked, replies, strict=True):
        messages = [{"role": message.role, "content": message.content} for message in talk.messages]
        given: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        found: Any = network.generate(**given, max_new_tokens=120, do_sample=False)[0]  # pyright: ignore[reportAttributeAccessIssue]
        assert tokenizer.decode(found[given["input_ids"].shape[1] :], skip_special_tokens=True).strip() == reply.text


@pytest.mark.parametrize("family", ["bert", "xlnet", "electra", "vae", "ngram"])
def test_a_family_that_does_not_answer_is_refused(family: str) -> None:
    tokens = Dialogue.tokens_for(None, tokens_of("bert"))
    network = network_of("bert", tokens, 32)
    object.__setattr__(network.config, "family", family)
    with pytest.raises(UserError, match=rf"dialogue: an? {family} .*gpt2, llama, qwen3, mixtral, t5, bart, lstm"):
        Dialogue(network, None, tokens, DialogueTask(), (), 64)
    with pytest.raises(UserError, match=f"dialogue does not fit family {family}"):
        parse_task({"kind": "chat", "train": "x", "model": {"family": family}})


def test_conversations_that_cannot_be_learned() -> None:
    silent = Conversation(messages=(Message("user", "hello"),), origin="b.jsonl:7")
    with pytest.raises(UserError, match="in none of the conversations"):
        Dialogue.labels_of(DialogueTask(), [silent])
    for family in ("llama", "t5"):
        with pytest.raises(UserError, match=r"b\.jsonl:7: nobody answers"):
            dialogue(family).encode([silent])
    short = dialogue("llama", length=16)
    with pytest.warns(UserWarning, match="1 answers"), pytest.raises(UserError, match=r"lengthen training\.length"):
        short.held_out([said("bread " * 60, "ok")])


def test_what_nobody_answers_any_more_takes_no_room_from_what_is_learned() -> None:
    answered, after = said("hello", "good day"), "bread " * 40
    whole = encode_conversation(dialogue("llama").tokens, answered.messages)
    more = replace(answered, messages=(*answered.messages, Message("user", after)))
    (window,) = dialogue("llama", length=48).encode([more])
    assert window.tokens.tolist() == whole.ids.tolist()
    assert window.learned.tolist() == whole.learned.tolist()
