"""A conversation in a terminal: the prompt of training, streamed, begun anew when that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_tasks import task_of, tokens_of
from test_dialogue import TALKS

import yanmo
from yanmo import cli
from yanmo.errors import UserError
from yanmo.labelled.examples import Conversation, Message
from yanmo.talk import Talk, converse
from yanmo.tasks.folder import save_task


def a_talk(family: str = "llama", **given: Any) -> tuple[Any, Talk]:
    task = task_of(family, "dialogue", TALKS, length=160, longest=6)
    object.__setattr__(task.network.config, "length", 192)
    return task, Talk(task.network, task.tokens, longest=6, **{"temperature": 0.0, "top_p": 1.0, **given})


@pytest.mark.parametrize("family", ["llama", "lstm", "t5"])
def test_each_reply_goes_on_from_all_that_was_said(family: str) -> None:
    task, talk = a_talk(family, system="say little")
    said = [Message("system", "say little")]
    for text in ("hello", "北京在哪", "who makes bread"):
        pieces: list[str] = []
        reply = talk.say(text, pieces.append)
        asked = [*said, Message("user", text)]
        assert reply == task.predictions([Conversation(messages=tuple(asked))])[0]
        assert "".join(pieces).strip() == reply.text
        said = [*asked, Message("assistant", reply.text)] if reply.text else said
        assert talk.messages == said
    talk.reset()
    assert talk.messages == said[:1]


def test_the_same_seed_says_the_same_and_settings_reach_the_choice() -> None:
    replies = [a_talk(seed=seed, temperature=2.0)[1].say("hello").text for seed in (1, 1, 2, 3)]
    assert replies[0] == replies[1]
    assert len(set(replies)) > 1
    with pytest.raises(UserError, match="temperature -1"):
        a_talk(temperature=-1.0)[1].say("hello")


def test_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task, talk = a_talk()
    written: list[str] = []
    long = "bread " * 300
    converse(talk, ["hello", "", "/help", long, "/reset", "hello", "/exit", "hello"], written.append)
    first = Talk(task.network, task.tokens, longest=6, temperature=0.0, top_p=1.0).say("hello").text
    text = "".join(written)
    assert text.count(first) == 2
    assert "(/help is not known: /reset begins anew, /exit ends)" in text
    assert "the last turn alone has" in text
    assert "cut off" in text
    assert "(begun anew)" in text
    assert len(talk.messages) == 2, "nothing after /exit"
    save_task(task, tmp_path, tmp_path)
    given = iter(["hello", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(given))
    with pytest.raises(SystemExit):
        cli.app(["chat", str(tmp_path), "--temperature", "0", "--top-p", "1", "--tokens", "6"])
    assert first in capsys.readouterr().out
    model = yanmo.load(tmp_path)
    assert model.predict(["hello"])[0].text == first
    assert model.predict([{"messages": [{"role": "user", "content": "hello"}]}])[0].text == first
    with pytest.raises(UserError, match=r"input 1 ends with what the assistant says"):
        model.predict([{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])


def test_old_turns_are_left_out_and_said_so() -> None:
    _, talk = a_talk()
    written: list[str] = []
    converse(talk, ["hello, how much is the bread of the baker today"] * 6, written.append)
    assert "it has no room for the oldest" in written[-1]


def test_a_model_that_has_learned_no_conversations_is_refused() -> None:
    task, _ = a_talk()
    with pytest.raises(UserError, match="no chat template: fine-tune the model on conversations first"):
        Talk(task.network, tokens_of("llama"))


def test_a_plain_text_is_read_by_the_name_that_its_field_has(tmp_path: Path) -> None:
    task = task_of("llama", "dialogue", TALKS, length=160, longest=6, fields={"instruction": "ask"})
    save_task(task, tmp_path, tmp_path)
    model = yanmo.load(tmp_path)
    assert model.predict(["hello"]) == model.predict([{"ask": "hello"}])
