"""An index: the vectors of many texts in a folder, and an exact search in it.

Texts that are longer than the network have a vector for each of their parts, of which the nearest counts. Everything is written
and read in blocks of texts, so that it need not fit into memory.
Letters: Q queries, S texts of a block, P parts of these, D width.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from safetensors.numpy import save
from torch import Tensor

from yanmo.arriving import in_blocks
from yanmo.corpus.read import Reader, Unreadable, parse
from yanmo.errors import UserError
from yanmo.files import new_folder, sha256_of, write_atomically
from yanmo.models import Network
from yanmo.objectives.contrast import Vector, check_vector
from yanmo.predict import Model, load
from yanmo.progress import Progress, silent
from yanmo.recipe import Source
from yanmo.tokenizer import Tokens
from yanmo.tokenizer.tokens import TOKENIZER_FILE
from yanmo.vectors import best_of_parts, embed, embed_parts

FACTS, TEXTS, VECTORS = "index.json", "texts.arrow", "vectors.arrow"
LINES = 64
"""Texts whose vectors are told together at most."""
BLOCK = 1024
"""Texts whose vectors are made, written and compared at once."""
QUERIES = 256
"""Queries that are compared at once."""

Precision = Literal["float16", "float32"]
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What index.json says. model: the folder; sum: of its weights and tokenizer. vector: what a text's vector is. parts: vectors
    in all."""

    model: str
    sum: str
    vector: Vector
    precision: Precision
    width: int
    texts: int
    parts: int


@dataclass(frozen=True)
class Hit:
    """A text that was found. score: its cosine. origin: FILE:LINE. number: among all texts, from 0."""

    text: str
    score: float
    origin: str
    number: int


