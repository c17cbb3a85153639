"""What can be learned: one section for each objective, and the kinds of network that can learn it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from yanmo.recipe.model import NetworkKind
from yanmo.recipe.section import Section


class ObjectiveSection(Section):
    """What every objective says of itself."""

    fits: ClassVar[tuple[NetworkKind, ...]]
    """The kinds of network that can learn it."""

    @property
    def special(self) -> tuple[str, ...]:
        """Groups of special tokens that it writes into text; yanmo.tokenizer.special says what they are."""
        return ()

    @property
    def sections(self) -> tuple[ObjectiveSection, ...]:
        """What it is made of: itself, or the parts of a mixture."""
        return (self,)


class MaskedObjective(ObjectiveSection):
    """Masked language model (Devlin et al. 2018), with sentence prediction when asked for."""

    fits: ClassVar = ("encoder",)

    kind: Literal["masked"] = "masked"
    unit: Literal["word", "token", "span"] = "word"
    """What is masked as a whole: a word (Chinese words by a segmenter), a token, or a span of words (Joshi et al. 2019)."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are predicted."""
    replace: Literal["80-10-10", "mask"] = "80-10-10"
    """Picked tokens become [MASK] 80%, a random token 10%, stay 10%; or always [MASK]."""
    sentences: Literal["none", "next", "order"] = "none"
    """Also predict whether B follows A (next, Devlin et al. 2018) or whether A and B were swapped (order, Lan et al. 2019)."""


class CausalObjective(ObjectiveSection):
    """Next-token prediction."""

    fits: ClassVar = ("decoder",)

    kind: Literal["causal"] = "causal"
    documents: Literal["apart", "joined"] = "apart"
    """Whether documents packed into one row are hidden from one another."""


class SpanCorruptionObjective(ObjectiveSection):
    """Spans of text become sentinels, and are what is asked for (T5, Raffel et al. 2020, section 3.1.4)."""

    fits: ClassVar = ("encoder-decoder", "decoder")

    kind: Literal["span-corruption"] = "span-corruption"
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are taken out."""
    span: float = Field(default=3.0, ge=1)
    """Mean length of a span, in tokens."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("sentinels",)


class DenoisingObjective(ObjectiveSection):
    """A text is spoiled and is to be restored whole (BART, Lewis et al. 2019, section 2.2). Each way of spoiling can be set to 0."""

    fits: ClassVar = ("encoder-decoder",)

    kind: Literal["denoising"] = "denoising"
    infill: float = Field(default=0.3, ge=0, lt=1)
    """Share of words or tokens in spans that become one mask each."""
    span: float = Field(default=3.0, gt=0)
    """Mean of the Poisson distribution of the spans' lengths; one of length 0 is a mask where nothing is missing."""
    unit: Literal["word", "token"] = "word"
    """What spans are counted in: words (Chinese words by a segmenter), or tokens."""
    delete: float = Field(default=0.0, ge=0, lt=1)
    """Share of tokens that are taken out without a trace."""
    permute: float = Field(default=1.0, ge=0, le=1)
    """Share of a text's sentences that change places."""
    rotate: float = Field(default=0.0, ge=0, le=1)
    """Share of texts that begin at a random token and go on with their beginning after their end."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("mask",)

    @model_validator(mode="after")
    def _spoils_something(self) -> DenoisingObjective:
        if not (self.infill or self.delete or self.permute or self.rotate):
            raise ValueError("nothing is spoiled: set one of infill, delete, permute, rotate above 0")
        return self


class PrefixObjective(ObjectiveSection):
    """A text is split at random, its beginning is read both ways, and its rest is what is asked for (Raffel et al. 2020, section 3.2.3)."""

    fits: ClassVar = ("encoder-decoder", "decoder")

    kind: Literal["prefix"] = "prefix"


class Denoiser(Section):
    """One of a mixture of denoisers."""

    mode: Literal["R", "S", "X"]
    """regular: few short spans; sequential: the text's end; extreme: long spans or many."""
    rate: float = Field(gt=0, lt=1)
    """Share of tokens that are taken out."""
    span: float | None = Field(default=None, ge=1)
    """Mean length of a span, in tokens; mode S has one span, the end of the text."""
    weight: float = Field(default=1.0, gt=0)
    """Texts are dealt to denoisers in proportion."""

    @model_validator(mode="after")
    def _spans_where_there_are_some(self) -> Denoiser:
        if (self.span is None) != (self.mode == "S"):
            raise ValueError(f"mode {self.mode} {'needs a span' if self.span is None else 'has no span: it takes the end of a text'}")
        return self


