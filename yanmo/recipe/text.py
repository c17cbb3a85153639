"""The parts of a recipe about text: what is read, how it is cleaned, what is dropped, and the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from yanmo.recipe.section import Section

Format = Literal["txt", "markdown", "html", "jsonl", "csv", "tsv", "parquet"]
PersonalData = Literal["email", "phone", "identity", "card"]
TokenizerKind = Literal["bpe", "byte-bpe", "wordpiece", "unigram", "character"]


class Source(Section):
    """Where text is read from, and how. A plain string in `corpus.sources` is a Source with only a path."""

    path: str
    """A file, a folder, a glob, a URL that fsspec knows (s3://, gs://, http://), or sample:NAME (see `yanmo samples`)."""
    format: Format | None = None
    """How to read it; by default from the file name's ending (.jsonl, .csv.gz, .md ...)."""
    text: str = "text"
    """The JSON key or the column that holds the text (jsonl, csv, tsv, parquet); a list of words or characters is joined."""
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
    """By default what the family uses: wordpiece (bert), byte-bpe (roberta, modernbert, bart, gpt2, qwen3), unigram
    (t5), bpe (llama)."""
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
    add_special: bool = False
    """Add special tokens to an existing tokenizer where the objective needs some that it lacks, and rows for them to the network
    of model.start, which begin at the mean of the others. A trained tokenizer has them anyway."""
    extend: int = Field(default=0, ge=0)
    """Add up to so many tokens to an existing tokenizer for what the new corpus says often and it spells in pieces (BPE,
    WordPiece), and rows for them to the network of model.start, which begin at the mean of their old pieces."""
