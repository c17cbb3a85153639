"""The recipe: one typed tree that says everything a run does.

A recipe is read from defaults, then a YAML file, then the command line (`training.minutes=10`). An unknown key or value
is an error that offers the nearest known one. Reading a recipe opens no file but the recipe and touches no network.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from yanmo.errors import UserError

Format = Literal["txt", "markdown", "html", "jsonl", "csv", "tsv", "parquet"]
PersonalData = Literal["email", "phone", "identity", "card"]
TokenizerKind = Literal["bpe", "byte-bpe", "wordpiece", "unigram", "character"]
FamilyName = Literal["bert", "roberta", "modernbert", "gpt2", "llama", "qwen3"]
Size = Literal["tiny", "mini", "small", "medium", "base", "large"]

DECODERS = ("gpt2", "llama", "qwen3")
BUDGETS = ("steps", "tokens", "epochs", "minutes")


class Section(BaseModel):
    """A part of the recipe. The sentence under each field is what `yanmo schema` prints."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Source(Section):
    """Where text is read from, and how. A plain string in `corpus.sources` is a Source with only a path."""

    path: str
    """A file, a folder, a glob, a URL that fsspec knows (s3://, gs://, http://), or sample:NAME (see `yanmo samples`)."""
    format: Format | None = None
    """How to read it; by default from the file name's ending (.jsonl, .csv.gz, .md ...)."""
    text: str = "text"
    """The JSON key or the column that holds the text (jsonl, csv, tsv, parquet)."""
    document: Literal["blank-line", "line", "file"] = "blank-line"
    """What separates documents in a txt file: a blank line, every line, or nothing (the file is one document)."""
    encoding: str | None = None
    """The character encoding; by default UTF-8, and detected where a file is not UTF-8."""


class Clean(Section):
    """Repairs inside a document. Each is a switch with a counter in the report."""

    mojibake: bool = True
    """Repair text that was decoded with the wrong encoding (ftfy)."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normal form."""
    control: bool = True
    """Remove control characters, zero-width characters and byte order marks."""
    whitespace: bool = True
    """Collapse runs of spaces and blank lines, strip line ends."""
    width: bool = True
    """Full-width letters and digits to half-width; half-width kana to full-width. Chinese punctuation stays as it is."""
    simplify: bool = False
    """Traditional Chinese to simplified (needs the `chinese` extra)."""
    boilerplate: bool = True
    """Remove lines that are navigation, cookie notices, copyright lines, or that repeat inside a document."""
    scrub: tuple[PersonalData, ...] = ()
    """Personal data to replace by a placeholder: email, phone, identity (Chinese, check digit tested), card (Luhn tested)."""


class Filter(Section):
    """Documents to drop. Lengths are in characters, so that they mean the same for text without spaces."""

    min_characters: int = Field(default=10, ge=0)
    """Shorter documents are dropped."""
    max_characters: int | None = Field(default=None, ge=1)
    """Longer documents are dropped; by default none is."""
    repetition: float | None = Field(default=0.5, gt=0, le=1)
    """Largest share of the text that repeated character n-grams may cover; null switches the filter off."""
    symbols: float | None = Field(default=0.4, gt=0, le=1)
    """Largest share of characters that are neither letters, ideographs, digits, punctuation nor space; null switches it off."""
    languages: tuple[str, ...] = ()
    """Languages to keep (codes such as zh, en, ja); empty keeps all."""
    language_confidence: float = Field(default=0.5, ge=0, le=1)
    """Least confidence at which a detected language counts."""