class DenoisersObjective(ObjectiveSection):
    """A mixture of denoisers, each announced by its mode's token (UL2, Tay et al. 2022, section 3.1 and table 1)."""

    fits: ClassVar = ("encoder-decoder", "decoder")

    kind: Literal["denoisers"] = "denoisers"
    mix: tuple[Denoiser, ...] = Field(
        default=(
            Denoiser(mode="R", rate=0.15, span=3),
            Denoiser(mode="R", rate=0.15, span=8),
            Denoiser(mode="S", rate=0.25),
            Denoiser(mode="X", rate=0.5, span=3),
            Denoiser(mode="X", rate=0.5, span=8),
            Denoiser(mode="X", rate=0.15, span=64),
            Denoiser(mode="X", rate=0.5, span=64),
        ),
        min_length=1,
    )
    """The denoisers; by default those of the paper's table 1, all as often."""
    modes: bool = True
    """Whether the mode's token stands before the text."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("sentinels", "modes") if self.modes else ("sentinels",)


class FillInTheMiddleObjective(ObjectiveSection):
    """Next-token prediction where a part of the texts has its middle moved to the end (Bavarian et al. 2022)."""

    fits: ClassVar = ("decoder",)

    kind: Literal["fill-in-the-middle"] = "fill-in-the-middle"
    rate: float = Field(default=0.5, gt=0, le=1)
    """Share of texts whose middle is moved; the others are read as they are."""
    suffix_first: float = Field(default=0.5, ge=0, le=1)
    """Share of these that give the suffix before the prefix (SPM), the others the prefix first (PSM)."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("gaps",)


class HybridObjective(ObjectiveSection):
    """Some rows as a causal, the others as a masked language model on the same decoder, which then sees both ways and says each
    masked token one place before it (GPT-BERT, Charpentier and Samuel 2024)."""

    fits: ClassVar = ("decoder",)

    kind: Literal["hybrid"] = "hybrid"
    causal: float = Field(default=0.0625, gt=0, lt=1)
    """Share of rows that are causal. The paper's 1 to 15 is best at understanding; more of them generate better."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are predicted in the other rows."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("mask",)


Plain = (
    MaskedObjective
    | CausalObjective
    | SpanCorruptionObjective
    | DenoisingObjective
    | PrefixObjective
    | DenoisersObjective
    | FillInTheMiddleObjective
    | HybridObjective
)
"""Every objective that is none of others."""


class MixturePart(Section):
    """An objective of a mixture."""

    weight: float = Field(default=1.0, gt=0)
    """Rows are dealt to the parts in proportion; so are the losses weighed."""
    objective: Annotated[Plain, Field(discriminator="kind")]
    """What is learned from these rows."""


class MixtureObjective(ObjectiveSection):
    """Several objectives on one network, each from rows of its own."""

    fits: ClassVar = ("encoder", "decoder", "encoder-decoder")

    kind: Literal["mixture"] = "mixture"
    parts: tuple[MixturePart, ...] = Field(min_length=2)
    """The objectives and their weights."""

    @property
    def special(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group for section in self.sections for group in section.special))

    @property
    def sections(self) -> tuple[ObjectiveSection, ...]:
        return tuple(part.objective for part in self.parts)


KINDS: dict[str, type[ObjectiveSection]] = {
    section.model_fields["kind"].default: section for section in (*get_args(Plain), MixtureObjective)
}
Objective = Annotated[Plain | MixtureObjective, Field(discriminator="kind")]

DEFAULT_KIND: dict[NetworkKind, str] = {"encoder": "masked", "decoder": "causal", "encoder-decoder": "span-corruption"}
"""What a network learns when the recipe does not say."""
