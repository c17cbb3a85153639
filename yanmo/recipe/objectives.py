"""What can be learned: one section for each objective, and the kinds of network that can learn it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from yanmo.recipe.model import NetworkKind
from yanmo.recipe.section import Section


class ObjectiveSection(Section):
    """What every objective says of itself."""

    fits: ClassVar[tuple[NetworkKind, ...]]
    """The kinds of network that can learn it."""

    @property
    def special(self) -> tuple[str, ...]:
        """Groups of special tokens that it writes into text; yanmo.tokenizer.families says what they are."""
        return ()

    @property
    def sections(self) -> tuple[Any, ...]:
        """What it is made of: itself, or the parts of a mixture."""
        return (self,)

    @property
    def sentence_pairs(self) -> str:
        """What is to be learned of pairs of sentences, for which the network needs a head; "none" as a rule."""
        return next((kind for section in self.sections if (kind := getattr(section, "sentences", "none")) != "none"), "none")


class MaskedObjective(ObjectiveSection):
    """Masked language model (Devlin et al. 2018), with sentence prediction when asked for."""

    fits: ClassVar = ("encoder",)

    kind: Literal["masked"] = "masked"
    unit: Literal["word", "token", "span"] = "word"
    """What is masked as a whole: a word (Chinese words by a segmenter), a token, or a span of words (Joshi et al. 2019)."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are predicted; of modernbert 0.3 by default."""
    replace: Literal["80-10-10", "mask"] = "80-10-10"
    """Picked tokens become [MASK] 80%, a random token 10%, stay 10%; or always [MASK], the default of modernbert."""
    sentences: Literal["none", "next", "order"] = "none"
    """Also predict whether B follows A (next, Devlin et al. 2018) or whether A and B were swapped (order, Lan et al. 2019)."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("mask",)


class CausalObjective(ObjectiveSection):
    """Next-token prediction."""

    fits: ClassVar = ("decoder", "recurrent")

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
    """A text is spoiled and is to be restored whole (BART, Lewis et al. 2019, section 2.2); each way of spoiling has its rate."""

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
    """The beginning of a text, of random length, is read both ways, and its rest is asked for (Raffel et al. 2020, section
    3.2.3)."""

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
            fault = "needs a span" if self.span is None else "has no span: it takes the end of a text"
            raise ValueError(f"mode {self.mode} {fault}")
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
        )
    )
    """The denoisers; by default those of the paper's table 1, all as often."""
    modes: bool = True
    """Whether the mode's token stands before the text."""

    @property
    def special(self) -> tuple[str, ...]:
        return ("sentinels", "modes") if self.modes else ("sentinels",)

    @field_validator("mix")
    @classmethod
    def _not_empty(cls, mix: tuple[Denoiser, ...]) -> tuple[Denoiser, ...]:
        if not mix:
            raise ValueError("there are no denoisers; leave mix out for those of the paper")
        return mix


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


class ElboObjective(ObjectiveSection):
    """The evidence lower bound of a text VAE (Bowman et al. 2016): reconstruction and KL."""

    fits: ClassVar = ("latent",)

    kind: Literal["elbo"] = "elbo"
    cycles: int = Field(default=4, ge=1)
    """How often the weight of the KL rises from 0 to 1 (Fu et al. 2019); 1 is linear annealing."""
    rise: float = Field(default=0.5, ge=0, le=1)
    """The share of a cycle in which it rises; 0: it is 1 all the time, and the latent is most likely ignored."""
    free_bits: float = Field(default=0.1, ge=0)
    """Bits of KL that each number of a text's latent may have at no cost (Kingma et al. 2016); 0: none."""
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of tokens that are hidden from the decoder, so that it must rely on the latent (Bowman et al. 2016)."""
    samples: int = Field(default=8, ge=1)
    """Latents a text for the importance-weighted bound at validation; more make it tighter and take longer."""


class ReplacedObjective(ObjectiveSection):
    """A small generator fills gaps, the network says of every token whether it was replaced (ELECTRA, Clark et al. 2020)."""

    fits: ClassVar = ("discriminator",)

    kind: Literal["replaced"] = "replaced"
    generator: float = Field(default=0.25, gt=0, le=1)
    """Width of the generator as a share of the network's, in whole heads; the paper's best are a quarter to a half."""
    unit: Literal["word", "token", "span"] = "token"
    """What is hidden from the generator as a whole, as in masked."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that the generator fills in; the paper has 0.25 for its large network."""
    weight: float = Field(default=50.0, gt=0)
    """Of the network's loss beside the generator's, which weighs 1."""


class ContrastObjective(ObjectiveSection):
    """Sentence vectors: a text is nearest to itself, read again through other dropout (SimCSE, Gao et al. 2021, section 3)."""

    fits: ClassVar = ("encoder", "discriminator")

    kind: Literal["contrast"] = "contrast"
    vector: Literal["first", "mean"] = "first"
    """A text's vector: its first token's hidden state ([CLS]), or the mean of all."""
    temperature: float = Field(default=0.05, gt=0)
    """Cosines are divided by it."""
    dropout: float | None = Field(default=None, gt=0, lt=1)
    """What makes two readings differ, wherever the network can drop something; by default its own dropout, which may not be 0."""


class PermutedObjective(ObjectiveSection):
    """Some tokens are asked for in a random order, each given the text and those before it (XLNet, Yang et al. 2019)."""

    fits: ClassVar = ("two-stream",)

    kind: Literal["permuted"] = "permuted"
    one_in: int = Field(default=6, ge=1)
    """One token in so many is asked for: the paper's K. 1 asks for all of them."""
    span: int = Field(default=5, ge=1)
    """The longest run of tokens that is asked for as a whole."""
    memory: int = Field(default=0, ge=0)
    """Places at the beginning of a row that are read first, without gradient, and remembered; the others are learned from."""

    @property
    def rate(self) -> float:
        """Share of tokens that are asked for."""
        return 1 / self.one_in