class Deduplicate(Section):
    """Duplicates: the first document in reading order is kept."""

    exact: bool = True
    """Drop documents whose text, spaces and case apart, was seen before."""
    near: bool = True
    """Drop near-duplicates: MinHash over character shingles for CJK, over words otherwise."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity from which two documents are near-duplicates."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """MinHash permutations: more are more exact and slower."""


class Decontaminate(Section):
    """Drop documents that share long n-grams with test files."""

    files: tuple[str, ...] = ()
    """Files (read like sources) whose text must not be trained on."""
    ngram: int = Field(default=13, ge=3)
    """Length of a shared n-gram: words, or characters of CJK text."""


class Corpus(Section):
    """Raw text in, clean documents out."""

    sources: tuple[Source, ...] = ()
    """Files, folders, globs, URLs or sample:NAME."""
    clean: Clean = Clean()
    filter: Filter = Filter()
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate = Decontaminate()
    validation: float = Field(default=0.02, gt=0, lt=1)
    """Share of documents held out, chosen by the hash of the document."""
    on_error: Literal["raise", "skip"] = "raise"
    """A record that cannot be read: stop, or count and list it and go on."""
    workers: int | None = Field(default=None, ge=1)
    """Processes; by default one for each core."""

    @field_validator("sources", mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, Sequence):
            return [{"path": item} if isinstance(item, str) else item for item in value]
        return value


class Tokenizer(Section):
    """The tokenizer: trained on the clean text, or an existing tokenizer.json."""

    kind: TokenizerKind | None = None
    """By default what the family uses: wordpiece (bert), byte-bpe (roberta, modernbert, gpt2, qwen3), bpe (llama)."""
    vocabulary: int = Field(default=16_000, ge=16)
    """How many tokens, special tokens included."""
    lowercase: bool = False
    """Fold case (WordPiece, Unigram and character level)."""
    min_frequency: int = Field(default=2, ge=1)
    """Pieces seen less often do not enter the vocabulary."""
    sample_megabytes: float = Field(default=200, gt=0)
    """Text that training reads, sampled evenly over the corpus: this caps its memory."""
    file: str | None = None
    """An existing tokenizer.json, or a model folder that has one; nothing is trained then."""


class Model(Section):
    """The network. A preset gives every dimension; any that is set here wins."""

    family: FamilyName = "bert"
    """Which network: encoders bert, roberta, modernbert; decoders gpt2, llama, qwen3."""
    size: Size = "mini"
    """tiny, mini, small, medium, base, large."""
    layers: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    """Key-value heads (llama, qwen3)."""
    feedforward: int | None = Field(default=None, ge=1)
    """Width inside the feed-forward brick."""
    positions: int | None = Field(default=None, ge=1)
    """The longest document the network can see; by default the row length or the preset's, whichever is larger."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    start: str | None = None
    """A model folder, ours or transformers', to go on from; family, size and dimensions are then the folder's."""

    @model_validator(mode="after")
    def _start_has_its_own(self) -> Model:
        dimensions = ("layers", "width", "heads", "kv_heads", "feedforward", "positions", "dropout")
        given = [name for name in dimensions if getattr(self, name) is not None]
        if self.start is not None and given:
            raise ValueError(f"{', '.join(given)}: these are the folder's when start is given; leave them out")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        return self


class MaskedObjective(Section):
    """Masked language model (Devlin et al. 2018), with sentence prediction when asked for."""

    kind: Literal["masked"] = "masked"
    unit: Literal["word", "token", "span"] = "word"
    """What is masked as a whole: a word (Chinese words by a segmenter), a token, or a span of words (Joshi et al. 2019)."""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are predicted."""
    replace: Literal["80-10-10", "mask"] = "80-10-10"
    """Picked tokens become [MASK] 80%, a random token 10%, stay 10%; or always [MASK]."""
    sentences: Literal["none", "next", "order"] = "none"
    """Also predict whether B follows A (next, Devlin et al. 2018) or whether A and B were swapped (order, Lan et al. 2019)."""


class CausalObjective(Section):
    """Next-token prediction."""

    kind: Literal["causal"] = "causal"
    documents: Literal["apart", "joined"] = "apart"
    """Whether documents packed into one row are hidden from one another."""


KINDS: dict[str, type[Section]] = {"masked": MaskedObjective, "causal": CausalObjective}
Objective = Annotated[MaskedObjective | CausalObjective, Field(discriminator="kind")]


class Training(Section):
    """The trainer. At most one budget: steps, tokens, epochs or minutes; with none, one epoch."""

    steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps."""
    tokens: int | None = Field(default=None, ge=1)
    """Budget in tokens read."""
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Budget in passes over the training text."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Budget in minutes, turned into steps once, at the start, by measuring."""
    rows: int = Field(default=32, ge=1)
    """Rows of an optimizer step, over all ranks."""
    length: int = Field(default=256, ge=8)
    """Tokens of a row."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Rows that go through the network at once on one rank; by default all, on a CPU what stays in its cache."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak of AdamW's learning rate; by default what suits the width."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Peak of Muon's learning rate for matrices (ignored, and refused, with adamw)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices only; vectors, norms and embeddings have none."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; null switches clipping off."""
    schedule: Literal["cosine", "linear", "constant-decay", "inverse-sqrt"] = "linear"
    """How the learning rate goes after warmup; constant-decay stays at the peak and falls to zero over the last `decay`."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    decay: float = Field(default=0.3, gt=0, le=1)
    """Share of the steps over which constant-decay falls."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 compute with fp32 master weights where the device has it, fp32 elsewhere."""
    compile: bool | None = None
    """Compile the blocks; by default what measures best on the device."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; by default ten validations in a run."""
    validation_rows: int = Field(default=128, ge=1)
    """Rows of the fixed validation set."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; by default about every five minutes and at every validation's best."""
    keep: int = Field(default=2, ge=1)
    """Latest checkpoints kept, besides the best."""
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go besides metrics.jsonl and TensorBoard; the package must be installed."""
    loader_workers: int | None = Field(default=None, ge=0)
    """Processes that build batches; by default none on a CPU, two for each GPU."""

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"budgets given: {', '.join(given)}; keep one")
        if self.optimizer == "adamw" and self.matrix_learning_rate is not None:
            raise ValueError("matrix_learning_rate belongs to optimizer muon; with adamw set learning_rate")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Training:
        if self.schedule != "constant-decay":
            if self.decay != type(self).model_fields["decay"].default:
                raise ValueError(f"decay belongs to schedule constant-decay; {self.schedule} does not read it")
        elif self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are shares of the steps: together at most 1")
        return self


class Evaluation(Section):
    """What is measured and shown after training."""

    pseudo_likelihood: int = Field(default=50, ge=0)
    """Held-out sentences whose pseudo-log-likelihood is measured (encoders; slow, one pass a token)."""
    fill: tuple[str, ...] = ()
    """Sentences with [MASK] to fill in (encoders)."""
    prompts: tuple[str, ...] = ()
    """Beginnings to continue (decoders)."""

    @field_validator("fill")
    @classmethod
    def _have_gaps(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if "[MASK]" not in text and "<mask>" not in text:
                raise ValueError(f"{text!r} has no gap; write [MASK] where a token is to be filled in")
        return texts


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

    @model_validator(mode="before")
    @classmethod
    def _default_objective(cls, tree: Any) -> Any:
        """Fill in the objective's kind from the family, so that a recipe names it only to change it."""
        if isinstance(tree, Mapping):
            model, objective = tree.get("model"), tree.get("objective")
            family = model.get("family") if isinstance(model, Mapping) else getattr(model, "family", None)
            if objective is None or (isinstance(objective, Mapping) and "kind" not in objective):
                tree = {**tree, "objective": {"kind": _kind_for(family), **(objective or {})}}
        return tree

    @model_validator(mode="after")
    def _belong_together(self) -> Recipe:
        needed = _kind_for(self.model.family)
        if self.model.start is None and self.objective.kind != needed:
            raise ValueError(f"objective {self.objective.kind} does not fit family {self.model.family}: it needs {needed}")
        unread = "fill" if needed == "causal" else "prompts"
        if self.model.start is None and getattr(self.evaluation, unread):
            read = "prompts" if unread == "fill" else "fill"
            raise ValueError(f"evaluation.{unread} does not fit family {self.model.family}: it reads evaluation.{read}")
        pairs = getattr(self.objective, "sentences", "none")
        if pairs != "none" and self.model.start is None and self.model.family != "bert":
            raise ValueError(f"objective.sentences {pairs} needs family bert: {self.model.family} has no head for pairs")
        if self.model.positions is not None and self.model.positions < self.training.length:
            raise ValueError(
                f"training.length {self.training.length} is longer than model.positions {self.model.positions}; "
                "shorten the rows or raise the positions"
            )
        return self


