"""The tasks of a recipe: what a pretrained network is adapted to, how, and with which examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from yanmo.recipe.model import KIND_OF, Model, NetworkKind, families_of
from yanmo.recipe.section import Section
from yanmo.recipe.text import Tokenizer
from yanmo.recipe.training import BUDGETS, Training

Method = Literal["full", "frozen", "adapter", "lora", "scratch"]
EPOCHS, MOST_EPOCHS = 3.0, 20.0
"""Passes over the examples when the recipe names no budget, more where these would be few steps: on small data most of what is
called unstable was not trained to its end (Mosbach et al. 2021, arXiv:2006.04884, sections 5 and 6, who take 20)."""
FEW_STEPS, FEW_STEPS_BESIDE = 500, 1000
"""The second for what is learned beside a network that stays as it is: it comes less far in a step, and Houlsby et al. 2019 and
Hu et al. 2021 give it several times the passes too."""


def few_steps(method: Method) -> int:
    """Where three passes are fewer steps than this, there are more passes."""
    return FEW_STEPS_BESIDE if method in ("adapter", "lora") else FEW_STEPS


def usual_epochs(steps: float, method: Method = "full") -> float:
    """Passes over the examples when the recipe names no budget. steps: of one pass."""
    return min(MOST_EPOCHS, max(EPOCHS, few_steps(method) / steps))


class TaskTraining(Training):
    """The trainer for a task: a step has so many examples. Without a budget it is three epochs, on few examples up to twenty."""

    batch: int = Field(default=32, ge=1)
    """Examples of a step, about: rows hold as many as fit into them."""
    rows: int | None = Field(default=None, ge=1)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Rows of a step, instead of `batch`."""
    length: int | None = Field(default=None, ge=8)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Tokens of a row; by default what the longest example needs, as far as the network and 256 go. Longer examples are read in
    windows that overlap."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """AdamW for all, or Muon for the matrices inside the blocks."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On matrices only."""
    beta2: float = Field(default=0.999, gt=0, lt=1)
    """How long AdamW remembers squares of gradients: longer than in pretraining, since labelled steps are small and unlike."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    validation_rows: int = Field(default=32, ge=1)
    """Rows on which the held-out loss is measured; the task's figures are measured on all examples."""
    keep: int = Field(default=1, ge=1)
    """Latest checkpoints kept, besides the best."""

    def resolved(
        self, rows: int, length: int, rate: float, rows_per_epoch: int, method: Method = "full", share: float = 1.0
    ) -> Training:
        """The trainer's own settings, with what the recipe leaves open, for a share of the budget."""
        given: dict[str, Any] = self.model_dump(exclude={"batch"}) | {"rows": rows, "length": length}
        given["learning_rate"] = self.learning_rate or rate
        if all(given[budget] is None for budget in BUDGETS):
            given["epochs"] = usual_epochs(rows_per_epoch / rows, method)
        budget = next(name for name in BUDGETS if given[name] is not None)
        if share != 1:
            given[budget] = max(1, round(share * given[budget])) if budget in ("steps", "tokens") else share * given[budget]
        return Training(**given)


class Adaptation(Section):
    """How a network is adapted: which of its numbers move, and which are added."""

    method: Literal["full", "frozen", "adapter", "lora"] = "full"
    """full: all of them. frozen: a new head, and the `top` blocks. adapter: a bottleneck at every brick. lora: a product of two
    thin matrices beside every matrix of the blocks."""
    top: int | None = Field(default=None, ge=0)
    """Blocks that move (frozen), from the top; by default none."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Learning rates fall by this from block to block, from the top down (full); by default they do not."""
    place: Literal["parallel", "houlsby", "pfeiffer"] | None = None
    """Adapters beside attention and feed-forward (He et al. 2022), the default, after both (Houlsby et al. 2019), or after
    feed-forward only (Pfeiffer et al. 2020)."""
    width: int | None = Field(default=None, ge=1)
    """Of an adapter inside, by default 256, or the network's where that is less."""
    rank: int | None = Field(default=None, ge=1)
    """Of LoRA's matrices, by default 128, or half of the network's width where that is less."""
    alpha: int | None = Field(default=None, ge=1)
    """LoRA's scale, over its rank (rslora: over the rank's root); by default so that changes count twice."""
    variant: Literal["lora", "rslora", "dora"] | None = None
    """lora (Hu et al. 2021), rslora (Kalajdzievski 2023), dora (Liu et al. 2024)."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Before LoRA's matrices, by default 0."""

    READ: ClassVar[dict[str, tuple[str, ...]]] = {
        "full": ("layer_decay",),
        "frozen": ("top",),
        "adapter": ("place", "width"),
        "lora": ("rank", "alpha", "variant", "dropout"),
    }

    @model_validator(mode="after")
    def _method_reads_them(self) -> Adaptation:
        given = [name for name in type(self).model_fields if name != "method" and getattr(self, name) is not None]
        if unread := [name for name in given if name not in self.READ[self.method]]:
            raise ValueError(f"{', '.join(unread)}: method {self.method} does not read this; leave it out")
        return self