Plain = (
    MaskedObjective
    | CausalObjective
    | SpanCorruptionObjective
    | DenoisingObjective
    | PrefixObjective
    | DenoisersObjective
    | FillInTheMiddleObjective
    | HybridObjective
    | ElboObjective
    | ReplacedObjective
    | ContrastObjective
    | PermutedObjective
)
"""Every objective that is none of others."""


class CountingObjective(ObjectiveSection):
    """Next-token prediction from smoothed counts: all training text is read once, whatever the budget."""

    fits: ClassVar = ("counts",)

    kind: Literal["counting"] = "counting"


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
    parts: tuple[MixturePart, ...]
    """The objectives and their weights."""

    @field_validator("parts")
    @classmethod
    def _several(cls, parts: tuple[MixturePart, ...]) -> tuple[MixturePart, ...]:
        if len(parts) < 2:
            raise ValueError("a mixture has at least two parts; with one, write it as the objective itself")
        return parts

    @property
    def special(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group for section in self.sections for group in section.special))

    @property
    def sections(self) -> tuple[Any, ...]:
        return tuple(part.objective for part in self.parts)


class AdversarialObjective(ObjectiveSection):
    """A text GAN: maximum likelihood first, then against a discriminator of what is written."""

    fits: ClassVar = ("decoder", "recurrent")

    kind: Literal["adversarial"] = "adversarial"
    estimator: Literal["gumbel-softmax", "policy-gradient"] = "gumbel-softmax"
    """How the generator learns of the discriminator: through relaxed choices (RelGAN, Nie et al. 2019), or by what roll-outs of
    its texts are worth (SeqGAN, Yu et al. 2017)."""
    start: float = Field(default=0.7, ge=0, lt=1)
    """Share of the steps that learn by maximum likelihood, before the game; 0 for a network that has learned already."""
    warm: float = Field(default=0.2, ge=0, lt=1)
    """Share of the rest in which only the discriminator learns."""
    longest: int = Field(default=32, ge=2)
    """Tokens of the longest text that is written, its end included; of real ones no more is shown."""
    discriminator_turns: int = Field(default=3, ge=1)
    """Times that the discriminator moves after each move of the generator."""
    pace: float = Field(default=0.05, gt=0)
    """In the game, what training.learning_rate is multiplied by."""
    sharpness: float | None = Field(default=None, gt=1)
    """Of the relaxed choices at the end, to which it rises from 1 (gumbel-softmax), by default 100."""
    rollouts: int | None = Field(default=None, ge=1)
    """Texts that show what a token is worth (policy-gradient), by default 4."""

    @model_validator(mode="after")
    def _estimator_reads_them(self) -> AdversarialObjective:
        unread = {"gumbel-softmax": "rollouts", "policy-gradient": "sharpness"}[self.estimator]
        if getattr(self, unread) is not None:
            raise ValueError(f"{unread}: estimator {self.estimator} does not read this; leave it out")
        return self


class DistillationObjective(ObjectiveSection):
    """A teacher's softened scores are learned beside the text's tokens (Hinton et al. 2015), and its hidden states if wanted."""

    fits: ClassVar = ("encoder", "decoder")

    kind: Literal["distillation"] = "distillation"
    teacher: str
    """A model folder, ours or transformers', with the same tokenizer."""
    objective: Annotated[MaskedObjective | CausalObjective, Field(discriminator="kind")] | None = None
    """Whose targets are asked of both; by default masked for encoders, causal for decoders."""
    temperature: float = Field(default=2.0, gt=0)
    """Scores of both are divided by it: a higher one shows more of what the teacher thinks of unlikely tokens."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Of the teacher's scores; the text's own tokens weigh what is left of 1."""
    hidden: Literal["none", "square", "cosine"] = "none"
    """Also learn the teacher's last hidden states, through a layer that is dropped afterwards: by mean square or by cosine."""
    hidden_weight: float = Field(default=1.0, gt=0)
    """Of the loss on hidden states."""

    @property
    def sections(self) -> tuple[Any, ...]:
        return () if self.objective is None else (self.objective,)

    @property
    def special(self) -> tuple[str, ...]:
        return () if self.objective is None else self.objective.special


KINDS: dict[str, type[ObjectiveSection]] = {
    section.model_fields["kind"].default: section
    for section in (*get_args(Plain), CountingObjective, MixtureObjective, DistillationObjective, AdversarialObjective)
}
Objective = Annotated[
    Plain | CountingObjective | MixtureObjective | DistillationObjective | AdversarialObjective, Field(discriminator="kind")
]

DEFAULT_KIND: dict[NetworkKind, str] = {
    "encoder": "masked",
    "decoder": "causal",
    "discriminator": "replaced",
    "encoder-decoder": "span-corruption",
    "latent": "elbo",
    "two-stream": "permuted",
    "recurrent": "causal",
    "counts": "counting",
}
"""What a network learns when the recipe does not say."""
DEFAULT_OF: dict[str, dict[str, Any]] = {
    "bart": {"kind": "denoising"},
    "modernbert": {"kind": "masked", "rate": 0.3, "replace": "mask"},
}
"""The same, for families that learn another way than others of their kind. ModernBERT masks 30% (Warner et al. 2024, section
2.2); other tokens in the place of [MASK] are of no use (Wettig et al. 2022, arXiv:2202.08005, section 5)."""
