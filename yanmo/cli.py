"""The verbs. Each one reads a recipe or a model folder and calls one function; nothing heavy is imported before it is needed."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yanmo import __version__
from yanmo.errors import Interrupted, UserError

if TYPE_CHECKING:
    from yanmo.models import Network
    from yanmo.tokenizer import Tokens

app = typer.Typer(
    name="yanmo",
    help="Yanmo (研墨): your own text into your own language model.",
    epilog="Begin with: yanmo run recipes/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that win over the recipe: training.minutes=10")
]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, such as runs/quickstart/pretrain/model.")]
RUNNING, USING, LOOKING = "Make a model", "Use a model", "Look things up"


@app.command(rich_help_panel=RUNNING)
def run(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Do all that a recipe says: corpus, tokenizer, shards, pretraining, evaluation, report. What is done is not done again."""
    _carry_out(recipe, overrides, "report")


@app.command(rich_help_panel=RUNNING)
def corpus(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Read, clean, filter, deduplicate and split the text."""
    _carry_out(recipe, overrides, "corpus")


@app.command(rich_help_panel=RUNNING)
def tokenizer(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Train a tokenizer on the clean text, or take the one that the recipe names."""
    _carry_out(recipe, overrides, "tokenizer")


@app.command(rich_help_panel=RUNNING)
def shards(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Turn the clean text into token shards: all that can be done before training."""
    _carry_out(recipe, overrides, "shards")


@app.command(rich_help_panel=RUNNING)
def pretrain(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Pretrain the network, or go on where it stopped. With several processes: torchrun --nproc_per_node=N -m yanmo pretrain."""
    _carry_out(recipe, overrides, "pretrain")


@app.command(rich_help_panel=RUNNING)
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or the model folder of a task.")],
    rest: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE|FILE]...", help="Settings; for a model: files.")] = None,
) -> None:
    """Measure a recipe's pretrained model on the held-out documents; or a task's model on labelled files."""
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        _carry_out(path, rest, "evaluation")
        return
    import yanmo
    from yanmo import display
    from yanmo.predict import measured

    if not rest:
        raise UserError(f"{path}: name the labelled files that it is to be measured on: yanmo evaluate {path} test.jsonl")
    model = yanmo.load(path)
    figures = measured(model, rest)
    display.table(f"{path}, {', '.join(rest)}", [*model.task.readable(figures).items()])


@app.command(rich_help_panel=RUNNING)
def finetune(
    model: ModelFolder,
    task: Annotated[str, typer.Option("--task", "-t", help="classification, labelling, relation, answering, translation ...")],
    train: Annotated[list[str], typer.Option(help="Labelled examples to learn from; may be repeated.")],
    valid: Annotated[list[str] | None, typer.Option(help="Examples to choose by; by default a share of --train.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Examples to measure on at the end.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where all of it goes; by default runs/TASK.")] = None,
    overrides: Overrides = None,
) -> None:
    """Adapt a model to a task: yanmo finetune MODEL --task classification --train train.jsonl training.epochs=5"""
    from yanmo import display, trials
    from yanmo.recipe import parse_task
    from yanmo.report import write_report
    from yanmo.summary import summary_of_task

    files = {"train": train, "valid": valid or [], "test": test or []}
    section = parse_task({"kind": task, **files}, overrides or [])
    if section.model is not None:
        raise UserError(
            f"model: the network to adapt is {model}; a new one, which learns nothing but the task, is for a recipe (yanmo run)"
        )
    folder = out or Path("runs") / section.kind
    with _interruptible(), display.stage(section.kind) as progress:
        found = trials.carry_out(trials.Trials(section, model, folder), progress, display.note)
    display.columns(f"{section.kind}, {model}", found["table"])
    print()
    display.table("", [*summary_of_task(section.kind, folder, found["best"]), ("report", str(write_report(folder)))])