def _kind_for(family: object) -> str:
    return "causal" if family in DECODERS else "masked"


def read_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Defaults, then the file, then `key.sub=value` overrides (values are YAML).

    Raises UserError for a file that is missing or is not YAML, and for an unknown or impossible key or value.
    """
    tree: dict[str, Any] = {} if path is None else _read_yaml(Path(path))
    for override in overrides:
        _apply(tree, override)
    return parse_recipe(tree, "command line" if path is None else str(path))


def parse_recipe(tree: Mapping[str, Any], origin: str) -> Recipe:
    """A Recipe from a plain tree; `origin` names it in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: " + "\n".join(_explain(problem) for problem in error.errors())) from None


def write_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out, as YAML that reads back to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True, sort_keys=False)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; `recipes/own-text.yaml` is the one to copy") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a recipe: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a tree of keys, this is a {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in the tree. A budget on the command line replaces the file's."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"{override!r} is not an override; write key.sub=value, for example training.minutes=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{override!r}: the value is not YAML") from None
    *parents, last = dotted.strip().split(".")
    branch = tree
    for parent in parents:
        child = branch.get(parent)
        if child is None:
            child = branch[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"{override!r}: {parent} is not a section of the recipe")
        branch = child
    if parents == ["training"] and last in BUDGETS:
        for other in BUDGETS:
            branch.pop(other, None)
    branch[last] = value


def _explain(problem: Mapping[str, Any]) -> str:
    """One validation problem as a sentence with the field's full name and, for an unknown key, the nearest one."""
    location = [part for part in problem["loc"] if part not in KINDS]
    field = ".".join(str(part) for part in location) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{field}: no such key{_nearest(str(location[-1]), _known_keys(problem['loc'][:-1]))}"
    given = problem.get("input")
    if problem["type"] == "union_tag_invalid":
        kind, kinds = problem["ctx"]["tag"], list(KINDS)
        return f"{field}.kind: {kind!r} is not known{_nearest(kind, kinds)}; allowed: {', '.join(kinds)}"
    if problem["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"{field}: {given!r} is not known{_nearest(str(given), allowed)}; allowed: {', '.join(allowed)}"
    shown = "" if isinstance(given, Mapping | Section) else f" (given: {given!r})"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{shown}"


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(known)}"


def _known_keys(location: Sequence[Any]) -> list[str]:
    """The keys of the section at `location`, walking the types and not the values."""
    section: type[BaseModel] = Recipe
    for part in location:
        if part in KINDS:
            section = KINDS[part]
        elif isinstance(part, str):
            section = _section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The Section inside an annotation such as Clean, Source or tuple[Source, ...]; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_of(inner):
            return found
    return None