def as_several(value: Any) -> Any:
    """A single text as a list of one."""
    return (value,) if isinstance(value, str) else value


def named_twice(values: Sequence[Any]) -> list[str]:
    """Those of some values that stand there more than once."""
    return sorted({str(value) for value in values if values.count(value) > 1})


def _started(value: Any) -> Any:
    return {"start": value} if isinstance(value, str) else value


Candidates = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)]
"""Values that are tried."""
Files = Annotated[tuple[str, ...], BeforeValidator(as_several)]
"""One file or several, or `sample:NAME`."""


class TaskSection(Section):
    """What every task says of itself."""

    train: Files = ()
    """Examples to learn from: files, or `sample:NAME`."""
    valid: Files = ()
    """Examples that choose the best weights; by default a share of `train`."""
    test: Files = ()
    """Examples that nothing is chosen by."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of `train` that is held out where there is no `valid`."""
    fields: dict[str, str] = Field(default_factory=dict)
    """What fields are called in the files, where they have other names: {text: review, label: stars}."""
    limit: int | None = Field(default=None, ge=1)
    """Examples to learn from at most, drawn at random; of every label at least one, while there is room."""
    on_error: Literal["raise", "skip"] = "raise"
    """Examples that cannot be read (an empty field, half a record): stop at the first, or leave them out and say how many."""
    lint: bool = True
    """Train on nothing of which lint says: do not."""
    model: Annotated[Model, BeforeValidator(_started)] | None = None
    """A model folder, or a new network that learns nothing but this: {family: t5, size: mini}; by default the network that the
    run has pretrained."""
    tokenizer: Tokenizer = Tokenizer()
    """Of a new network: trained on the texts of `train`."""
    adaptation: Adaptation = Adaptation()
    training: TaskTraining = TaskTraining()
    stride: float = Field(default=0.5, gt=0, le=1)
    """How far windows of a long example are apart, as a share of their length."""
    metric: str | None = None
    """Which figure chooses the best weights; by default the task's own."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Of the trials of each way; figures are means over them, with an interval."""
    methods: tuple[Method, ...] = ()
    """Ways that are compared, each with every seed: scratch, frozen, adapter, lora, full. By default the adaptation's only."""
    parallel: int = Field(default=1, ge=1)
    """Trials at a time, each in a process with its share of the cores: one on each core gets through more small networks than one
    after another on all."""
    tune: dict[Literal["learning_rate", "batch", "epochs"], Candidates] = Field(default_factory=dict)
    """Settings of training to choose from, by successive halving on the validation examples."""

    fits: ClassVar[tuple[NetworkKind, ...]] = ()
    """The kinds of network that can do it, where not all of those do that have heads for labels."""

    @property
    def is_new(self) -> bool:
        """Whether the network has learned nothing before."""
        return self.model is not None and self.model.start is None

    @property
    def tried(self) -> tuple[Method, ...]:
        """The ways that are tried."""
        return self.methods or (("scratch",) if self.is_new else (self.adaptation.method,))

    @model_validator(mode="after")
    def _nothing_is_tried_twice(self) -> TaskSection:
        tried = {f"tune.{name}": values for name, values in self.tune.items()}
        for name, values in {"seeds": self.seeds, "methods": self.methods, **tried}.items():
            if twice := named_twice(values):
                raise ValueError(f"{name}: {', '.join(twice)} is named twice; once is enough")
        return self

    @model_validator(mode="after")
    def _tuning_is_heard(self) -> TaskSection:
        if any(batch % 1 for batch in self.tune.get("batch", ())):
            raise ValueError("tune.batch: a step has a whole number of examples")
        if "batch" in self.tune and self.training.rows is not None:
            raise ValueError("tune.batch: training.rows says already how much a step has; leave one of both out")
        budgets = [name for name in BUDGETS if name != "epochs" and getattr(self.training, name) is not None]
        if "epochs" in self.tune and budgets:
            raise ValueError(f"tune.epochs: training.{budgets[0]} is the budget already; leave one of both out")
        return self

    @model_validator(mode="after")
    def _new_networks_learn_everything(self) -> TaskSection:
        if not self.is_new:
            if self.tokenizer != Tokenizer():
                raise ValueError("tokenizer: a pretrained network has its own; leave it out, or name a new network in `model`")
        elif self.adaptation != Adaptation() or any(method != "scratch" for method in self.methods):
            raise ValueError("a new network (model) has learned nothing that could be adapted: leave adaptation and methods out")
        return self

    @model_validator(mode="after")
    def _new_network_can_do_it(self) -> TaskSection:
        if self.model is not None and self.is_new:
            self.check_family(self.model.family)
        return self

    def check_family(self, family: str) -> None:
        """Raises ValueError for a family whose networks cannot do the task."""
        if self.fits and KIND_OF[family] not in self.fits:
            kind = getattr(self, "kind", "this task")
            raise ValueError(f"{kind} does not fit family {family}: it is for {', '.join(families_of(*self.fits))}")


