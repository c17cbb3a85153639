"""Small tokenizers of every family, and tasks on tiny networks that read with them."""

from __future__ import annotations

import pydoc_data.topics
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from yanmo import recipe
from yanmo.batch import Packed, Row
from yanmo.models import Network, Special, build, build_head, grow
from yanmo.recipe import parse_recipe
from yanmo.tasks import TASKS, Task
from yanmo.tasks.windows import Window
from yanmo.tokenizer import Tokens, load_tokenizer, train_tokenizer

torch.set_num_threads(1)
TEXTS = (
    "The port of Antwerp was founded in 1863 by Willem van Rijn, who had been a baker in Ghent before the war.",
    "A baker makes bread; the bread is eaten, and the company that sells it was founded by two brothers in a small town.",
    "北京是中国的首都，位于华北平原的北部。全市面积约16410平方公里，2020年有人口2189万。",
    "该公司由王小明于1998年在上海创立，主要生产面包、饼干与糖果，后来搬到南京。",
) * 4


@cache
def tokens_of(family: str, **settings: Any) -> Tokens:
    """A tokenizer of the family's kind, trained on a few sentences and on Python's own documentation."""
    pages = list(pydoc_data.topics.topics.values())[:6]
    texts = [*TEXTS, *(paragraph for page in pages for paragraph in re.split(r"\n\s*\n", page) if paragraph.strip())]
    tree = {"vocabulary": 500, **settings}
    folder = Path(tempfile.mkdtemp())
    train_tokenizer(texts, parse_recipe({"model": {"family": family}, "tokenizer": tree}, "test"), folder)
    return load_tokenizer(folder)


def network_of(family: str, tokens: Tokens, width: int) -> Network:
    """Two blocks, every weight large enough to matter."""
    torch.manual_seed(1)
    sizes = {"layers": 2, "width": width} | ({} if family == "lstm" else {"heads": 2, "feedforward": 48})
    cls, end = (tokens.prefix or (None,))[0], tokens.suffix[-1]
    special = Special(pad=tokens.pad, bos=cls, eos=end, cls=cls, sep=tokens.separator)
    network = build(recipe.Model(family=family, size="tiny", **sizes), vocabulary=tokens.size, length=192, special=special)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def task_of(
    family: str, kind: str, examples: Sequence[Any], *, length: int = 64, width: int = 32, loud: bool = True, **given: Any
) -> Any:
    """A task as finetune.start makes it. loud: its head's weights are large enough to matter. given: of its section."""
    section = TypeAdapter(recipe.Task).validate_python({"kind": kind, **given})
    made = TASKS[kind]
    tokens = tokens_of(family)
    network = network_of(family, tokens, width)
    wanted = made.tokens_for(section, tokens)
    network = grow(network, wanted.size, tokens.size)
    labels = made.labels_of(section, examples)
    head_kind = made.head_of(section)
    head = None
    if head_kind is not None:
        head = build_head(network, head_kind, made.outputs(section, labels))
        network.keep_for(head_kind)
    if loud and head is not None:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    task = made(network, head, wanted, section, labels, length)
    task.prepare(examples)
    return task.eval()


def alone(window: Window) -> Packed:
    """A window without anything around it."""
    tokens = torch.tensor(window.tokens)[None]
    types = None if window.types is None else torch.tensor(window.types)[None]
    return Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], types, whole=True)


def batches_of(task: Task, examples: Sequence[Any], length: int | None = None, at_once: int = 3) -> list[Any]:
    """All windows of the examples, packed as they are for training."""
    order = task.order(examples, seed=3, shuffle=False)
    rows: list[Row] = [order.row(number) for number in range(order.rows_per_epoch)]
    return [task.collate(rows[at : at + at_once], length or task.length) for at in range(0, len(rows), at_once)]


def learn(task: Task, examples: Sequence[Any], steps: int, rate: float = 3e-3) -> float:
    """The loss after so many steps on all examples at once. The rate falls over the last third, so that no single step that goes
    too far decides."""
    batches = batches_of(task, examples, at_once=1000)
    optimizer = torch.optim.AdamW(task.parameters(), lr=rate, weight_decay=0.0)
    cooling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 3 * (1 - step / steps)))
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        for batch in batches:
            found = task(batch)[task.kind]
            loss = found.total / found.count
            loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        cooling.step()
    return float(loss.detach())