@app.command(rich_help_panel=RUNNING)
def lint(
    data: Annotated[str, typer.Argument(help="Labelled examples: a file, a folder with train, valid and test, sample:NAME.")],
    task: Annotated[str, typer.Option("--task", "-t", help="classification, labelling, relation, answering, translation ...")],
    model: Annotated[Path | None, typer.Option("--model", "-m", help="The model that is to learn them.")] = None,
    valid: Annotated[list[str] | None, typer.Option(help="Examples to choose by.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Examples to measure on.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    rest: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE|KEY=VALUE]...", help="Further files, and settings: fields.text=review")
    ] = None,
) -> None:
    """Say what is wrong with labelled data before anything is trained on it. Status 1: do not train."""
    from yanmo.predict import linted
    from yanmo.recipe import parse_task

    further = [one for one in rest or [] if "=" not in one or Path(one).exists()]
    files = {"train": [data, *further], "valid": valid or [], "test": test or []}
    section = parse_task({"kind": task, **files}, [one for one in rest or [] if one not in further])
    report = linted(section, model)
    if json:
        from json import dumps

        print(dumps(report.as_json(), ensure_ascii=False, indent=1))
    else:
        report.show()
    if report.verdict == "do not train":
        raise typer.Exit(1)


@app.command(rich_help_panel=RUNNING)
def merge(
    adapter: Annotated[Path, typer.Argument(help="The folder of a task that was learned by LoRA, or one of peft.")],
    out: Annotated[Path, typer.Argument(help="The new model folder.")],
    base: Annotated[Path | None, typer.Option(help="The base, where it is not where it was.")] = None,
) -> None:
    """Fold LoRA into its base: a model folder that needs no adapter, compared with the unmerged one before it is written."""
    from yanmo import display
    from yanmo.tasks.folder import merge_task

    found = merge_task(adapter, out, base)
    difference = f"{found.difference:.1e} of the greatest output"
    display.table(str(out), [("differs from unmerged", difference), ("differs from the base", f"{found.change:.1e}")])


@app.command(rich_help_panel=RUNNING)
def compare(
    comparison: Annotated[Path, typer.Argument(help="A comparison, such as recipes/compare-zh.yaml.")],
    overrides: Overrides = None,
) -> None:
    """Run several recipes on the same text with the same budget, over several seeds, and put them into one table."""
    from yanmo.compare import compare as carry_out

    table, folder = carry_out(comparison, overrides or [])
    print(table)
    print(f"\n{folder / 'results.md'}")


@app.command(rich_help_panel=USING)
def fill(
    model: ModelFolder,
    text: Annotated[str, typer.Argument(help="A sentence with [MASK] where something is to be filled in.")],
    best: Annotated[int, typer.Option("--best", "-k", min=1, help="How many candidates for each gap.")] = 5,
) -> None:
    """Fill in the gaps of a sentence (encoders)."""
    import yanmo
    from yanmo import display

    network, tokens = _load(model)
    for number, candidates in enumerate(yanmo.fill(network, tokens, text, k=best), 1):
        rows = [(candidate.token, f"{candidate.probability:6.1%}   {candidate.text}") for candidate in candidates]
        display.table(f"gap {number}", rows)


@app.command(rich_help_panel=USING)
def generate(
    model: ModelFolder,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="A beginning, or a text to rewrite; may be repeated.")],
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 100,
    beams: Annotated[int, typer.Option(min=1, help="Search for the likeliest text with so many beams; 1: draw tokens.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of a search: above 1 for longer texts, below for shorter ones.")] = 1.0,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest token every time.", show_default="0.8")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from so many likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw from the likeliest of this probability.", show_default="0.95")
    ] = None,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Above 1: what was said before is less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Go on from a beginning (decoders), or write what a text becomes (encoder-decoders); it appears as it is made."""
    import yanmo
    from yanmo.beams import BeamSettings
    from yanmo.models import Seq2Seq

    if beams == 1 and length_penalty != 1:
        raise UserError("--length-penalty is for a search with --beams 2 or more")
    heat, nucleus = (0.8, 0.95) if beams == 1 else (1.0, 1.0)
    network, vocabulary = _load(model)
    becomes = " → " if isinstance(network, Seq2Seq) else ""

    def show(index: int, text: str) -> None:
        if len(prompt) == 1:
            print(text, end="", flush=True)

    if len(prompt) == 1:
        print(prompt[0], end=becomes, flush=True)
    written = yanmo.generate(
        network,
        vocabulary,
        prompt,
        beams=BeamSettings(beams, length_penalty),
        max_new_tokens=tokens,
        temperature=heat if temperature is None else temperature,
        top_k=top_k,
        top_p=nucleus if top_p is None else top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        on_text=show,
    )
    if len(prompt) == 1:
        print()
    for one in written if len(prompt) > 1 else []:
        print(f"— {one.prompt}{becomes}{one.text}")


@app.command(rich_help_panel=USING)
def predict(
    model: ModelFolder,
    texts: Annotated[list[str] | None, typer.Argument(help="By default the lines of standard input, texts or JSON.")] = None,
) -> None:
    """What a task's model says of texts, a line of JSON for each."""
    import yanmo
    from yanmo.predict import predicted_lines

    for line in predicted_lines(yanmo.load(model), texts or sys.stdin):
        print(line, flush=True)