class ClassificationTask(TaskSection):
    """What a text is, or how two belong together: text, pair, label."""

    kind: Literal["classification"] = "classification"
    several: bool = False
    """A text may have several labels, or none."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare labels weigh more, so that all labels weigh the same; a text of several labels weighs their mean."""


class RegressionTask(TaskSection):
    """A number for a text or a pair: text, pair, label."""

    kind: Literal["regression"] = "regression"


class LabellingTask(TaskSection):
    """Names and other parts of a text: tokens and tags, or spans of a raw text."""

    kind: Literal["labelling"] = "labelling"
    decoder: Literal["softmax", "crf"] = "softmax"
    """Each word by itself, or with its neighbours (Lafferty et al. 2001). Both only give legal sequences of tags."""


class RelationTask(TaskSection):
    """How two places in a text belong together: text, head, tail, relation."""

    kind: Literal["relation"] = "relation"
    none: str | None = None
    """The label that stands for no relation; by default Other, no_relation or the like, where the examples have it."""
    reads: Literal["markers", "text"] = "markers"
    """What stands for a pair: the states at markers before its two parts (Baldini Soares et al. 2019), or, with the markers in
    the text, the state that stands for the whole text."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("entities",)


class AnsweringTask(TaskSection):
    """Questions about a text, answered by a part of it: SQuAD's JSON."""

    kind: Literal["answering"] = "answering"
    longest: int = Field(default=48, ge=1)
    """Tokens of an answer at most."""


class WritingTask(TaskSection):
    """One text into another: source, target. Encoder-decoders write; decoders go on from a prompt."""

    fits: ClassVar[tuple[NetworkKind, ...]] = ("encoder-decoder", "decoder", "recurrent")
    beams: int = Field(default=4, ge=1)
    """1: the likeliest token every time."""
    length_penalty: float = 1.0
    """Texts are compared by log-probability / tokens ** this: above 0 longer ones win more often, at 0 they do not."""
    longest: int = Field(default=128, ge=1)
    """Tokens that are written at most."""
    prompt: str = ""
    """Before every source, as in T5: "translate: "."""
    checked: int = Field(default=200, ge=1)
    """Validation examples that are written out, without beams, to choose the best weights."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Of every target so much is shared out among all tokens (label smoothing): less sure, and better at writing."""


class TranslationTask(WritingTask):
    kind: Literal["translation"] = "translation"
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """Of the targets, for the metrics' tokenizer, by its code of two or three letters: zh, ja, ko, de ...; by default seen from
    the targets."""


class SummarisationTask(WritingTask):
    kind: Literal["summarisation"] = "summarisation"


class DialogueTask(TaskSection):
    """Conversations, of which only the assistant's turns are learned: messages (OpenAI), conversations (ShareGPT), Alpaca."""

    kind: Literal["dialogue"] = "dialogue"
    fits: ClassVar[tuple[NetworkKind, ...]] = ("decoder", "recurrent", "encoder-decoder")
    learn: Literal["assistant", "last"] = "assistant"
    """All turns of the assistant, or the last of each conversation only."""
    longest: int = Field(default=128, ge=1)
    """Tokens of a reply at most."""
    checked: int = Field(default=50, ge=1)
    """Held-out conversations whose last reply is written, to say how varied replies are."""


class RetrievalTraining(TaskTraining):
    """Larger steps: the other texts of a step are what a text is told apart from."""

    batch: int = Field(default=128, ge=1)
    """Examples of a step, about."""


class RetrievalTask(TaskSection):
    """Texts that are to be found: query, positive, and negatives where they are known."""

    kind: Literal["retrieval"] = "retrieval"
    fits: ClassVar[tuple[NetworkKind, ...]] = ("encoder", "discriminator", "two-stream", "decoder", "recurrent")
    training: RetrievalTraining = RetrievalTraining()  # pyright: ignore[reportIncompatibleVariableOverride]
    vector: Literal["mean", "first", "last"] | None = None
    """What a text's vector is: the mean of its states, its first or its last state; by default mean, and last of a network that
    only looks back."""
    temperature: float = Field(default=0.05, gt=0)
    """Cosines are divided by it; the lower, the more the nearest wrong texts count."""
    negatives: int = Field(default=1, ge=0)
    """Of an example's own negatives, so many are read beside it."""
    both: bool = True
    """The query is to be found by its text as well as the text by its query."""


Task = Annotated[
    ClassificationTask
    | RegressionTask
    | LabellingTask
    | RelationTask
    | AnsweringTask
    | TranslationTask
    | SummarisationTask
    | DialogueTask
    | RetrievalTask,
    Field(discriminator="kind"),
]
TASK_KINDS: dict[str, type[TaskSection]] = {
    section.model_fields["kind"].default: section for section in get_args(get_args(Task)[0])
}