def build_index(
    model: str | Path,
    files: Sequence[str],
    out: str | Path,
    *,
    text: str = "text",
    precision: Precision = "float16",
    progress: Progress = silent,
) -> Facts:
    """Write an index of all texts in `files` into the folder `out`: whole, or not at all.

    files: as corpus.sources names them; of a text file every line is a text, of JSON lines and tables the field `text`. Raises
    UserError for a model without vectors of texts, an empty or unreadable text by its file and line, for no text at all, and
    where something else is in the way.
    """
    out = Path(out)
    if out.exists() and not (out / FACTS).is_file():
        raise UserError(f"{out} is there already and is no index; choose another name")
    opened = load(model)
    vector = check_vector(opened.network, opened.tokenizer)
    reader = Reader(tuple(Source(path=path, text=text, document="line") for path in files))
    width, count, parts = opened.network.config.width, 0, 0
    kinds = pa.schema([("text", pa.string()), ("origin", pa.string())])
    numbers = pa.schema([("text", pa.int32()), ("vector", pa.list_(pa.from_numpy_dtype(precision), width))])
    with new_folder(out) as folder:
        with pa.ipc.new_file(folder / TEXTS, kinds) as texts, pa.ipc.new_file(folder / VECTORS, numbers) as vectors:
            for block in in_blocks(_texts(reader), BLOCK):
                found = embed_parts(opened.network, opened.tokenizer, [text for text, _ in block], vector)
                owners = np.repeat(np.arange(len(block), dtype=np.int32), np.diff(found.firsts))
                flat = pa.array(found.vectors.numpy().astype(precision).reshape(-1))
                rows = pa.FixedSizeListArray.from_arrays(flat, width)
                vectors.write_batch(pa.record_batch([pa.array(owners), rows], schema=numbers))
                texts.write_batch(pa.record_batch([pa.array(column) for column in zip(*block, strict=True)], schema=kinds))
                count, parts = count + len(block), parts + len(owners)
                progress(reader.position, reader.total, "bytes", texts=count)
        if not count:
            raise UserError(f"{', '.join(files)}: there is no text in it; an index needs at least one")
        facts = Facts(str(Path(model).resolve()), _sum_of(Path(model)), vector, precision, width, count, parts)
        (folder / FACTS).write_text(json.dumps(asdict(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def embedded_lines(network: Network, tokens: Tokens, texts: Iterable[str]) -> Iterator[str]:
    """A line of JSON with text and vector for each text, as soon as it is there; empty lines are left out. Raises UserError as
    `embed` does."""
    number = 0
    for lines in in_blocks(texts, LINES):
        numbered = [(number + place, text) for place, line in enumerate(lines, 1) if (text := line.strip())]
        number += len(lines)
        for text, vector in _embedded(network, tokens, numbered):
            yield json.dumps({"text": text, "vector": [round(number, 6) for number in vector.tolist()]}, ensure_ascii=False)


def _embedded(network: Network, tokens: Tokens, numbered: Sequence[tuple[int, str]]) -> Iterator[tuple[str, Tensor]]:
    """Texts with their vectors, together if they all have one; else one by one, to say in which line there is none."""
    texts = [text for _, text in numbered]
    try:
        yield from zip(texts, embed(network, tokens, texts) if texts else (), strict=True)
    except UserError:
        for number, text in numbered:
            try:
                yield text, embed(network, tokens, [text])[0]
            except UserError as error:
                raise UserError(f"line {number}: {error}") from None


def save_vectors(network: Network, tokens: Tokens, texts: Iterable[str], out: Path) -> None:
    """The vectors of all texts, (texts, D) float32, as a file .npy or .safetensors (`vectors`): whole, or not at all."""
    if out.suffix not in (".npy", ".safetensors"):
        raise UserError(f"{out}: vectors are written as .npy or .safetensors; name the file so")
    found = [embed(network, tokens, block).numpy() for block in in_blocks(texts, BLOCK)]
    vectors = np.concatenate(found) if found else np.zeros((0, network.config.width), np.float32)
    if out.suffix == ".safetensors":
        write_atomically(out, save({"vectors": vectors}))
        return
    file = io.BytesIO()
    np.save(file, vectors)
    write_atomically(out, file.getvalue())


def open_index(folder: str | Path, model: str | Path | None = None) -> Index:
    """The index of a folder that `build_index` wrote. model: where its model is, if not where it was.

    Raises UserError for a folder that is no index, and for a model that is not the one its vectors are from.
    """
    folder = Path(folder)
    try:
        facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        how = f"make one with `yanmo index MODEL FILE --out {folder}`"
        raise UserError(f"{folder}: no index here (it has no {FACTS}); {how}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / FACTS}: not what yanmo writes: {error}") from None
    path = Path(model or facts.model)
    opened = load(path)
    if (now := _sum_of(path)) != facts.sum:
        raise UserError(
            f"{folder}: its vectors are of another model: they are from {facts.model} when its hash was {facts.sum[:12]}, "
            f"and that of {path} is {now[:12]}; make the index again, or name the model that it was made with"
        )
    return Index(folder, facts, opened)


class Index:
    """Texts and their vectors. The search is exact: every text is compared."""

    def __init__(self, folder: Path, facts: Facts, model: Model):
        """Raises UserError for files that are not there or are not whole."""
        self.folder, self.facts, self.model = folder, facts, model
        self._texts, self._vectors = (_opened(folder / name) for name in (TEXTS, VECTORS))

    def __len__(self) -> int:
        return self.facts.texts

    def search(self, texts: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """The `k` nearest texts of each query, the nearest first, all where there are fewer; of equally near ones the first.

        Raises UserError for an empty query and for k below 1.
        """
        if isinstance(texts, str):
            raise UserError(f"search: give a list of queries: [{texts!r}]")
        if k < 1:
            raise UserError(f"k {k}: how many texts are to be found must be at least 1")
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise UserError(f"query {number} is empty; say what is to be found")
        return [hits for group in in_blocks(texts, QUERIES) for hits in self._search(group, k)]

    def _search(self, texts: Sequence[str], k: int) -> list[list[Hit]]:
        network, tokens = self.model
        asked = embed_parts(network, tokens, texts, self.facts.vector)
        queries_QD = asked.vectors.numpy()
        best_QK, numbers_QK = np.zeros((len(texts), 0), np.float32), np.zeros((len(texts), 0), np.int64)
        begins = [0]
        for block in range(self._vectors.num_record_batches):
            batch = self._vectors.get_batch(block)
            firsts = np.flatnonzero(np.diff(batch.column("text").to_numpy(), prepend=-1))
            parts_PD = batch.column("vector").flatten().to_numpy().reshape(-1, self.facts.width).astype(np.float32)
            scores_QS = np.maximum.reduceat(best_of_parts(queries_QD @ parts_PD.T, firsts), asked.firsts[:-1], axis=0)
            numbers = np.broadcast_to(begins[-1] + np.arange(len(firsts)), scores_QS.shape)
            best_QK, numbers_QK = np.concatenate([best_QK, scores_QS], 1), np.concatenate([numbers_QK, numbers], 1)
            order = np.argsort(-best_QK, axis=1, kind="stable")[:, :k]
            best_QK, numbers_QK = np.take_along_axis(best_QK, order, 1), np.take_along_axis(numbers_QK, order, 1)
            begins.append(begins[-1] + len(firsts))
        return [
            [self._hit(int(number), float(score), begins) for number, score in zip(numbers, scores, strict=True)]
            for numbers, scores in zip(numbers_QK, best_QK, strict=True)
        ]

    def _hit(self, number: int, score: float, begins: Sequence[int]) -> Hit:
        block = int(np.searchsorted(begins, number, side="right")) - 1
        batch, row = self._texts.get_batch(block), number - begins[block]
        return Hit(batch.column("text")[row].as_py(), score, batch.column("origin")[row].as_py(), number)


def _texts(reader: Reader) -> Iterator[tuple[str, str]]:
    """Every text and where it stands."""
    for pieces in reader.batches():
        for piece in pieces:
            for line, text in parse(piece):
                origin = f"{piece.name}:{line}"
                if isinstance(text, Unreadable):
                    raise UserError(f"{origin}: {text.detail}")
                if not text.strip():
                    raise UserError(f"{origin}: an empty text; leave it out")
                yield text.strip(), origin


def _sum_of(model: Path) -> str:
    """A hash of what a vector depends on: the weights, what was added to them, and the tokenizer."""
    files = sorted([*model.glob("*.safetensors"), *model.glob(TOKENIZER_FILE)])
    return hashlib.sha256("\n".join(f"{path.name} {sha256_of(path)}" for path in files).encode()).hexdigest()


def _opened(path: Path) -> Any:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not whole: {error}; make the index again") from None