@app.command(rich_help_panel=USING)
def chat(
    model: ModelFolder,
    system: Annotated[str | None, typer.Option(help="What the model is told before anything is said.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens a reply.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest of this probability.")] = 0.9,
    repetition_penalty: Annotated[float, typer.Option(min=0.01, help="Above 1: what was said before is less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same replies.")] = 0,
) -> None:
    """Talk with a model that has learned conversations (task dialogue); /reset begins anew, /exit ends."""
    from yanmo import display
    from yanmo.talk import HELP, Talk, converse

    network, vocabulary = _load(model)
    drawn = {"temperature": temperature, "top_p": top_p, "repetition_penalty": repetition_penalty}
    talk = Talk(network, vocabulary, system, longest=tokens, seed=seed, **drawn)
    display.note(HELP, "dim")
    converse(talk, _typed(), lambda text: print(text, end="", flush=True))


@app.command(rich_help_panel=USING)
def embed(
    model: ModelFolder,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; by default the lines of standard input.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file .npy or .safetensors, instead of lines of JSON.")] = None,
) -> None:
    """Texts as vectors, to be compared by their cosine (encoders, and what task retrieval has adapted)."""
    from yanmo.index import embedded_lines, save_vectors

    network, tokens = _load(model)
    if out is not None:
        save_vectors(network, tokens, texts or (line.strip() for line in sys.stdin if line.strip()), out)
        return
    for line in embedded_lines(network, tokens, texts or sys.stdin):
        print(line, flush=True)


@app.command(rich_help_panel=USING)
def index(
    model: ModelFolder,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Texts: a line each, or JSON lines and tables.")],
    out: Annotated[Path, typer.Option(help="The folder of the index.")],
    text: Annotated[str, typer.Option(help="The field that holds the text, in JSON lines and tables.")] = "text",
    float32: Annotated[bool, typer.Option("--float32", help="Keep vectors as exact as they are, in twice the room.")] = False,
) -> None:
    """Make an index of many texts, for `yanmo search`."""
    import yanmo
    from yanmo import display

    with display.stage("index") as progress:
        facts = yanmo.build_index(model, files, out, text=text, precision="float32" if float32 else "float16", progress=progress)
    rows = [("texts", f"{facts.texts:,}"), ("vectors", f"{facts.parts:,} of {facts.width} numbers, {facts.precision}")]
    display.table(str(out), [*rows, ("try", f"yanmo search {out} \"...\"")])


@app.command(rich_help_panel=USING)
def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="A folder that `yanmo index` has made.")],
    queries: Annotated[list[str] | None, typer.Argument(help="What to look for; by default the lines of standard input.")] = None,
    best: Annotated[int, typer.Option("--best", "-k", min=1, help="How many texts for each query.")] = 5,
    model: Annotated[Path | None, typer.Option(help="The model that the index was made with, if it is not where it was.")] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each query.")] = False,
) -> None:
    """The texts of an index that are nearest to a query."""
    from dataclasses import asdict
    from json import dumps

    import yanmo
    from yanmo import display

    opened = yanmo.open_index(index, model)
    for query in queries or (line.strip() for line in sys.stdin if line.strip()):
        (hits,) = opened.search([query], best)
        if json:
            print(dumps({"query": query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False), flush=True)
        else:
            display.table(query, [(f"{hit.score:.3f}", f"{hit.text}  ({hit.origin})") for hit in hits])


@app.command(rich_help_panel=USING)
def sample(
    model: ModelFolder,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many texts.")] = 5,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token every time.")] = 0.8,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens a text.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same texts.")] = 0,
) -> None:
    """Write texts from nothing (decoders, recurrent networks, n-grams, latent models)."""
    import yanmo

    network, vocabulary = _load(model)
    for one in yanmo.sample(network, vocabulary, count, temperature=temperature, seed=seed, max_tokens=tokens):
        print(one.text)


