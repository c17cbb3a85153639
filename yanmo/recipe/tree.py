"""The whole recipe, and what of it must fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from yanmo.recipe.model import KIND_OF, Model, families_of
from yanmo.recipe.objectives import DEFAULT_KIND, DEFAULT_OF, KINDS, MaskedObjective, Objective
from yanmo.recipe.section import Section
from yanmo.recipe.tasks import Task
from yanmo.recipe.text import Corpus, Tokenizer
from yanmo.recipe.together import Together
from yanmo.recipe.training import Evaluation, Training

NO_BLOCKS = ("model.heads", "model.kv_heads", "model.feedforward", "training.matrix_learning_rate")
UNREAD = {
    ("lstm", None): NO_BLOCKS,
    ("vae", "lstm"): NO_BLOCKS,
    ("ngram", None): (
        *(f"model.{name}" for name in ("size", "layers", "width", "heads", "kv_heads", "feedforward", "dropout")),
        *(f"training.{name}" for name in Training.model_fields if name != "trackers"),
    ),
}
"""Settings that nothing in these families (and versions of them) reads; Muon moves matrices inside of blocks."""


def unread(family: str, version: str | None) -> tuple[str, ...]:
    """The settings that such a network does not read, as SECTION.NAME: a recipe that changes one is refused."""
    return UNREAD.get((family, version), ())


class Recipe(Section):
    """Everything a run does."""

    name: str = Field(default="run", pattern=r"^[\w][\w.\-]*$")
    """The run's folder below `runs`."""
    language: Literal["en", "zh"] = "en"
    """The language of the report."""
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"
    """The folder that holds run folders."""
    corpus: Corpus = Corpus()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    objective: Objective = MaskedObjective()
    """What is learned. By default masked for encoders, causal for decoders."""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tasks: dict[Annotated[str, Field(pattern=r"^[\w][\w.\-]*$")], Task] = Field(default_factory=dict)
    """By name: what the pretrained network is adapted to, and measured on."""
    together: Together | None = None
    """Some of these tasks at once, on one network, against each by itself."""

    @model_validator(mode="before")
    @classmethod
    def _default_objective(cls, tree: Any) -> Any:
        """Fill in the objective from the family, so that a recipe names it only to change it."""
        if isinstance(tree, Mapping):
            model, objective = tree.get("model"), tree.get("objective")
            family = model.get("family") if isinstance(model, Mapping) else getattr(model, "family", None)
            if objective is None or isinstance(objective, Mapping):
                tree = {**tree, "objective": _as_usual(objective or {}, family)}
            together = tree.get("together")
            if isinstance(together, Mapping):
                tree = {**tree, "together": _with_objective(together, tree["objective"], family)}
        return tree

    @model_validator(mode="after")
    def _belong_together(self) -> Recipe:
        family, objective, kind = self.model.family, self.objective, KIND_OF[self.model.family]
        for section in (objective, *objective.sections) if self.model.start is None else ():
            if kind not in section.fits:
                fitting = ", ".join(families_of(*section.fits))
                known = ", ".join(name for name, section in KINDS.items() if kind in section.fits)
                raise ValueError(
                    f"objective {section.kind} does not fit family {family}, {article(kind)}: it is for {fitting}; "
                    f"{family} can learn {known}"
                )
        read = {"encoder": "fill", "discriminator": None, "two-stream": None, "latent": None}.get(kind, "prompts")
        for unread in {"fill", "prompts"} - {read} if self.model.start is None else ():
            if getattr(self.evaluation, unread):
                other = f"it reads evaluation.{read}" if read else "it neither fills nor continues a text"
                raise ValueError(f"evaluation.{unread} does not fit family {family}: {other}")
        pairs = objective.sentence_pairs
        if pairs != "none" and self.model.start is None and family != "bert":
            raise ValueError(f"objective.sentences {pairs} needs family bert: {family} has no head for pairs")
        memory = getattr(objective, "memory", 0)
        if memory >= self.training.length:
            raise ValueError(
                f"objective.memory {memory} leaves nothing to learn from in rows of training.length {self.training.length}; "
                "shorten the memory or lengthen the rows"
            )
        if self.model.positions is not None and self.model.positions < self.training.length:
            raise ValueError(
                f"training.length {self.training.length} is longer than model.positions {self.model.positions}; "
                "shorten the rows or raise the positions"
            )
        return self

    @model_validator(mode="after")
    def _tasks_fit_what_is_pretrained(self) -> Recipe:
        for name, task in self.tasks.items():
            if task.model is None and self.model.start is None and self.corpus.sources:
                try:
                    task.check_family(self.model.family)
                except ValueError as error:
                    raise ValueError(f"tasks.{name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _what_is_together_belongs_together(self) -> Recipe:
        together = self.together
        if together is None:
            return self
        if unknown := [name for name in together.tasks if name not in self.tasks]:
            known = ", ".join(self.tasks) or "none"
            raise ValueError(f"together.tasks: {', '.join(unknown)} is no task of the recipe; its tasks: {known}")
        first, *others = (self.tasks[name] for name in together.tasks)
        for name, other in zip(together.tasks[1:], others, strict=True):
            if (other.model, other.tokenizer) != (first.model, first.tokenizer):
                raise ValueError(
                    f"together.tasks: {together.tasks[0]} and {name} begin with different models; "
                    "tasks that are learned together have one network: give them the same `model`, or none"
                )
        if together.objective is not None:
            if not self.corpus.sources:
                raise ValueError(f"together.objective: {together.objective.kind} needs text; name some in corpus.sources")
            kind = KIND_OF[self.model.family]
            if first.model is None and self.model.start is None and kind not in together.objective.fits:
                named = f"{together.objective.kind} does not fit family {self.model.family}, {article(kind)}"
                raise ValueError(f"together.objective: {named}")
        return self

    @model_validator(mode="after")
    def _nothing_goes_unread(self) -> Recipe:
        model = self.model
        given = [name for name in unread(model.family, model.version) if self._differs(*name.split("."))]
        if given and model.start is None:
            why = {"ngram": ": all text is counted once, without steps, rows or rates"}.get(model.family, "")
            family = f"{model.family} {model.version or ''}".strip()
            these, them = ("these", "them") if len(given) > 1 else ("it", "it")
            raise ValueError(f"{', '.join(given)}: nothing in {family} reads {these}{why}; leave {them} out")
        return self

    def _differs(self, section: str, name: str) -> bool:
        """Whether a setting is not what it is by default."""
        settings = getattr(self, section)
        return getattr(settings, name) != type(settings).model_fields[name].default

    @model_validator(mode="after")
    def _what_is_extended_is_there(self) -> Recipe:
        if self.tokenizer.extend and self.tokenizer.file is None and self.model.start is None:
            raise ValueError(
                f"tokenizer.extend {self.tokenizer.extend}: there is no tokenizer to extend; set model.start or "
                "tokenizer.file, or raise tokenizer.vocabulary of the one that is trained"
            )
        return self

    @model_validator(mode="after")
    def _experts_have_tokens(self) -> Recipe:
        training, experts = self.training, self.model.experts
        tokens = training.length * min(training.micro_rows or training.rows, training.rows)
        if experts is not None and experts.number > tokens:
            raise ValueError(
                f"model.experts.number {experts.number} is more than the {tokens} tokens of a micro-batch; "
                "lower it, or raise training.length or training.micro_rows"
            )
        return self


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _with_objective(together: Mapping[str, Any], objective: Any, family: object) -> Mapping[str, Any]:
    """`objective: true` as the recipe's own, and one without a kind as the family's."""
    own = together.get("objective")
    if own is True:
        return {**together, "objective": objective}
    return {**together, "objective": _as_usual(own, family)} if isinstance(own, Mapping) else together


def _as_usual(objective: Mapping[str, Any], family: object) -> Mapping[str, Any]:
    """An objective with what it leaves open as the family has it; as the default family, where it is not known, which is reported
    elsewhere."""
    usual = DEFAULT_OF.get(str(family)) or {"kind": DEFAULT_KIND[KIND_OF.get(str(family), KIND_OF[Model().family])]}
    return {**usual, **objective} if objective.get("kind", usual["kind"]) == usual["kind"] else objective