@app.command(rich_help_panel=USING)
def interpolate(
    model: ModelFolder,
    first: Annotated[str, typer.Argument(help="The text to begin with.")],
    second: Annotated[str, typer.Argument(help="The text to arrive at.")],
    steps: Annotated[int, typer.Option(min=2, help="How many texts, both ends included.")] = 7,
    linear: Annotated[bool, typer.Option("--linear", help="On the straight line, not on the arc.")] = False,
) -> None:
    """Write the texts between two texts (latent models)."""
    import yanmo

    network, tokens = _load(model)
    path = "linear" if linear else "spherical"
    for one in yanmo.interpolate(network, tokens, first, second, steps, path=path):
        print(one.text)


@app.command(rich_help_panel=USING)
def score(
    model: ModelFolder,
    texts: Annotated[list[str] | None, typer.Argument(help="Sentences; by default the lines of standard input.")] = None,
) -> None:
    """Log-probabilities of sentences, in nats: exact for decoders, pseudo-log-likelihood for encoders."""
    import yanmo

    network, tokens = _load(model)
    lines = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    for line, nats in zip(lines, yanmo.score(network, tokens, lines), strict=True):
        print(f"{nats:.3f}\t{line}")


@app.command(rich_help_panel=LOOKING)
def verify(path: Annotated[Path, typer.Argument(help="A run, corpus, shard, checkpoint or model folder.")]) -> None:
    """Say whether what lies there is whole, and what is broken."""
    from yanmo.verify import verify as look

    looked, broken = look(path)
    for line in looked:
        print(f"looked at {line}")
    for line in broken:
        print(f"BROKEN: {line}")
    print(f"{len(broken)} broken" if broken else "all whole")
    if broken:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOKING)
def samples() -> None:
    """The samples that come with installed packages: corpora, and labelled ones for tasks."""
    from yanmo import display
    from yanmo.corpus.samples import PREFIX, SAMPLES
    from yanmo.labelled.samples import LABELLED, SHARES

    rows = [(PREFIX + name, f"{one.language} · {one.licence} · {one.description}") for name, one in SAMPLES.items()]
    display.table("samples", rows)
    rows = [(PREFIX + name, f"{one.language} · {one.kind} · {one.licence} · {one.description}") for name, one in LABELLED.items()]
    display.table(f"labelled samples, each also in parts: {PREFIX}NAME/{', /'.join(SHARES)}", rows)


@app.command(rich_help_panel=LOOKING)
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    import json

    from yanmo.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))


@app.command(rich_help_panel=LOOKING)
def env() -> None:
    """Print versions and what the processor can do, for bug reports."""
    from yanmo.environment import as_text, environment

    print(as_text(environment()))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"yanmo {__version__}")
        raise typer.Exit


def _typed() -> Iterator[str]:
    """What a person types, line by line, until the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return


def _load(model: Path) -> tuple[Network, Tokens]:
    """A model folder's network, on the best device there is, and its tokenizer."""
    import yanmo
    from yanmo.parallel import choose_device

    network, tokens = yanmo.load(model)
    return network.to(choose_device()), tokens


def _carry_out(path: Path, overrides: list[str] | None, until: str) -> None:
    from yanmo import display, run
    from yanmo.recipe import read_recipe
    from yanmo.summary import summary, task_tables

    recipe = read_recipe(path, overrides or [])
    with _interruptible():
        done = run.carry_out(recipe, until)
    if run.is_first():
        for name, lines in task_tables(done.recipe, done.folder):
            display.columns(name, lines)
            print()
        display.table(recipe.name, summary(done.recipe, done.folder, until))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Where a run was asked to stop and has saved all, says how it goes on; status 130."""
    try:
        yield
    except Interrupted:
        from yanmo import display, run

        again = "the same torchrun command" if run.are_several() else shlex.join(["yanmo", *sys.argv[1:]])
        if run.is_first():
            display.note(f"Stopped, and nothing is lost. To go on: {again}", "bold")
        raise typer.Exit(130) from None


def main() -> None:
    """The command line; a person's mistake ends with one clear message and status 2, without a traceback."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")    # bytes that are no text are refused by the line that they stand in
    try:
        app()
    except UserError as error:
        from rich.console import Console

        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"yanmo: {error}", style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        print("yanmo: stopped; finished stages are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
